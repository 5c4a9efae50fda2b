// Threads that take, fill, check and give slots for a second, while another one changes the wish and makes and ends
// contexts, and a child is forked now and then. Exits 0 if nobody found another one's bytes in its slots.
#include "driver_table.h"
#include "host_pool.h"
#include "settings.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 4
#define COUNT 3
#define EDGE 4096

static atomic_bool stop;
static atomic_uint wrong;

static void *use_slots(void *argument) {
    unsigned char mark = (unsigned char)(uintptr_t)argument;
    void *slots[COUNT];
    char reason[NVS_POOL_REASON_SIZE];
    for (unsigned turn = 0; !atomic_load(&stop); turn++) {
        size_t count = 1 + (turn + mark) % COUNT;
        if (!nvs_pool_take(NULL, count, slots, reason)) {
            fprintf(stderr, "%s\n", reason);
            atomic_fetch_add(&wrong, 1);
            return NULL;
        }
        for (size_t i = 0; i < count; i++)
            memset(slots[i], mark, EDGE);
        for (size_t i = 0; i < count; i++)
            for (size_t byte = 0; byte < EDGE; byte++)
                if (((unsigned char *)slots[i])[byte] != mark)
                    atomic_fetch_add(&wrong, 1);
        nvs_pool_give(count, slots);
    }
    return NULL;
}

static void *change(void *unused) {
    for (unsigned turn = 0; !atomic_load(&stop); turn++) {
        CUcontext context;
        if (cuCtxCreate_v2(&context, 0, 0) != CUDA_SUCCESS)
            abort();
        nvs_pool_prepare(context, (turn % 4) * 4 * NVS_POOL_SLOT_BYTES);
        (void)nvs_pool_room_bytes();
        (void)nvs_pool_ready_bytes();
        const struct timespec pause = {.tv_nsec = 3000000};
        nanosleep(&pause, NULL);
        nvs_pool_context_hold();
        nvs_pool_context_release(context, cuCtxDestroy_v2(context) == CUDA_SUCCESS);
    }
    return unused;
}

int main(void) {
    (void)nvs_settings_read();
    fill_driver_table();
    pthread_atfork(nvs_pool_atfork_prepare, nvs_pool_atfork_parent, nvs_pool_atfork_child);
    pthread_t threads[THREADS + 1];
    pthread_create(&threads[THREADS], NULL, change, NULL);
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, use_slots, (void *)(i + 1));
    for (int i = 0; i < 5; i++) {
        const struct timespec pause = {.tv_nsec = 200000000};
        nanosleep(&pause, NULL);
        pid_t child = fork();
        if (child == 0)
            _exit(nvs_pool_ready_bytes() != 0);
        int status = 1;
        if (waitpid(child, &status, 0) != child || status != 0)
            atomic_fetch_add(&wrong, 1);
    }
    atomic_store(&stop, true);
    for (int i = 0; i <= THREADS; i++)
        pthread_join(threads[i], NULL);
    nvs_pool_leave();
    return atomic_load(&wrong) == 0 ? 0 : 1;
}
