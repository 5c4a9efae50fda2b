/* Legacy IPC: memory of cuMemAlloc in another process, by a handle of 64 bytes.
 *
 * The memory is a piece of the exporter's window, and the handle says where: the process, its descriptor of the
 * window's memfd, and the place in it. Who opens it finds the memfd in /proc, so both must see the same processes there
 * and be the same user. As with the real driver, what the exporter frees meanwhile is undefined; the exporter is
 * charged.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "driver.h"
#include "entry_points.h"

#define HANDLE_MAGIC 0x49504331U
#define PAGE_BYTES 4096ULL

struct handle {
    uint32_t magic;
    int32_t pid;
    int32_t descriptor;
    uint32_t reserved;
    uint64_t inode;
    uint64_t offset;
    uint64_t bytes;
    uint8_t uuid[16];
};

_Static_assert(sizeof(struct handle) <= CU_IPC_HANDLE_SIZE, "a handle fits");

EMU_EXPORT CUresult CUDAAPI cuIpcGetMemHandle(CUipcMemHandle *exported, CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct stat found;
    const struct emu_range *range = emu_range_find(pointer);
    if (exported == NULL || range == NULL || range->kind != EMU_RANGE_DEVICE || range->pool != NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (fstat(range->backing, &found) != 0) {
        return emu_leave(CUDA_ERROR_OPERATING_SYSTEM);
    }
    struct handle handle = {.magic = HANDLE_MAGIC,
                            .pid = (int32_t)getpid(),
                            .descriptor = range->backing,
                            .inode = found.st_ino,
                            .offset = range->offset,
                            .bytes = range->bytes};
    memcpy(handle.uuid, range->device->card->uuid, sizeof handle.uuid);
    memset(exported, 0, sizeof *exported);
    memcpy(exported, &handle, sizeof handle);
    return emu_leave(CUDA_SUCCESS);
}

static struct emu_device *device_of(const struct handle *handle) {
    for (int index = 0; index < emu.device_count; index++) {
        if (memcmp(emu.devices[index].card->uuid, handle->uuid, sizeof handle->uuid) == 0) {
            return &emu.devices[index];
        }
    }
    return NULL;
}

/* The exporter's memfd, or -1: it is gone, or out of sight. */
static int open_window(const struct handle *handle) {
    char path[64];
    struct stat found;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", (int)handle->pid, (int)handle->descriptor);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor >= 0 && (fstat(descriptor, &found) != 0 || found.st_ino != handle->inode)) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

/* What this context opened already by an equal handle. */
static struct emu_range *find_opened(CUcontext context, const struct handle *handle) {
    for (struct emu_range *range = emu_range_from(0); range != NULL; range = emu_range_from(range->start + 1)) {
        struct stat found;
        if (range->kind == EMU_RANGE_OPENED && range->context == context && range->offset == handle->offset &&
            fstat(range->backing, &found) == 0 && found.st_ino == handle->inode) {
            return range;
        }
    }
    return NULL;
}

static CUresult open_range(CUcontext context, const struct handle *handle, CUdeviceptr *pointer) {
    struct emu_device *device = device_of(handle);
    int descriptor = device == NULL ? -1 : open_window(handle);
    if (descriptor < 0) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    uint64_t bytes = handle->bytes;
    uint64_t before = handle->offset % PAGE_BYTES;
    char *pages = mmap(NULL, before + bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, descriptor,
                       (off_t)(handle->offset - before));
    struct emu_range range = {.start = (uint64_t)(uintptr_t)pages + before,
                              .bytes = bytes,
                              .kind = EMU_RANGE_OPENED,
                              .device = device,
                              .context = context,
                              .backing = descriptor,
                              .offset = handle->offset,
                              .opens = 1};
    if (pages == MAP_FAILED || emu_range_add(&range) == NULL) {
        if (pages != MAP_FAILED) {
            munmap(pages, before + bytes);
        }
        close(descriptor);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *pointer = range.start;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuIpcOpenMemHandle_v2(CUdeviceptr *pointer, CUipcMemHandle exported, unsigned flags) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct handle handle;
    memcpy(&handle, &exported, sizeof handle);
    if (pointer == NULL || flags != CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS || handle.magic != HANDLE_MAGIC) {
        return emu_leave(handle.magic != HANDLE_MAGIC ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE);
    }
    if (handle.pid == (int32_t)getpid()) {
        return emu_leave(CUDA_ERROR_INVALID_CONTEXT); /* a process has its own memory already */
    }
    struct emu_range *opened = find_opened(context, &handle);
    if (opened == NULL) {
        return emu_leave(open_range(context, &handle, pointer));
    }
    opened->opens++;
    *pointer = opened->start;
    return emu_leave(CUDA_SUCCESS);
}

void emu_ipc_close_range(const struct emu_range *range) {
    uint64_t before = range->offset % PAGE_BYTES;
    munmap((void *)(uintptr_t)(range->start - before), before + range->bytes);
    close(range->backing);
}

EMU_EXPORT CUresult CUDAAPI cuIpcCloseMemHandle(CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_range *range = emu_range_find(pointer);
    if (range == NULL || range->kind != EMU_RANGE_OPENED || range->start != pointer) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (--range->opens > 0) {
        return emu_leave(CUDA_SUCCESS);
    }
    result = emu_wait_context(range->context);
    range = emu_range_find(pointer);
    if (range != NULL && range->start == pointer && range->opens == 0) {
        emu_memory_free_range(range);
    }
    return emu_leave(result);
}
