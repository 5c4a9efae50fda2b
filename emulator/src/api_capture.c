/* Capture and graph launches: the entry points that have a per-thread form. */
#include "capture.h"
#include "default_stream.h"
#include "graph.h"

static CUresult enter_stream(CUstream handle, CUstream *stream) {
    CUcontext context = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_stream_find(context, EMU_OR_DEFAULT(handle), stream);
    return result == CUDA_SUCCESS ? result : emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuStreamBeginCapture(CUstream handle, CUstreamCaptureMode mode) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    return result != CUDA_SUCCESS ? result : emu_leave(emu_capture_begin(stream, mode));
}

EMU_EXPORT CUresult CUDAAPI cuStreamEndCapture(CUstream handle, CUgraph *graph) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    return result != CUDA_SUCCESS ? result : emu_leave(emu_capture_end(stream, graph));
}

EMU_EXPORT CUresult CUDAAPI cuStreamIsCapturing(CUstream handle, CUstreamCaptureStatus *status) {
    CUstream stream = NULL;
    uint64_t id = 0;
    CUgraph graph = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (status == NULL || emu_capture_hides_legacy(stream)) {
        return emu_leave(status == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
    *status = emu_capture_status(stream, &id, &graph);
    return emu_leave(CUDA_SUCCESS);
}

static CUresult capture_info(CUstream handle, CUstreamCaptureStatus *status, cuuint64_t *id_out, CUgraph *graph_out,
                             const CUgraphNode **dependencies, size_t *count) {
    CUstream stream = NULL;
    uint64_t id = 0;
    CUgraph graph = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (status == NULL || emu_capture_hides_legacy(stream)) {
        return emu_leave(status == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    }
    *status = emu_capture_status(stream, &id, &graph);
    if (*status == CU_STREAM_CAPTURE_STATUS_ACTIVE) {
        if (id_out != NULL) {
            *id_out = id;
        }
        if (graph_out != NULL) {
            *graph_out = graph;
        }
        if (dependencies != NULL) {
            *dependencies = stream->tail_nodes.nodes;
        }
        if (count != NULL) {
            *count = stream->tail_nodes.count;
        }
    }
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuStreamGetCaptureInfo(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id,
                                                   CUgraph *graph, const CUgraphNode **dependencies,
                                                   const CUgraphEdgeData **edges, size_t *count) {
    if (edges != NULL) {
        *edges = NULL; /* all edges are plain ones */
    }
    return capture_info(stream, status, id, graph, dependencies, count);
}

/* The form of CUDA 11.3, still asked for by version. */
#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#define CAPTURE_INFO_11030 cuStreamGetCaptureInfo_v2_ptsz
#else
#define CAPTURE_INFO_11030 cuStreamGetCaptureInfo_v2
#endif

CUresult CUDAAPI CAPTURE_INFO_11030(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id, CUgraph *graph,
                                    const CUgraphNode **dependencies, size_t *count);

EMU_EXPORT CUresult CUDAAPI CAPTURE_INFO_11030(CUstream stream, CUstreamCaptureStatus *status, cuuint64_t *id,
                                               CUgraph *graph, const CUgraphNode **dependencies, size_t *count) {
    return capture_info(stream, status, id, graph, dependencies, count);
}

EMU_EXPORT CUresult CUDAAPI cuGraphLaunch(CUgraphExec executable, CUstream handle) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    return result != CUDA_SUCCESS ? result : emu_leave(emu_graph_launch(executable, stream));
}

EMU_EXPORT CUresult CUDAAPI cuGraphUpload(CUgraphExec executable, CUstream handle) {
    CUstream stream = NULL;
    CUresult result = enter_stream(handle, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    return emu_leave(executable == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS);
}
