#include "library.h"

#include "capture.h"
#include "channel.h"
#include "control.h"
#include "device.h"
#include "driver.h"
#include "footprint.h"
#include "graph.h"
#include "host_pool.h"
#include "host_reserve.h"
#include "ipc.h"
#include "log.h"
#include "mapping.h"
#include "mempool.h"
#include "settings.h"
#include "slice.h"
#include "stream.h"
#include "swap.h"
#include "thread.h"

#include <pthread.h>
#include <stdatomic.h>

static pthread_once_t nvs_library_once = PTHREAD_ONCE_INIT;
static atomic_bool nvs_library_ends;

bool nvs_library_leaving(void) {
    return atomic_load_explicit(&nvs_library_ends, memory_order_relaxed);
}

static void nvs_atfork_prepare(void) {
    nvs_control_atfork_prepare();
    nvs_pool_atfork_prepare();
}

static void nvs_atfork_parent(void) {
    nvs_pool_atfork_parent();
    nvs_control_atfork_parent();
}

static void nvs_atfork_child(void) {
    nvs_pool_atfork_child();
    nvs_control_atfork_child();
    nvs_driver_atfork_child();
    nvs_capture_atfork_child();
    nvs_thread_atfork_child();
    nvs_stream_atfork_child();
    nvs_devices_atfork_child();
    nvs_footprint_atfork_child();
    nvs_host_reserve_atfork_child();
    nvs_graph_atfork_child();
    nvs_ipc_atfork_child();
    nvs_mempool_atfork_child();
    nvs_mapping_atfork_child();
    nvs_slice_atfork_child();
    nvs_channel_atfork_child();
}

static void nvs_library_prepare(void) {
    (void)nvs_settings_read();
    nvs_thread_prepare();
    if (pthread_atfork(nvs_atfork_prepare, nvs_atfork_parent, nvs_atfork_child) != 0)
        nvs_log(NVS_LOG_WARN, "pthread_atfork failed: children that use the GPU are not managed");
}

bool nvs_library_start(void) {
    pthread_once(&nvs_library_once, nvs_library_prepare);
    return nvs_driver_load(true);
}

__attribute__((destructor)) static void nvs_library_end(void) {
    atomic_store_explicit(&nvs_library_ends, true, memory_order_relaxed);
    for (size_t i = 0; i < nvs_device_count(); i++) {
        if (atomic_load(&nvs_devices[i].in_use))
            nvs_log(NVS_LOG_INFO, "%s: ends after %llu gated calls", nvs_devices[i].uuid,
                    (unsigned long long)nvs_device_launches(&nvs_devices[i]));
        pthread_mutex_lock(&nvs_devices[i].lock);
        pthread_cond_broadcast(&nvs_devices[i].changed);
        pthread_mutex_unlock(&nvs_devices[i].lock);
    }
    nvs_swap_leave();
    nvs_pool_leave();
    nvs_control_leave();
}
