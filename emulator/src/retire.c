#include <stdlib.h>

#include "pipeline.h"

static uint64_t maximum(uint64_t left, uint64_t right) {
    return left > right ? left : right;
}

/* ---- Retiring: effects and markers, in stream order
 * ------------------------------------------------------------------ */

void emu_work_dispose(struct emu_work *work) {
    free(work->staged);
    work->staged = NULL;
}

static void pop_head(struct CUstream_st *stream) {
    struct emu_op *op = stream->head;
    stream->head = op->next;
    stream->length--;
    if (stream->head == NULL) {
        stream->tail = NULL;
    }
    if (stream->issue == op) {
        stream->issue = op->next;
    }
    if (stream->head == stream->issue) {
        stream->frontier_engine = EMU_NO_ENGINE;
    }
    if (op->kind == EMU_OP_WORK) {
        emu_work_dispose(&op->work);
    }
    emu_marker_drop(op->marker);
    free(op);
    if (stream->length == EMU_STREAM_LENGTH - 1 || stream->head == NULL) {
        pthread_cond_broadcast(&emu.changed);
    }
}

bool emu_retire(CUstream stream, bool with_effects, bool *unlocked) {
    bool changed = false;
    while (stream->head != NULL && !stream->retiring) {
        struct emu_op *op = stream->head;
        switch (op->kind) {
        case EMU_OP_WORK:
            if (!op->done || !with_effects) {
                return changed;
            }
            if (!op->applied && op->work.is_large && emu_effect_post(stream, op)) {
                return changed;
            }
            if (!op->applied) {
                emu_effect_run(stream, op);
                *unlocked = true;
            }
            stream->ready_ns = maximum(stream->ready_ns, op->completed_ns);
            break;
        case EMU_OP_RECORD:
            if (op == stream->issue) {
                return changed;
            }
            emu_marker_resolve(op->marker, maximum(stream->ready_ns, op->enqueued_ns));
            break;
        case EMU_OP_WAIT:
            if (!op->marker->complete) {
                return changed;
            }
            stream->ready_ns = maximum(stream->ready_ns, op->marker->time_ns);
            break;
        case EMU_OP_CALL:
            if (!op->call(op->argument)) {
                return changed;
            }
            break;
        case EMU_OP_HOST:
            if (!op->posted) {
                emu_callback_post(op);
            }
            if (!op->done) {
                return changed;
            }
            stream->ready_ns = maximum(stream->ready_ns, op->completed_ns);
            break;
        }
        pop_head(stream);
        changed = true;
    }
    return changed;
}

/* Learn from the card what has completed. */
static void collect(struct emu_device *device, uint64_t now_ns) {
    struct emu_card *card = device->card;
    emu_card_lock(card);
    emu_card_reap(card, now_ns, EMU_NEIGHBOUR_CHECK_NS);
    emu_card_advance(card, now_ns);
    for (int kind = 0; kind < EMU_ENGINES; kind++) {
        const struct emu_queue *queue = &card->engines[kind].queues[device->slot];
        struct emu_channel *channel = &device->channels[kind];
        for (; channel->seen < queue->completed; channel->seen++) {
            struct emu_op *op = channel->in_flight[channel->seen % EMU_RING_ITEMS];
            op->completed_ns = queue->items[channel->seen % EMU_RING_ITEMS].completed_ns;
            op->done = true;
        }
    }
    emu_card_unlock(card);
}

static bool retire_all(bool *unlocked, bool *issued) {
    bool changed = false;
    for (CUcontext context = emu.contexts; context != NULL; context = context->next) {
        for (CUstream stream = context->streams; stream != NULL; stream = stream->next) {
            changed |= emu_retire(stream, true, unlocked);
            if (*unlocked) {
                return true;
            }
            if (emu_issue(stream)) {
                changed = true;
                *issued = true;
            }
        }
    }
    return changed;
}

static void sweep_destroyed(void) {
    for (CUcontext context = emu.contexts; context != NULL; context = context->next) {
        CUstream stream = context->streams;
        while (stream != NULL) {
            CUstream next = stream->next;
            if (stream->destroyed && stream->head == NULL && !stream->retiring) {
                emu_stream_unlink(stream);
            }
            stream = next;
        }
    }
}

void emu_progress(void) {
    uint64_t now_ns = emu_now_ns();
    for (int index = 0; index < emu.device_count; index++) {
        if (emu.devices[index].slot >= 0) {
            collect(&emu.devices[index], now_ns);
        }
    }
    bool unlocked = false;
    bool issued = false;
    while (retire_all(&unlocked, &issued)) {
        unlocked = false;
    }
    sweep_destroyed();
    /* Somebody may wait for what was issued here and count on the executor, which does not know of it. */
    if (issued && emu_executor_asleep_until_ns() != 0) {
        emu_executor_wake();
    }
}
