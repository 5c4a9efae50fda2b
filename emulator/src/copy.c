#define _GNU_SOURCE
#include "copy.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "capture.h"

#define UNPINNED_FACTOR 4 /* a copy from or to pageable memory runs at a quarter of the link's speed */
#define PAGE_BYTES 4096ULL

uint64_t emu_duration_ns(uint64_t bytes, uint64_t bytes_per_second) {
    return (uint64_t)((unsigned __int128)bytes * 1000000000ULL / bytes_per_second);
}

/* ---- Moving bytes without touching what was never written
 * ---------------------------------------------------------------- */

static bool is_zero(const char *bytes, uint64_t count) {
    return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* Write zeros, but only where something else stands: absent pages stay absent. */
static void write_zeros(char *destination, uint64_t bytes) {
    while (bytes > 0) {
        uint64_t part = PAGE_BYTES - ((uintptr_t)destination & (PAGE_BYTES - 1));
        part = part < bytes ? part : bytes;
        if (!is_zero(destination, part)) {
            memset(destination, 0, part);
        }
        destination += part;
        bytes -= part;
    }
}

struct backing {
    int descriptor; /* EMU_NO_BACKING: plain memory */
    uint64_t offset;
    uint64_t bytes; /* from the address on, within the same range */
};

/* Under emu.lock. */
static struct backing backing_of(uint64_t address, uint64_t bytes) {
    struct backing found = {.descriptor = EMU_NO_BACKING, .bytes = bytes};
    const struct emu_range *range = emu_range_find(address);
    if (range != NULL) {
        uint64_t within = address - range->start;
        found.descriptor = range->backing;
        found.offset = range->offset + within;
        found.bytes = range->bytes - within < bytes ? range->bytes - within : bytes;
    }
    return found;
}

static void put_zeros(uint64_t destination, uint64_t bytes) {
    while (bytes > 0) {
        pthread_mutex_lock(&emu.lock);
        struct backing target = backing_of(destination, bytes);
        pthread_mutex_unlock(&emu.lock);
        /* Whole pages are dropped, the rest is overwritten by the kernel. */
        if (target.descriptor == EMU_NO_BACKING ||
            fallocate(target.descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)target.offset,
                      (off_t)target.bytes) != 0) {
            write_zeros((char *)(uintptr_t)destination, target.bytes);
        }
        destination += target.bytes;
        bytes -= target.bytes;
    }
}

/* Copy `bytes` of one backing piece, hole by hole. */
static void copy_piece(uint64_t destination, uint64_t source, const struct backing *from, uint64_t bytes) {
    uint64_t done = 0;
    while (done < bytes) {
        off_t position = (off_t)(from->offset + done);
        off_t data = lseek(from->descriptor, position, SEEK_DATA);
        uint64_t hole = data < 0 ? bytes - done : (uint64_t)(data - position);
        hole = hole < bytes - done ? hole : bytes - done;
        if (hole > 0) {
            put_zeros(destination + done, hole);
            done += hole;
            continue;
        }
        off_t end = lseek(from->descriptor, position, SEEK_HOLE);
        uint64_t part = end < 0 ? bytes - done : (uint64_t)(end - position);
        part = part < bytes - done ? part : bytes - done;
        memmove((void *)(uintptr_t)(destination + done), (const void *)(uintptr_t)(source + done), part);
        done += part;
    }
}

static void move_bytes(uint64_t destination, uint64_t source, uint64_t bytes) {
    while (bytes > 0) {
        pthread_mutex_lock(&emu.lock);
        struct backing from = backing_of(source, bytes);
        pthread_mutex_unlock(&emu.lock);
        if (from.descriptor == EMU_NO_BACKING || from.bytes < PAGE_BYTES) {
            memmove((void *)(uintptr_t)destination, (const void *)(uintptr_t)source, from.bytes);
        } else {
            copy_piece(destination, source, &from, from.bytes);
        }
        destination += from.bytes;
        source += from.bytes;
        bytes -= from.bytes;
    }
}

/* ---- Effects
 * ------------------------------------------------------------------------------------------------------------- */

static uint64_t span_bytes(uint64_t width_bytes, uint64_t height, uint64_t pitch) {
    return height == 0 || width_bytes == 0 ? 0 : (height - 1) * pitch + width_bytes;
}

