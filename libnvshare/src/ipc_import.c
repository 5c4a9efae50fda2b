// The importer's side of ipc.h.
#include "ipc.h"

#include "gang.h"
#include "library.h"
#include "log.h"
#include "stream.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

// More than any device has: what an answer may claim.
#define NVS_IMPORT_MAX_BYTES (UINT64_C(1) << 46)

struct nvs_import_part {
    CUmemGenericAllocationHandle handle;
    uint64_t bytes;
    bool mapped;
};

struct nvs_import {
    struct nvs_import *next;
    uint64_t exporter, exported_address, identity; // what the handle named
    CUdeviceptr reservation;
    uint64_t reserved_bytes;
    CUdeviceptr address; // of the block
    uint64_t bytes;
    uint64_t own_identity;
    CUcontext context; // that it was opened in
    struct nvs_device *device;
    int connection; // the exporter counts the memory until it is closed
    unsigned uses;
    uint32_t parts;
    struct nvs_import_part part[];
};

// Under the lock; it may be held over calls of the driver. Streams' and devices' locks may be taken
// under it, and it under none.
static pthread_mutex_t nvs_import_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_import *nvs_imports;
static uint64_t nvs_import_identity = UINT64_C(1) << 56; // of the last one; apart from those of blocks
static _Atomic uint32_t nvs_import_count;

// ---- Asking the exporter

static int nvs_import_connect(uint64_t exporter) {
    struct sockaddr_un address;
    struct timeval within = {NVS_IPC_ANSWER_SECONDS, 0};
    socklen_t length = nvs_ipc_socket(exporter, &address);
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection >= 0 && (setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &within, sizeof(within)) != 0 ||
                            setsockopt(connection, SOL_SOCKET, SO_SNDTIMEO, &within, sizeof(within)) != 0 ||
                            connect(connection, (const struct sockaddr *)&address, length) != 0 ||
                            !nvs_ipc_same_user(connection))) { // the name is free for all once its exporter is gone
        close(connection);
        return -1;
    }
    return connection;
}

// One extent: its bytes and its descriptor, or -1.
static int nvs_import_receive(int connection, uint64_t *bytes) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    struct iovec part = {bytes, sizeof(*bytes)};
    struct msghdr message = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.room, .msg_controllen = sizeof(control.room)};
    int descriptor = -1;
    ssize_t received = recvmsg(connection, &message, MSG_CMSG_CLOEXEC | MSG_WAITALL);
    const struct cmsghdr *header = received < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS &&
        header->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&descriptor, CMSG_DATA(header), sizeof(int));
    bool whole = received == (ssize_t)sizeof(*bytes) && *bytes > 0 && *bytes % NVS_GRANULE_BYTES == 0 &&
                 *bytes <= NVS_IMPORT_MAX_BYTES;
    if (!whole && descriptor >= 0) {
        close(descriptor);
        descriptor = -1;
    }
    return descriptor;
}

