#define _GNU_SOURCE
#include <stdlib.h>
#include <sys/prctl.h>
#include <time.h>

#include "pipeline.h"

/* ---- Appending
 * ------------------------------------------------------------------------------------------------------- */

static struct emu_op *append_plain(CUstream stream, enum emu_op_kind kind) {
    struct emu_op *op = calloc(1, sizeof *op);
    if (op == NULL) {
        return NULL;
    }
    op->kind = kind;
    op->enqueued_ns = emu_now_ns();
    if (stream->tail == NULL) {
        stream->head = op;
    } else {
        stream->tail->next = op;
    }
    stream->tail = op;
    if (stream->issue == NULL) {
        stream->issue = op;
    }
    stream->length++;
    return op;
}

static bool append_mark(CUstream stream, struct emu_marker *marker) {
    struct emu_op *op = append_plain(stream, EMU_OP_RECORD);
    if (op == NULL) {
        return false;
    }
    marker->references++;
    op->marker = marker;
    return true;
}

/* Let `stream` wait for what `other` holds now. */
static bool join(CUstream stream, CUstream other) {
    if (other->head == NULL) {
        return true;
    }
    struct emu_marker *marker = NULL;
    if (other->tail->kind == EMU_OP_RECORD) {
        marker = other->tail->marker;
        marker->references++;
    } else {
        marker = emu_marker_new();
        if (marker == NULL || !append_mark(other, marker)) {
            emu_marker_drop(marker);
            return false;
        }
        emu_stream_kick(other);
    }
    struct emu_op *wait = append_plain(stream, EMU_OP_WAIT);
    if (wait == NULL) {
        emu_marker_drop(marker);
        return false;
    }
    wait->marker = marker;
    return true;
}

struct emu_op *emu_stream_append(CUstream stream, enum emu_op_kind kind) {
    while (stream->length >= EMU_STREAM_LENGTH) {
        emu_executor_wake();
        pthread_cond_wait(&emu.changed, &emu.lock);
    }
    CUcontext context = stream->context;
    if (stream->legacy) {
        for (CUstream other = context->streams; other != NULL; other = other->next) {
            if (other != stream && other->blocking && !join(stream, other)) {
                return NULL;
            }
        }
    } else if (stream->blocking && !join(stream, context->legacy)) {
        return NULL;
    }
    return append_plain(stream, kind);
}

void emu_stream_kick(CUstream stream) {
    bool unlocked = false;
    bool was_held_up = stream->issue != NULL && stream->issue != stream->tail;
    do {
        emu_issue(stream);
    } while (emu_retire(stream, false, &unlocked));
    bool held_up = stream->issue != NULL && !was_held_up;
    if (stream->head != NULL &&
        (emu_executor_asleep_until_ns() == EMU_NEVER || (held_up && emu_executor_asleep_until_ns() != 0))) {
        emu_executor_wake();
    }
}

CUresult emu_stream_append_work(CUstream stream, const struct emu_work *work) {
    struct emu_op *op = emu_stream_append(stream, EMU_OP_WORK);
    if (op == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    op->work = *work;
    emu_stream_kick(stream);
    return CUDA_SUCCESS;
}

CUresult emu_stream_append_call(CUstream stream, bool (*call)(void *argument), void *argument) {
    struct emu_op *op = emu_stream_append(stream, EMU_OP_CALL);
    if (op == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    op->call = call;
    op->argument = argument;
    emu_stream_kick(stream);
    return CUDA_SUCCESS;
}

CUresult emu_stream_append_host(CUstream stream, CUhostFn function, CUstreamCallback callback, CUstream handle,
                                void *user_data) {
    struct emu_op *op = emu_stream_append(stream, EMU_OP_HOST);
    if (op == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    op->host_function = function;
    op->callback = callback;
    op->callback_stream = handle;
    op->user_data = user_data;
    emu_stream_kick(stream);
    return CUDA_SUCCESS;
}

CUresult emu_stream_append_wait(CUstream stream, struct emu_marker *marker) {
    struct emu_op *op = emu_stream_append(stream, EMU_OP_WAIT);
    if (op == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    marker->references++;
    op->marker = marker;
    emu_stream_kick(stream);
    return CUDA_SUCCESS;
}

struct emu_marker *emu_stream_mark(CUstream stream) {
    struct emu_marker *marker = emu_marker_new();
    struct emu_op *op = marker == NULL ? NULL : emu_stream_append(stream, EMU_OP_RECORD);
    if (op == NULL) {
        emu_marker_drop(marker);
        return NULL;
    }
    marker->references++;
    op->marker = marker;
    emu_stream_kick(stream);
    return marker;
}

/* ---- Waiting
 * --------------------------------------------------------------------------------------------------------- */

/* The waiting thread follows the card's time itself: on a busy machine each thread between it and the card would cost
 * another wait for a processor. */
void emu_wait(struct emu_marker *marker) {
    if (marker->complete) {
        return;
    }
    int slack_ns = prctl(PR_GET_TIMERSLACK);
    prctl(PR_SET_TIMERSLACK, 1UL);
    emu.waiters++;
    for (;;) {
        emu_progress();
        if (marker->complete) {
            break;
        }
        uint64_t wake_ns = emu_marker_wake(marker);
        struct timespec until = {.tv_sec = (time_t)(wake_ns / 1000000000ULL),
                                 .tv_nsec = (long)(wake_ns % 1000000000ULL)};
        pthread_cond_timedwait(&emu.changed, &emu.lock, &until);
    }
    emu.waiters--;
    prctl(PR_SET_TIMERSLACK, (unsigned long)(slack_ns > 0 ? slack_ns : 0));
}

CUresult emu_wait_stream(CUstream stream) {
    CUcontext context = stream->context;
    struct emu_marker *marker = emu_stream_mark(stream);
    if (marker == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    emu_wait(marker);
    emu_marker_drop(marker);
    return context->error;
}

bool emu_stream_is_idle(CUstream stream) {
    return stream->head == NULL;
}

CUresult emu_wait_context(CUcontext context) {
    size_t count = 0;
    size_t room = 1;
    for (CUstream stream = context->streams; stream != NULL; stream = stream->next) {
        room++;
    }
    struct emu_marker **markers = calloc(room, sizeof(struct emu_marker *));
    if (markers == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    for (CUstream stream = context->streams; stream != NULL && count < room; stream = stream->next) {
        if (stream->head == NULL) {
            continue;
        }
        struct emu_marker *marker = emu_marker_new();
        if (marker == NULL || !append_mark(stream, marker)) {
            emu_marker_drop(marker);
            break;
        }
        emu_stream_kick(stream);
        markers[count++] = marker;
    }
    for (size_t index = 0; index < count; index++) {
        emu_wait(markers[index]);
        emu_marker_drop(markers[index]);
    }
    free(markers);
    return context->error;
}
