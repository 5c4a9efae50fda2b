#include <stdlib.h>

#include "pipeline.h"

static uint64_t maximum(uint64_t left, uint64_t right) {
    return left > right ? left : right;
}

/* ---- Markers --------------------------------------------------------------------------------------------------------
 */

struct emu_marker *emu_marker_new(void) {
    struct emu_marker *marker = calloc(1, sizeof *marker);
    if (marker != NULL) {
        marker->references = 1;
        marker->engine = EMU_NO_ENGINE;
    }
    return marker;
}

void emu_marker_drop(struct emu_marker *marker) {
    if (marker != NULL && --marker->references == 0) {
        free(marker);
    }
}

void emu_marker_resolve(struct emu_marker *marker, uint64_t time_ns) {
    marker->complete = true;
    marker->time_ns = time_ns;
    if (emu.waiters > 0) {
        pthread_cond_broadcast(&emu.changed);
    }
}

/* ---- Issuing: from a stream to the engines
 * --------------------------------------------------------------------------- */

static bool submit(struct emu_device *device, struct CUstream_st *stream, struct emu_op *op) {
    struct emu_channel *channel = &device->channels[op->work.engine];
    struct emu_card *card = device->card;
    struct emu_engine *engine = &card->engines[op->work.engine];
    uint64_t number = 0;
    if (op->work.prepare != NULL) {
        op->work.prepare(stream->context, &op->work);
        op->work.prepare = NULL;
    }
    uint64_t ready_ns = maximum(op->enqueued_ns, stream->ready_ns);
    bool computes = op->work.engine == EMU_COMPUTE;
    emu_card_lock(card);
    bool has_room = engine->queues[device->slot].submitted - channel->seen < EMU_RING_ITEMS;
    if (has_room && computes) {
        emu_card_count_wake(card, device->slot, ready_ns);
    }
    bool submitted = has_room && emu_engine_submit(engine, device->slot, ready_ns, op->work.duration_ns,
                                                   op->work.moved_bytes, &number);
    if (submitted && computes) {
        card->clients[device->slot].launches++;
    }
    emu_card_unlock(card);
    if (submitted) {
        channel->in_flight[number % EMU_RING_ITEMS] = op;
        stream->frontier_engine = (int)op->work.engine;
        stream->frontier_number = number;
    }
    return submitted;
}

/* Whether the operation at the issue cursor may be passed: the engine's own order then keeps the stream's. */
static bool issue_one(struct CUstream_st *stream) {
    struct emu_op *op = stream->issue;
    struct emu_device *device = stream->context->device;
    switch (op->kind) {
    case EMU_OP_WORK:
        return (stream->frontier_engine == EMU_NO_ENGINE ? stream->head == op
                                                         : stream->frontier_engine == (int)op->work.engine) &&
               submit(device, stream, op);
    case EMU_OP_RECORD:
        op->marker->device = device;
        op->marker->engine = stream->frontier_engine;
        op->marker->number = stream->frontier_number;
        return true;
    case EMU_OP_WAIT: {
        const struct emu_marker *marker = op->marker;
        if (marker->complete) {
            stream->ready_ns = maximum(stream->ready_ns, marker->time_ns);
            return true;
        }
        if (marker->engine == EMU_NO_ENGINE || marker->device != device ||
            (stream->frontier_engine == EMU_NO_ENGINE ? stream->head != op
                                                      : stream->frontier_engine != marker->engine)) {
            return false;
        }
        stream->frontier_number = stream->frontier_engine == EMU_NO_ENGINE
                                      ? marker->number
                                      : maximum(stream->frontier_number, marker->number);
        stream->frontier_engine = marker->engine;
        return true;
    }
    case EMU_OP_CALL:
    case EMU_OP_HOST:
        return false;
    }
    return false;
}

bool emu_issue(CUstream stream) {
    bool changed = false;
    while (stream->issue != NULL && issue_one(stream)) {
        stream->issue = stream->issue->next;
        changed = true;
    }
    return changed;
}
