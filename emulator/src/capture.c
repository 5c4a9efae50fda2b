#include "capture.h"

#include <stdlib.h>

#include "graph.h"

struct emu_capture {
    CUgraph graph;
    CUstream origin;
    CUstreamCaptureMode mode;
    pthread_t thread;
    uint64_t id;
    bool invalidated;
    struct emu_capture *next;
};

static struct emu_capture *captures; /* open ones */
static uint64_t last_id;
static _Thread_local CUstreamCaptureMode thread_mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

bool emu_stream_is_capturing(CUstream stream) {
    return stream->capture != NULL;
}

static CUresult invalidate(struct emu_capture *capture, CUresult error) {
    capture->invalidated = true;
    return error;
}

/* ---- Checks
 * ------------------------------------------------------------------------------------------------------------------ */

static bool forbids_here(const struct emu_capture *capture) {
    bool own = pthread_equal(capture->thread, pthread_self()) != 0;
    switch (thread_mode) {
    case CU_STREAM_CAPTURE_MODE_GLOBAL:
        return capture->mode == CU_STREAM_CAPTURE_MODE_GLOBAL ||
               (own && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED);
    case CU_STREAM_CAPTURE_MODE_THREAD_LOCAL:
        return own && capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED;
    default:
        return false;
    }
}