static bool covers_locked(CUcontext context, uint64_t address, uint64_t bytes, unsigned how) {
    pthread_mutex_lock(&emu.lock);
    bool covers = emu_range_covers(address, bytes, context, how);
    pthread_mutex_unlock(&emu.lock);
    return covers;
}

static CUresult apply_copy(CUcontext context, const struct emu_work *work) {
    const struct emu_copy *copy = &work->copy;
    if ((copy->destination_is_device &&
         !covers_locked(context, copy->destination,
                        span_bytes(copy->width_bytes, copy->height, copy->destination_pitch),
                        EMU_TOUCH_COPY | EMU_TOUCH_WRITE)) ||
        (copy->source_is_device &&
         !covers_locked(context, copy->source, span_bytes(copy->width_bytes, copy->height, copy->source_pitch),
                        EMU_TOUCH_COPY))) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    uint64_t source = copy->staged != NULL ? (uint64_t)(uintptr_t)copy->staged : copy->source;
    bool dense =
        copy->height == 1 || (copy->width_bytes == copy->source_pitch && copy->width_bytes == copy->destination_pitch);
    if (dense) {
        move_bytes(copy->destination, source, copy->width_bytes * copy->height);
        return CUDA_SUCCESS;
    }
    for (uint64_t row = 0; row < copy->height; row++) {
        move_bytes(copy->destination + row * copy->destination_pitch, source + row * copy->source_pitch,
                   copy->width_bytes);
    }
    return CUDA_SUCCESS;
}

static void fill_row(char *row, uint64_t width, uint32_t value, uint32_t element_bytes) {
    if (element_bytes == 1) {
        memset(row, (int)(value & 0xff), width);
    } else if (element_bytes == 2) {
        for (uint64_t index = 0; index < width; index++) {
            ((uint16_t *)(void *)row)[index] = (uint16_t)value;
        }
    } else {
        for (uint64_t index = 0; index < width; index++) {
            ((uint32_t *)(void *)row)[index] = value;
        }
    }
}

static CUresult apply_fill(CUcontext context, const struct emu_work *work) {
    const struct emu_fill *fill = &work->fill;
    uint64_t width_bytes = fill->width * fill->element_bytes;
    if (!covers_locked(context, fill->destination, span_bytes(width_bytes, fill->height, fill->pitch),
                       EMU_TOUCH_COPY | EMU_TOUCH_WRITE)) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    for (uint64_t row = 0; row < fill->height; row++) {
        uint64_t start = fill->destination + row * fill->pitch;
        if (fill->value == 0) {
            put_zeros(start, width_bytes);
        } else {
            fill_row((char *)(uintptr_t)start, fill->width, fill->value, fill->element_bytes);
        }
    }
    return CUDA_SUCCESS;
}

/* ---- Describing
 * ------------------------------------------------------------------------------------------------------------ */

/* Host addresses that are not known to the driver are pageable; what lies in a card's window or in reserved addresses,
 * and is no memory, is an error. */
static bool in_window(uint64_t address) {
    if (emu_is_reserved(address)) {
        return true;
    }
    for (int index = 0; index < emu.device_count; index++) {
        const struct emu_device *device = &emu.devices[index];
        if (device->arena_ready && address - (uint64_t)(uintptr_t)device->arena.base < device->arena.bytes) {
            return true;
        }
    }
    return false;
}

