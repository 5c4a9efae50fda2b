// The exporter's side of ipc.h.
#include "ipc.h"

#include "gang.h"
#include "ipc_serve.h"
#include "library.h"
#include "log.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define NVS_IPC_BACKLOG 16

// Under the lock, under which no other is taken:
static pthread_mutex_t nvs_export_lock = PTHREAD_MUTEX_INITIALIZER;
static int nvs_export_listener = -1;
static uint8_t nvs_export_secret[NVS_IPC_SECRET_BYTES]; // constant once nvs_exporter is set
static _Atomic uint64_t nvs_exporter;                   // 0: nothing is exported yet

unsigned nvs_ipc_socket(uint64_t exporter, struct sockaddr_un *address) {
    memset(address, 0, sizeof(*address)); // a name that begins with NUL is in no file system
    address->sun_family = AF_UNIX;
    int length = snprintf(address->sun_path + 1, sizeof(address->sun_path) - 1, "nvshare-ipc-%016llx",
                          (unsigned long long)exporter);
    return (unsigned)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length);
}

bool nvs_ipc_is_own(uint64_t exporter) {
    return exporter == atomic_load_explicit(&nvs_exporter, memory_order_acquire);
}

bool nvs_ipc_same_user(int connection) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

// ---- Exporting

static bool nvs_random(void *bytes, size_t size) {
    int source = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (source < 0)
        return false;
    bool filled = read(source, bytes, size) == (ssize_t)size;
    close(source);
    return filled;
}

// A socket that listens under a random name. False: none can be had.
static bool nvs_export_listen(uint64_t *exporter, int *listener) {
    struct sockaddr_un address;
    if (!nvs_random(exporter, sizeof(*exporter)))
        return false;
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (*listener < 0)
        return false;
    socklen_t length = nvs_ipc_socket(*exporter, &address);
    if (bind(*listener, (const struct sockaddr *)&address, length) == 0 && listen(*listener, NVS_IPC_BACKLOG) == 0)
        return true;
    close(*listener);
    return false;
}

// Serves, if it does not yet. Two threads that come together both listen; the first serves.
static bool nvs_export_start(void) {
    uint8_t secret[NVS_IPC_SECRET_BYTES];
    uint64_t exporter;
    int listener;
    if (atomic_load_explicit(&nvs_exporter, memory_order_acquire) != 0)
        return true;
    if (!nvs_random(secret, sizeof(secret)) || !nvs_export_listen(&exporter, &listener))
        return false;
    pthread_mutex_lock(&nvs_export_lock);
    bool serves = nvs_export_listener >= 0;
    if (!serves) {
        memcpy(nvs_export_secret, secret, sizeof(secret));
        serves = nvs_ipc_serve(listener, secret);
        if (serves) {
            nvs_export_listener = listener;
            atomic_store_explicit(&nvs_exporter, exporter, memory_order_release);
        }
    }
    bool used = nvs_export_listener == listener;
    pthread_mutex_unlock(&nvs_export_lock);
    if (!used)
        close(listener);
    return serves;
}

// The block is there and stays: its handle.
static CUresult nvs_export_block(struct nvs_block *block, void *argument) {
    struct nvs_ipc_handle *handle = argument;
    if (block->pool != NULL)
        return CUDA_ERROR_INVALID_VALUE; // as for the driver's own pools
    handle->address = block->address;
    handle->bytes = block->asked_bytes;
    handle->identity = block->identity;
    return CUDA_SUCCESS;
}

NVS_EXPORT CUresult cuIpcGetMemHandle(CUipcMemHandle *pHandle, CUdeviceptr dptr) {
    struct nvs_device *device = nvs_memory_device_of(dptr);
    if (device == NULL || pHandle == NULL) {
        if (!nvs_library_start() || nvs_real.cuIpcGetMemHandle == NULL)
            return CUDA_ERROR_NOT_SUPPORTED;
        return nvs_real.cuIpcGetMemHandle(pHandle, dptr);
    }
    if (!device->memory.exports || nvs_real.cuMemExportToShareableHandle == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    if (!nvs_export_start()) {
        nvs_log(NVS_LOG_ERROR, "memory cannot be exported: no socket to hand it over");
        return CUDA_ERROR_OPERATING_SYSTEM;
    }
    struct nvs_ipc_handle handle = {.magic = NVS_IPC_MAGIC,
                                    .exporter = atomic_load_explicit(&nvs_exporter, memory_order_acquire),
                                    .device = (uint32_t)device->ordinal};
    memcpy(handle.secret, nvs_export_secret, sizeof(handle.secret));
    CUresult result = nvs_memory_pin(device, dptr, 1, NVS_PIN_IPC, nvs_export_block, &handle);
    if (result != CUDA_SUCCESS)
        return result;
    nvs_gang_note(device, "memory for another process");
    memcpy(pHandle, &handle, sizeof(handle));
    return CUDA_SUCCESS;
}

void nvs_ipc_export_atfork_child(void) {
    pthread_mutex_init(&nvs_export_lock, NULL);
    if (nvs_export_listener >= 0)
        close(nvs_export_listener); // the parent goes on listening
    nvs_export_listener = -1;
    atomic_store_explicit(&nvs_exporter, 0, memory_order_relaxed);
}