// All of the exporter's answer, its extents imported but not mapped. NULL: `result` says why.
static struct nvs_import *nvs_import_ask(const struct nvs_ipc_handle *handle, CUresult *result) {
    struct nvs_ipc_answer answer;
    struct nvs_import *import = NULL;
    int connection = nvs_import_connect(handle->exporter);
    *result = CUDA_ERROR_INVALID_VALUE; // as the driver says of a handle whose process has gone
    if (connection < 0)
        return NULL;
    if (send(connection, handle, sizeof(*handle), MSG_NOSIGNAL) == (ssize_t)sizeof(*handle) &&
        recv(connection, &answer, sizeof(answer), MSG_WAITALL) == (ssize_t)sizeof(answer) && answer.extents > 0 &&
        answer.extents <= NVS_IPC_EXTENTS_MAX)
        import = calloc(1, sizeof(*import) + answer.extents * sizeof(import->part[0]));
    bool whole = import != NULL;
    for (uint32_t i = 0; whole && i < answer.extents; i++) {
        struct nvs_import_part *part = &import->part[i];
        int descriptor = nvs_import_receive(connection, &part->bytes);
        whole = descriptor >= 0;
        if (!whole)
            break;
        *result = nvs_real.cuMemImportFromShareableHandle(&part->handle, (void *)(intptr_t)descriptor,
                                                          CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
        close(descriptor);
        whole = *result == CUDA_SUCCESS;
        if (!whole)
            break;
        import->parts++;
        import->reserved_bytes += part->bytes;
        whole = import->reserved_bytes <= NVS_IMPORT_MAX_BYTES;
    }
    if (import != NULL) {
        whole = whole && answer.bytes > 0 && answer.offset_bytes < import->reserved_bytes &&
                answer.bytes <= import->reserved_bytes - answer.offset_bytes;
        import->address = answer.offset_bytes; // until it is mapped
        import->bytes = answer.bytes;
        import->connection = connection;
    }
    if (whole)
        return import;
    close(connection);
    if (*result == CUDA_SUCCESS) // the exporter ended in the middle of its answer, or answers nonsense
        *result = CUDA_ERROR_INVALID_VALUE;
    for (uint32_t i = 0; import != NULL && i < import->parts; i++)
        (void)nvs_real.cuMemRelease(import->part[i].handle);
    free(import);
    return NULL;
}

// ---- Mapping

// Undoes what there is of it.
static void nvs_import_drop(struct nvs_import *import) {
    CUdeviceptr at = import->reservation;
    bool undone = true;
    for (uint32_t i = 0; i < import->parts; i++) {
        struct nvs_import_part *part = &import->part[i];
        undone = (!part->mapped || nvs_real.cuMemUnmap(at, part->bytes) == CUDA_SUCCESS) && undone;
        undone = nvs_real.cuMemRelease(part->handle) == CUDA_SUCCESS && undone;
        at += part->bytes;
    }
    if (import->reservation != 0)
        undone = nvs_real.cuMemAddressFree(import->reservation, import->reserved_bytes) == CUDA_SUCCESS && undone;
    if (!undone)
        nvs_log_once(NVS_LOG_ERROR, "the driver does not unmap imported memory: its addresses stay taken");
    (void)shutdown(import->connection, SHUT_RDWR); // children of this process may have it open, too
    close(import->connection);
    free(import);
}

static CUresult nvs_import_map(struct nvs_import *import, int device) {
    CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = device},
                              .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUresult result =
        nvs_real.cuMemAddressReserve(&import->reservation, import->reserved_bytes, NVS_GRANULE_BYTES, 0, 0);
    if (result != CUDA_SUCCESS)
        import->reservation = 0;
    CUdeviceptr at = import->reservation;
    for (uint32_t i = 0; i < import->parts && result == CUDA_SUCCESS; i++) {
        result = nvs_real.cuMemMap(at, import->part[i].bytes, 0, import->part[i].handle, 0);
        import->part[i].mapped = result == CUDA_SUCCESS;
        at += import->part[i].bytes;
    }
    if (result == CUDA_SUCCESS)
        result = nvs_real.cuMemSetAccess(import->reservation, import->reserved_bytes, &access, 1);
    import->address += import->reservation;
    return result;
}

// ---- Opening and closing

// One more use of what is open already. False: it is not. Caller holds the lock.
static bool nvs_import_again(const struct nvs_ipc_handle *handle, CUcontext context, CUdeviceptr *address) {
    for (struct nvs_import *known = nvs_imports; known != NULL; known = known->next)
        if (known->exporter == handle->exporter && known->exported_address == handle->address &&
            known->identity == handle->identity && known->context == context) {
            known->uses++;
            *address = known->address;
            return true;
        }
    return false;
}

// The exporter is asked without the lock: it may take its time.
static CUresult nvs_import_open(const struct nvs_ipc_handle *handle, struct nvs_device *device, CUcontext context,
                                CUdeviceptr *address) {
    CUresult result;
    pthread_mutex_lock(&nvs_import_lock);
    bool open = nvs_import_again(handle, context, address);
    pthread_mutex_unlock(&nvs_import_lock);
    if (open)
        return CUDA_SUCCESS;
    struct nvs_import *import = nvs_import_ask(handle, &result);
    if (import == NULL)
        return result;
    result = nvs_import_map(import, device->ordinal);
    if (result == CUDA_SUCCESS) {
        pthread_mutex_lock(&nvs_import_lock);
        open = nvs_import_again(handle, context, address); // another thread was quicker
        if (!open) {
            import->exporter = handle->exporter;
            import->exported_address = handle->address;
            import->identity = handle->identity;
            import->own_identity = ++nvs_import_identity;
            import->context = context;
            import->device = device;
            import->uses = 1;
            import->next = nvs_imports;
            nvs_imports = import;
            atomic_fetch_add_explicit(&nvs_import_count, 1, memory_order_release);
            *address = import->address;
        }
        pthread_mutex_unlock(&nvs_import_lock);
    }
    if (result != CUDA_SUCCESS || open)
        nvs_import_drop(import);
    return result;
}

