#include "copy.h"

#include <stdlib.h>
#include <string.h>

#include "capture.h"
#include "move.h"

#define UNPINNED_FACTOR 4        /* a copy from or to pageable memory runs at a quarter of the link's speed */
#define LARGE_BYTES (1ULL << 20) /* more takes the host long enough for another thread */

uint64_t emu_duration_ns(uint64_t bytes, uint64_t bytes_per_second) {
    return (uint64_t)((unsigned __int128)bytes * 1000000000ULL / bytes_per_second);
}

/* ---- Effects
 * ------------------------------------------------------------------------------------------------------------- */

static uint64_t span_bytes(uint64_t width_bytes, uint64_t height, uint64_t pitch) {
    return height == 0 || width_bytes == 0 ? 0 : (height - 1) * pitch + width_bytes;
}

static unsigned copy_spans(const struct emu_work *work, struct emu_span *spans) {
    const struct emu_copy *copy = &work->copy;
    spans[0] = (struct emu_span){.start = copy->destination,
                                 .bytes = span_bytes(copy->width_bytes, copy->height, copy->destination_pitch),
                                 .alignment = 1,
                                 .how = EMU_TOUCH_COPY | EMU_TOUCH_WRITE,
                                 .on_device = copy->destination_is_device};
    spans[1] = (struct emu_span){.start = copy->source,
                                 .bytes = span_bytes(copy->width_bytes, copy->height, copy->source_pitch),
                                 .alignment = 1,
                                 .how = EMU_TOUCH_COPY,
                                 .on_device = copy->source_is_device};
    return 2;
}

