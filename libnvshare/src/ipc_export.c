// The exporter's side of ipc.h.
#include "ipc.h"

#include "background.h"
#include "extent.h"
#include "gang.h"
#include "library.h"
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#define NVS_IPC_BACKLOG 16
#define NVS_EXPORT_PAUSE_MS 100 // while the process has no descriptor or memory left

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

// ---- Answering

// The block's extents as descriptors, and the answer that says so; the caller closes them. NULL: no such block.
static int *nvs_export_descriptors(const struct nvs_ipc_handle *handle, struct nvs_ipc_answer *answer,
                                   uint64_t **extent_bytes) {
    struct nvs_device *device = nvs_memory_device_of(handle->address);
    if (device == NULL)
        return NULL;
    const struct nvs_arena *arena = &device->memory.arena;
    int *descriptors = NULL;
    pthread_mutex_lock(&device->memory.lock);
    const struct nvs_block *block = nvs_arena_find_block(arena, handle->address);
    if (block != NULL && block->address == handle->address && block->identity == handle->identity && !block->ending &&
        (block->pins >> NVS_PIN_IPC & 1) != 0) {
        size_t first = nvs_arena_extent_from(arena, block->address);
        size_t end = nvs_arena_extent_from(arena, block->address + block->bytes - 1) + 1;
        descriptors = calloc(end - first, sizeof(*descriptors));
        *extent_bytes = calloc(end - first, sizeof(**extent_bytes));
        *answer = (struct nvs_ipc_answer){block->address - arena->extents[first]->address, block->asked_bytes, 0, 0};
        for (size_t i = first; descriptors != NULL && *extent_bytes != NULL && i < end; i++) {
            int descriptor = -1;
            if (nvs_real.cuMemExportToShareableHandle(&descriptor, arena->extents[i]->handle,
                                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) != CUDA_SUCCESS)
                break;
            descriptors[answer->extents] = descriptor;
            (*extent_bytes)[answer->extents++] = arena->extents[i]->bytes;
        }
        if (answer->extents < end - first) { // part of a block is of no use
            while (answer->extents > 0)
                close(descriptors[--answer->extents]);
            free(descriptors);
            descriptors = NULL;
        }
    }
    pthread_mutex_unlock(&device->memory.lock);
    return descriptors;
}

static bool nvs_send(int connection, const void *data, size_t size, int descriptor) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec part = {(void *)data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof(control.room);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    }
    return sendmsg(connection, &message, MSG_NOSIGNAL) == (ssize_t)size;
}

bool nvs_ipc_same_user(int connection) {
    struct ucred peer;
    socklen_t size = sizeof(peer);
    return getsockopt(connection, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();
}

static bool nvs_export_knows_secret(const struct nvs_ipc_handle *handle) {
    uint8_t differs = 0;
    for (size_t i = 0; i < NVS_IPC_SECRET_BYTES; i++)
        differs |= (uint8_t)(handle->secret[i] ^ nvs_export_secret[i]);
    return handle->magic == NVS_IPC_MAGIC && differs == 0;
}

static void nvs_export_answer(int connection) {
    struct nvs_ipc_handle handle;
    struct timeval within = {NVS_IPC_ANSWER_SECONDS, 0};
    bool trusted = nvs_ipc_same_user(connection);
    if (trusted && (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &within, sizeof(within)) != 0 ||
                    setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &within, sizeof(within)) != 0 ||
                    recv(connection, &handle, sizeof(handle), MSG_WAITALL) != (ssize_t)sizeof(handle)))
        return;
    if (!trusted || !nvs_export_knows_secret(&handle)) {
        nvs_log_once(NVS_LOG_WARN, "refused a process that asked for exported memory without the right to it");
        return;
    }
    struct nvs_ipc_answer answer = {0};
    uint64_t *extent_bytes = NULL;
    int *descriptors = nvs_export_descriptors(&handle, &answer, &extent_bytes);
    bool sent = nvs_send(connection, &answer, sizeof(answer), -1);
    for (uint32_t i = 0; i < answer.extents; i++) {
        sent = sent && nvs_send(connection, &extent_bytes[i], sizeof(extent_bytes[i]), descriptors[i]);
        close(descriptors[i]);
    }
    free(descriptors);
    free(extent_bytes);
}

static void *nvs_export_serve(void *argument) {
    int listener = (int)(intptr_t)argument;
    while (!nvs_library_leaving()) {
        int connection = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (connection < 0 && (errno == EBADF || errno == EINVAL || errno == ENOTSOCK)) {
            nvs_log(NVS_LOG_WARN, "the program closed the socket that its exported memory is handed over by");
            break;
        }
        if (connection < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                (void)poll(NULL, 0, NVS_EXPORT_PAUSE_MS);
            continue;
        }
        nvs_export_answer(connection);
        close(connection);
    }
    return NULL;
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
        serves = nvs_background_start(nvs_export_serve, (void *)(intptr_t)listener) == 0;
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
