/* Linear device memory, charged to the card. */
#include "driver.h"

#include "capture.h"
#include "entry_points.h"
#include "managed.h"

#define PITCH_ALIGNMENT 512ULL
#define WINDOW_FACTOR 2 /* addresses a byte of capacity, so that fragments do not matter */

/* ---- A device's bytes
 * ------------------------------------------------------------------------------------------------ */

CUresult emu_device_open(struct emu_device *device) {
    if (device->slot < 0) {
        device->slot = emu_card_join(emu.cards, device->index);
        if (device->slot < 0) {
            return CUDA_ERROR_OPERATING_SYSTEM;
        }
    }
    if (!device->arena_ready) {
        device->arena_ready =
            emu_arena_init(&device->arena, "nvshare-emulator-card", WINDOW_FACTOR * device->card->total_bytes);
    }
    return device->arena_ready ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}

CUresult emu_device_take(struct emu_device *device, enum emu_use use, uint64_t bytes, uint64_t *offset) {
    uint64_t new_bytes = 0;
    if (!emu_arena_take(&device->arena, bytes, offset, &new_bytes)) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    struct emu_card *card = device->card;
    emu_card_lock(card);
    bool reserved = emu_card_reserve(card, device->slot, use, new_bytes);
    emu_card_unlock(card);
    while (!reserved && emu_managed_make_room(device)) {
        emu_card_lock(card);
        reserved = emu_card_reserve(card, device->slot, use, new_bytes);
        emu_card_unlock(card);
    }
    if (!reserved) {
        emu_arena_give(&device->arena, *offset);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    return CUDA_SUCCESS;
}

void emu_device_give(struct emu_device *device, enum emu_use use, uint64_t offset) {
    uint64_t freed_bytes = emu_arena_give(&device->arena, offset);
    emu_card_lock(device->card);
    emu_card_release(device->card, device->slot, use, freed_bytes);
    emu_card_unlock(device->card);
}

/* ---- Linear device memory
 * -------------------------------------------------------------------------------------------- */

CUresult emu_memory_allocate(CUcontext context, uint64_t bytes, CUmemoryPool pool, CUdeviceptr *pointer) {
    uint64_t offset = 0;
    struct emu_device *device = context->device;
    CUresult result = emu_device_take(device, EMU_USE_LINEAR, bytes, &offset);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct emu_range range = {.start = (uint64_t)(uintptr_t)device->arena.base + offset,
                              .bytes = bytes,
                              .kind = EMU_RANGE_DEVICE,
                              .device = device,
                              .context = context->green ? &device->primary : context,
                              .arena = &device->arena,
                              .backing = device->arena.descriptor,
                              .offset = offset,
                              .pool = pool};
    if (emu_range_add(&range) == NULL) {
        emu_device_give(device, EMU_USE_LINEAR, offset);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *pointer = range.start;
    return CUDA_SUCCESS;
}

void emu_memory_free_range(const struct emu_range *range) {
    struct emu_range freed = *range;
    emu_range_remove(freed.start);
    if (freed.kind == EMU_RANGE_DEVICE) {
        if (freed.pool != NULL) {
            emu_pool_returned(freed.pool, freed.bytes);
        }
        emu_device_give(freed.device, EMU_USE_LINEAR, freed.offset);
    } else if (freed.kind == EMU_RANGE_OPENED) {
        emu_ipc_close_range(&freed);
    } else if (freed.kind == EMU_RANGE_PINNED) {
        emu_arena_give(freed.arena, freed.offset);
    } else if (freed.kind == EMU_RANGE_MANAGED) {
        emu_managed_detach(&freed);
        emu_arena_give(freed.arena, freed.offset);
    }
}

EMU_EXPORT CUresult CUDAAPI cuMemAlloc(CUdeviceptr *pointer, size_t bytes) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (pointer == NULL || bytes == 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = emu_capture_check_unsafe();
    return emu_leave(result != CUDA_SUCCESS ? result : emu_memory_allocate(context, bytes, NULL, pointer));
}

EMU_EXPORT CUresult CUDAAPI cuMemAllocPitch(CUdeviceptr *pointer, size_t *pitch, size_t width, size_t height,
                                            unsigned element_bytes) {
    if (pitch == NULL || width == 0 || height == 0 || width > SIZE_MAX / 2 / height) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (element_bytes != 4 && element_bytes != 8 && element_bytes != 16) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *pitch = (width + PITCH_ALIGNMENT - 1) & ~(PITCH_ALIGNMENT - 1);
    return cuMemAlloc(pointer, *pitch * height);
}

EMU_EXPORT CUresult CUDAAPI cuMemFree(CUdeviceptr pointer) {
    CUcontext context = NULL;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (pointer == 0) {
        return emu_leave(CUDA_SUCCESS);
    }
    const struct emu_range *range = emu_range_find(pointer);
    if (range == NULL || range->start != pointer ||
        (range->kind != EMU_RANGE_DEVICE && range->kind != EMU_RANGE_MANAGED)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    context = range->context;
    result = emu_capture_check_unsafe();
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    result = emu_wait_context(context);
    range = emu_range_find(pointer);
    if (range != NULL && range->start == pointer) {
        emu_memory_free_range(range);
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetInfo(size_t *free_bytes, size_t *total_bytes) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (free_bytes == NULL || total_bytes == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    struct emu_card *card = context->device->card;
    emu_card_lock(card);
    emu_card_reap(card, emu_now_ns(), 0);
    *free_bytes = card->total_bytes - card->used_bytes;
    *total_bytes = card->total_bytes;
    emu_card_unlock(card);
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuMemGetAddressRange(CUdeviceptr *base, size_t *bytes, CUdeviceptr pointer) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    const struct emu_range *range = emu_range_find(pointer);
    if (range == NULL) {
        return emu_leave(CUDA_ERROR_NOT_FOUND);
    }
    if (base != NULL) {
        *base = range->start;
    }
    if (bytes != NULL) {
        *bytes = range->bytes;
    }
    return emu_leave(CUDA_SUCCESS);
}