static CUresult nvs_import_handle(CUdeviceptr *pdptr, const struct nvs_ipc_handle *handle, unsigned flags) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_device_current(&context);
    if (device == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (pdptr == NULL || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS)
        return CUDA_ERROR_INVALID_VALUE;
    if (nvs_ipc_is_own(handle->exporter))
        return CUDA_ERROR_INVALID_CONTEXT; // a process cannot open what it exports
    if (nvs_real.cuMemImportFromShareableHandle == NULL || nvs_real.cuMemAddressReserve == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_import_open(handle, device, context, pdptr);
    if (result == CUDA_SUCCESS)
        nvs_gang_note(device, "memory of another process");
    return result;
}

#define NVS_IPC_OPEN(name)                                                                                             \
    NVS_EXPORT CUresult name(CUdeviceptr *pdptr, CUipcMemHandle handle, unsigned int Flags) {                          \
        struct nvs_ipc_handle ours;                                                                                    \
        memcpy(&ours, &handle, sizeof(ours));                                                                          \
        if (!nvs_library_start())                                                                                      \
            return CUDA_ERROR_NOT_INITIALIZED;                                                                         \
        if (ours.magic == NVS_IPC_MAGIC)                                                                               \
            return nvs_import_handle(pdptr, &ours, Flags);                                                             \
        return nvs_real.name == NULL ? CUDA_ERROR_NOT_SUPPORTED : nvs_real.name(pdptr, handle, Flags);                 \
    }

NVS_IPC_OPEN(cuIpcOpenMemHandle)
NVS_IPC_OPEN(cuIpcOpenMemHandle_v2)

// The link to the import at this address, or NULL. Caller holds the lock.
static struct nvs_import **nvs_import_find(CUdeviceptr address) {
    for (struct nvs_import **link = &nvs_imports; *link != NULL; link = &(*link)->next)
        if (address - (*link)->address < (*link)->bytes)
            return link;
    return NULL;
}

static void nvs_import_remove(struct nvs_import **link) {
    struct nvs_import *import = *link;
    *link = import->next;
    atomic_fetch_sub_explicit(&nvs_import_count, 1, memory_order_release);
    nvs_import_drop(import);
}

NVS_EXPORT CUresult cuIpcCloseMemHandle(CUdeviceptr dptr) {
    bool ours = false;
    CUresult result = CUDA_SUCCESS;
    if (!nvs_library_start())
        return CUDA_ERROR_NOT_INITIALIZED;
    pthread_mutex_lock(&nvs_import_lock);
    struct nvs_import **link = nvs_import_find(dptr);
    if (link != NULL && (*link)->address == dptr) {
        ours = true;
        if ((*link)->uses > 1)
            (*link)->uses--;
        else if (nvs_stream_finish((*link)->device, true))
            nvs_import_remove(link);
        else
            result = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; // what is being captured may name it
    }
    pthread_mutex_unlock(&nvs_import_lock);
    if (ours)
        return result;
    return nvs_real.cuIpcCloseMemHandle == NULL ? CUDA_ERROR_INVALID_VALUE : nvs_real.cuIpcCloseMemHandle(dptr);
}

bool nvs_ipc_facts(CUdeviceptr address, struct nvs_device **device, struct nvs_block_facts *facts) {
    if (atomic_load_explicit(&nvs_import_count, memory_order_acquire) == 0)
        return false;
    pthread_mutex_lock(&nvs_import_lock);
    struct nvs_import **link = nvs_import_find(address);
    if (link != NULL) {
        *device = (*link)->device;
        *facts = (struct nvs_block_facts){.address = (*link)->address,
                                          .bytes = (*link)->bytes,
                                          .identity = (*link)->own_identity,
                                          .context = (*link)->context};
    }
    pthread_mutex_unlock(&nvs_import_lock);
    return link != NULL;
}

void nvs_ipc_context_ended(CUcontext context) {
    pthread_mutex_lock(&nvs_import_lock);
    struct nvs_import **link = &nvs_imports;
    while (*link != NULL) {
        if ((*link)->context == context)
            nvs_import_remove(link);
        else
            link = &(*link)->next;
    }
    pthread_mutex_unlock(&nvs_import_lock);
}

void nvs_ipc_atfork_child(void) {
    nvs_ipc_export_atfork_child();
    pthread_mutex_init(&nvs_import_lock, NULL);
    nvs_imports = NULL; // the parent's, with its contexts
    atomic_store_explicit(&nvs_import_count, 0, memory_order_relaxed);
}