static void apply_copy(const struct emu_work *work) {
    const struct emu_copy *copy = &work->copy;
    uint64_t source = work->staged != NULL ? (uint64_t)(uintptr_t)work->staged : copy->source;
    bool dense =
        copy->height == 1 || (copy->width_bytes == copy->source_pitch && copy->width_bytes == copy->destination_pitch);
    if (dense) {
        emu_move_bytes(copy->destination, source, copy->width_bytes * copy->height);
        return;
    }
    for (uint64_t row = 0; row < copy->height; row++) {
        emu_move_bytes(copy->destination + row * copy->destination_pitch, source + row * copy->source_pitch,
                       copy->width_bytes);
    }
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

static unsigned fill_spans(const struct emu_work *work, struct emu_span *spans) {
    const struct emu_fill *fill = &work->fill;
    spans[0] = (struct emu_span){.start = fill->destination,
                                 .bytes = span_bytes(fill->width * fill->element_bytes, fill->height, fill->pitch),
                                 .alignment = fill->element_bytes,
                                 .how = EMU_TOUCH_COPY | EMU_TOUCH_WRITE,
                                 .on_device = true};
    return 1;
}

static void apply_fill(const struct emu_work *work) {
    const struct emu_fill *fill = &work->fill;
    for (uint64_t row = 0; row < fill->height; row++) {
        uint64_t start = fill->destination + row * fill->pitch;
        if (fill->value == 0) {
            emu_move_zeros(start, fill->width * fill->element_bytes);
        } else {
            fill_row((char *)(uintptr_t)start, fill->width, fill->value, fill->element_bytes);
        }
    }
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

static bool covers(const struct emu_span *span, CUcontext context) {
    return emu_range_covers(span->start, span->bytes, context, span->how);
}

/* Host memory that nobody knows is pageable, and fine. */
static bool is_copyable(const struct emu_span *span, CUcontext context) {
    return span->on_device ? covers(span, context) : span->start != 0 && !in_window(span->start);
}

CUresult emu_copy_work(CUcontext context, const struct emu_copy *copy, struct emu_work *work) {
    uint64_t bytes = copy->width_bytes * copy->height;
    bool to_device = emu_is_device_address(copy->destination);
    bool from_device = emu_is_device_address(copy->source);
    *work = (struct emu_work){
        .type = CU_GRAPH_NODE_TYPE_MEMCPY, .spans = copy_spans, .apply = apply_copy, .is_large = bytes > LARGE_BYTES};
    work->copy = *copy;
    work->copy.destination_is_device = to_device;
    work->copy.source_is_device = from_device;
    struct emu_span spans[EMU_SPANS];
    copy_spans(work, spans);
    if (!is_copyable(&spans[0], context) || !is_copyable(&spans[1], context)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    uint64_t link = emu.cards->settings.link_bytes_per_second;
    if (to_device && from_device) {
        bool same_card = emu_range_find(copy->destination)->device == emu_range_find(copy->source)->device;
        work->engine = same_card ? EMU_COMPUTE : EMU_COPY_OUT;
        work->duration_ns = emu_duration_ns(bytes, same_card ? EMU_MEMORY_BYTES_PER_SECOND / 2 : link);
        return CUDA_SUCCESS;
    }
    const struct emu_span *host = &spans[to_device ? 1 : 0];
    bool pinned = emu_is_host_pinned(host->start, host->bytes);
    work->engine = to_device ? EMU_COPY_IN : EMU_COPY_OUT;
    work->duration_ns = emu_duration_ns(bytes, pinned ? link : link / UNPINNED_FACTOR);
    work->moved_bytes = to_device || from_device ? bytes : 0;
    return CUDA_SUCCESS;
}

CUresult emu_fill_work(CUcontext context, const struct emu_fill *fill, struct emu_work *work) {
    uint64_t bytes = fill->width * fill->element_bytes * fill->height;
    *work = (struct emu_work){.engine = EMU_COMPUTE,
                              .type = CU_GRAPH_NODE_TYPE_MEMSET,
                              .duration_ns = emu_duration_ns(bytes, EMU_MEMORY_BYTES_PER_SECOND / 2),
                              .spans = fill_spans,
                              .apply = apply_fill,
                              .is_large = bytes > LARGE_BYTES};
    work->fill = *fill;
    struct emu_span span;
    fill_spans(work, &span);
    return span.start % span.alignment == 0 && covers(&span, context) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

/* ---- Submitting
 * ------------------------------------------------------------------------------------------------------------ */

/* Whether the host side of a copy may change as soon as the call returns: pageable memory that the driver reads or
 * writes before it returns. */
static bool is_pageable(const struct emu_work *work) {
    struct emu_span spans[EMU_SPANS];
    copy_spans(work, spans);
    const struct emu_span *host = &spans[work->copy.destination_is_device ? 1 : 0];
    return !host->on_device && !emu_is_host_pinned(host->start, host->bytes);
}

/* Take a small pageable source aside, so that the call need not wait. */
static bool stage(struct emu_work *work) {
    const struct emu_copy *copy = &work->copy;
    uint64_t bytes = copy->width_bytes * copy->height;
    if (!copy->destination_is_device || copy->source_is_device || copy->height != 1 || bytes > EMU_STAGED_BYTES) {
        return false;
    }
    work->staged = malloc(bytes);
    if (work->staged != NULL) {
        memcpy(work->staged, (const void *)(uintptr_t)copy->source, bytes);
    }
    return work->staged != NULL;
}

CUresult emu_copy_submit(const struct emu_copy *copy, CUstream handle, bool synchronous) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    struct emu_work work;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (copy->width_bytes * copy->height == 0) {
        return emu_leave(CUDA_SUCCESS);
    }
    result = emu_copy_work(context, copy, &work);
    if (result != CUDA_SUCCESS) {
        return emu_leave(result);
    }
    if (!emu_stream_is_capturing(stream) && !synchronous && is_pageable(&work)) {
        synchronous = !stage(&work);
    }
    return emu_leave(emu_submit(stream, &work, synchronous));
}

CUresult emu_fill_submit(const struct emu_fill *fill, CUstream handle) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    struct emu_work work;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (fill->width * fill->height == 0) {
        return emu_leave(CUDA_SUCCESS);
    }
    result = emu_fill_work(context, fill, &work);
    return emu_leave(result == CUDA_SUCCESS ? emu_submit(stream, &work, false) : result);
}