CUresult emu_copy_work(CUcontext context, const struct emu_copy *copy, struct emu_work *work) {
    uint64_t bytes = copy->width_bytes * copy->height;
    uint64_t destination_span = span_bytes(copy->width_bytes, copy->height, copy->destination_pitch);
    uint64_t source_span = span_bytes(copy->width_bytes, copy->height, copy->source_pitch);
    bool to_device = emu_is_device_address(copy->destination);
    bool from_device = emu_is_device_address(copy->source);
    if ((to_device &&
         !emu_range_covers(copy->destination, destination_span, context, EMU_TOUCH_COPY | EMU_TOUCH_WRITE)) ||
        (from_device && !emu_range_covers(copy->source, source_span, context, EMU_TOUCH_COPY)) ||
        (!to_device && in_window(copy->destination)) || (!from_device && in_window(copy->source)) ||
        (!to_device && copy->destination == 0) || (!from_device && copy->source == 0)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *work = (struct emu_work){.type = CU_GRAPH_NODE_TYPE_MEMCPY, .apply = apply_copy, .copy = *copy};
    work->copy.destination_is_device = to_device;
    work->copy.source_is_device = from_device;
    uint64_t link = emu.cards->settings.link_bytes_per_second;
    if (to_device && from_device) {
        const struct emu_range *destination = emu_range_find(copy->destination);
        const struct emu_range *source = emu_range_find(copy->source);
        bool same_card = destination->device == source->device;
        work->engine = same_card ? EMU_COMPUTE : EMU_COPY_OUT;
        work->duration_ns = emu_duration_ns(bytes, same_card ? EMU_MEMORY_BYTES_PER_SECOND / 2 : link);
        return CUDA_SUCCESS;
    }
    bool pinned =
        emu_is_host_pinned(to_device ? copy->source : copy->destination, to_device ? source_span : destination_span);
    work->engine = to_device ? EMU_COPY_IN : EMU_COPY_OUT;
    work->duration_ns = emu_duration_ns(bytes, pinned ? link : link / UNPINNED_FACTOR);
    return CUDA_SUCCESS;
}

CUresult emu_fill_work(CUcontext context, const struct emu_fill *fill, struct emu_work *work) {
    uint64_t width_bytes = fill->width * fill->element_bytes;
    if (fill->destination % fill->element_bytes != 0 ||
        !emu_range_covers(fill->destination, span_bytes(width_bytes, fill->height, fill->pitch), context,
                          EMU_TOUCH_COPY | EMU_TOUCH_WRITE)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *work =
        (struct emu_work){.engine = EMU_COMPUTE, .type = CU_GRAPH_NODE_TYPE_MEMSET, .apply = apply_fill, .fill = *fill};
    work->duration_ns = emu_duration_ns(width_bytes * fill->height, EMU_MEMORY_BYTES_PER_SECOND / 2);
    return CUDA_SUCCESS;
}

/* ---- Submitting
 * ------------------------------------------------------------------------------------------------------------ */

/* Whether the host side of a copy may change as soon as the call returns: pageable memory that the driver reads or
 * writes before it returns. */
static bool is_pageable(const struct emu_work *work) {
    const struct emu_copy *copy = &work->copy;
    if (copy->destination_is_device && copy->source_is_device) {
        return false;
    }
    return copy->destination_is_device
               ? !emu_is_host_pinned(copy->source, span_bytes(copy->width_bytes, copy->height, copy->source_pitch))
               : !emu_is_host_pinned(copy->destination,
                                     span_bytes(copy->width_bytes, copy->height, copy->destination_pitch));
}

/* Take a small pageable source aside, so that the call need not wait. */
static bool stage(struct emu_work *work) {
    struct emu_copy *copy = &work->copy;
    uint64_t bytes = copy->width_bytes * copy->height;
    if (!copy->destination_is_device || copy->source_is_device || copy->height != 1 || bytes > EMU_STAGED_BYTES) {
        return false;
    }
    copy->staged = malloc(bytes);
    if (copy->staged != NULL) {
        memcpy(copy->staged, (const void *)(uintptr_t)copy->source, bytes);
    }
    return copy->staged != NULL;
}

CUresult emu_copy_submit(const struct emu_copy *copy, CUstream handle, bool synchronous) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    struct emu_work work;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_stream_find(context, handle, &stream);
    if (result == CUDA_SUCCESS && copy->width_bytes * copy->height > 0) {
        result = emu_copy_work(context, copy, &work);
        if (result == CUDA_SUCCESS && !emu_stream_is_capturing(stream) && !synchronous && is_pageable(&work)) {
            synchronous = !stage(&work);
        }
        if (result == CUDA_SUCCESS) {
            result = emu_submit(stream, &work, synchronous);
        }
    }
    return emu_leave(result);
}

CUresult emu_fill_submit(const struct emu_fill *fill, CUstream handle, bool synchronous) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    struct emu_work work;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_stream_find(context, handle, &stream);
    if (result == CUDA_SUCCESS && fill->width * fill->height > 0) {
        result = emu_fill_work(context, fill, &work);
        if (result == CUDA_SUCCESS) {
            result = emu_submit(stream, &work, synchronous);
        }
    }
    return emu_leave(result);
}