CUresult emu_capture_check_unsafe(void) {
    CUresult result = CUDA_SUCCESS;
    for (struct emu_capture *capture = captures; capture != NULL; capture = capture->next) {
        if (forbids_here(capture)) {
            result = invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
    }
    return result;
}

/* The legacy stream would wait for a captured stream. */
static CUresult check_implicit(CUstream stream) {
    CUresult result = CUDA_SUCCESS;
    if (captures == NULL || !stream->legacy) {
        return result;
    }
    for (CUstream other = stream->context->streams; other != NULL; other = other->next) {
        if (other->capture != NULL && other->blocking) {
            result = invalidate(other->capture, CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
        }
    }
    return result;
}

bool emu_capture_hides_legacy(CUstream stream) {
    for (CUstream other = stream->context->streams; stream->legacy && other != NULL; other = other->next) {
        if (other->capture != NULL && other->blocking) {
            return true;
        }
    }
    return false;
}

CUresult emu_capture_check_wait(CUstream stream) {
    if (stream->capture != NULL) {
        bool was_invalid = stream->capture->invalidated;
        invalidate(stream->capture, CUDA_SUCCESS);
        return was_invalid ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    return check_implicit(stream);
}

CUresult emu_capture_check_context(CUcontext context) {
    CUresult result = CUDA_SUCCESS;
    for (CUstream stream = context->streams; captures != NULL && stream != NULL; stream = stream->next) {
        if (stream->capture != NULL) {
            result = invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
        }
    }
    return result;
}

CUresult emu_capture_refuse(CUstream stream) {
    return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
}

CUresult emu_capture_check_launch(CUstream stream) {
    return stream->capture != NULL ? emu_capture_refuse(stream) : check_implicit(stream);
}

/* ---- Submitting
 * --------------------------------------------------------------------------------------------------------------- */

static CUresult add_node(CUstream stream, CUgraphNodeType type, CUgraphNode *node) {
    if (stream->capture->invalidated) {
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    *node = emu_graph_add(stream->capture->graph, type, &stream->tail_nodes);
    if (*node == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    emu_nodes_clear(&stream->tail_nodes);
    return emu_nodes_add(&stream->tail_nodes, *node) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

CUresult emu_submit(CUstream stream, struct emu_work *work, bool synchronous) {
    CUresult result = synchronous ? emu_capture_check_wait(stream) : check_implicit(stream);
    if (result == CUDA_SUCCESS && synchronous) {
        result = emu_capture_check_unsafe();
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (stream->capture != NULL) {
        CUgraphNode node = NULL;
        result = add_node(stream, work->type, &node);
        if (result == CUDA_SUCCESS) {
            node->work = *work;
        }
        return result;
    }
    result = emu_stream_append_work(stream, work);
    return result == CUDA_SUCCESS && synchronous ? emu_wait_stream(stream) : result;
}

/* An event takes no time here, but a real card comes to the process for it, too. */
static void count_wake(CUstream stream) {
    struct emu_device *device = stream->context->device;
    if (stream->issue == NULL) { /* else it comes with what it stands behind */
        emu_card_lock(device->card);
        emu_card_count_wake(device->card, device->slot, emu_now_ns());
        emu_card_unlock(device->card);
    }
}

CUresult emu_record_now(CUstream stream, CUevent event) {
    count_wake(stream);
    struct emu_marker *marker = emu_stream_mark(stream);
    if (marker == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    emu_marker_drop(event->marker);
    event->marker = marker;
    event->capture_id = 0;
    emu_nodes_clear(&event->nodes);
    return CUDA_SUCCESS;
}

CUresult emu_submit_record(CUstream stream, CUevent event, bool external) {
    CUresult result = check_implicit(stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (stream->capture == NULL) {
        return external ? CUDA_ERROR_ILLEGAL_STATE : emu_record_now(stream, event);
    }
    if (stream->capture->invalidated) {
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    if (external) {
        CUgraphNode node = NULL;
        result = add_node(stream, CU_GRAPH_NODE_TYPE_EVENT_RECORD, &node);
        if (result == CUDA_SUCCESS) {
            node->event = event;
        }
        return result;
    }
    event->capture_id = stream->capture->id;
    return emu_nodes_copy(&event->nodes, &stream->tail_nodes) ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY;
}

static struct emu_capture *find_capture(uint64_t id) {
    struct emu_capture *capture = captures;
    while (capture != NULL && capture->id != id) {
        capture = capture->next;
    }
    return capture;
}

/* A wait for an event of a capture takes the stream into that capture. */
static CUresult join_capture(CUstream stream, CUevent event) {
    struct emu_capture *capture = find_capture(event->capture_id);
    if (capture == NULL) {
        return CUDA_ERROR_CAPTURED_EVENT; /* its capture has ended */
    }
    if (capture->invalidated) {
        return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    }
    if (stream->legacy) {
        return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    }
    if (stream->capture != NULL && stream->capture != capture) {
        invalidate(stream->capture, CUDA_SUCCESS);
        return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_MERGE);
    }
    stream->capture = capture;
    for (size_t index = 0; index < event->nodes.count; index++) {
        if (!emu_nodes_add(&stream->tail_nodes, event->nodes.nodes[index])) {
            return CUDA_ERROR_OUT_OF_MEMORY;
        }
    }
    return CUDA_SUCCESS;
}

CUresult emu_submit_wait(CUstream stream, CUevent event, bool external) {
    CUresult result = check_implicit(stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (external && stream->capture != NULL) {
        CUgraphNode node = NULL;
        result = add_node(stream, CU_GRAPH_NODE_TYPE_WAIT_EVENT, &node);
        if (result == CUDA_SUCCESS) {
            node->event = event;
        }
        return result;
    }
    if (event->capture_id != 0) {
        return join_capture(stream, event);
    }
    if (stream->capture != NULL) {
        return invalidate(stream->capture, CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    }
    return event->marker == NULL ? CUDA_SUCCESS : emu_stream_append_wait(stream, event->marker);
}

CUresult emu_submit_host(CUstream stream, CUhostFn function, void *user_data) {
    CUresult result = check_implicit(stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (stream->capture != NULL) {
        CUgraphNode node = NULL;
        result = add_node(stream, CU_GRAPH_NODE_TYPE_HOST, &node);
        if (result == CUDA_SUCCESS) {
            node->host_function = function;
            node->user_data = user_data;
        }
        return result;
    }
    return emu_stream_append_host(stream, function, NULL, NULL, user_data);
}

CUresult emu_submit_callback(CUstream stream, CUstreamCallback callback, CUstream handle, void *user_data) {
    CUresult result = stream->capture != NULL ? emu_capture_refuse(stream) : check_implicit(stream);
    return result != CUDA_SUCCESS ? result : emu_stream_append_host(stream, NULL, callback, handle, user_data);
}

/* ---- Beginning and ending
 * --------------------------------------------------------------------------------------------------- */

CUresult emu_capture_begin(CUstream stream, CUstreamCaptureMode mode) {
    if ((unsigned)mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    if (stream->legacy) {
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    }
    if (stream->capture != NULL) {
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    struct emu_capture *capture = calloc(1, sizeof *capture);
    CUgraph graph = emu_graph_new();
    if (capture == NULL || graph == NULL) {
        free(capture);
        free(graph);
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *capture = (struct emu_capture){
        .graph = graph, .origin = stream, .mode = mode, .thread = pthread_self(), .id = ++last_id, .next = captures};
    captures = capture;
    stream->capture = capture;
    emu_nodes_clear(&stream->tail_nodes);
    return CUDA_SUCCESS;
}

static void release(struct emu_capture *capture) {
    for (CUcontext context = emu.contexts; context != NULL; context = context->next) {
        for (CUstream stream = context->streams; stream != NULL; stream = stream->next) {
            if (stream->capture == capture) {
                stream->capture = NULL;
                emu_nodes_clear(&stream->tail_nodes);
            }
        }
    }
    struct emu_capture **link = &captures;
    while (*link != capture) {
        link = &(*link)->next;
    }
    *link = capture->next;
    free(capture);
}

CUresult emu_capture_end(CUstream stream, CUgraph *graph) {
    struct emu_capture *capture = stream->capture;
    if (graph == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *graph = NULL;
    if (capture == NULL) {
        return CUDA_ERROR_ILLEGAL_STATE;
    }
    if (capture->mode != CU_STREAM_CAPTURE_MODE_RELAXED && !pthread_equal(capture->thread, pthread_self())) {
        return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
    }
    CUresult result = CUDA_SUCCESS;
    if (capture->origin != stream) {
        return invalidate(capture, CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    }
    if (capture->invalidated) {
        result = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
    } else if (!emu_graph_ends_in(capture->graph, &stream->tail_nodes)) {
        result = CUDA_ERROR_STREAM_CAPTURE_UNJOINED;
    }
    if (result == CUDA_SUCCESS) {
        *graph = capture->graph;
    } else {
        emu_graph_free(capture->graph);
    }
    release(capture);
    return result;
}

CUstreamCaptureStatus emu_capture_status(CUstream stream, uint64_t *id, CUgraph *graph) {
    const struct emu_capture *capture = stream->capture;
    *id = capture == NULL ? 0 : capture->id;
    *graph = capture == NULL ? NULL : capture->graph;
    return capture == NULL        ? CU_STREAM_CAPTURE_STATUS_NONE
           : capture->invalidated ? CU_STREAM_CAPTURE_STATUS_INVALIDATED
                                  : CU_STREAM_CAPTURE_STATUS_ACTIVE;
}

EMU_EXPORT CUresult CUDAAPI cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode *mode) {
    if (mode == NULL || (unsigned)*mode > CU_STREAM_CAPTURE_MODE_RELAXED) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUstreamCaptureMode before = thread_mode;
    thread_mode = *mode;
    *mode = before;
    return CUDA_SUCCESS;
}
