#include "graph.h"

#include "call.h"
#include "capture.h"
#include "library.h"
#include "log.h"

#include <pthread.h>
#include <stdlib.h>

// Graphs, executables, and what is being captured, by their handles. No other lock is taken under this one.
static pthread_mutex_t nvs_graph_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_graph_entry {
    const void *handle;
    uint32_t devices;
} *nvs_graphs;
static size_t nvs_graph_room;
static atomic_size_t nvs_graph_count;

// The entry of a handle, or NULL. Caller holds the lock, as for the next one.
static struct nvs_graph_entry *nvs_graph_find(const void *handle) {
    for (size_t i = 0; i < atomic_load_explicit(&nvs_graph_count, memory_order_relaxed); i++)
        if (nvs_graphs[i].handle == handle)
            return &nvs_graphs[i];
    return NULL;
}

static bool nvs_graph_grow(void) {
    size_t room = nvs_graph_room == 0 ? 16 : 2 * nvs_graph_room;
    struct nvs_graph_entry *grown = realloc(nvs_graphs, room * sizeof(*grown));
    if (grown == NULL) {
        nvs_log_once(NVS_LOG_WARN, "no host memory to remember a graph of several GPUs: it obeys one of them");
        return false;
    }
    nvs_graphs = grown;
    nvs_graph_room = room;
    return true;
}

// Its work is on these devices, too.
static void nvs_graph_note(const void *handle, uint32_t devices) {
    pthread_mutex_lock(&nvs_graph_lock);
    struct nvs_graph_entry *entry = nvs_graph_find(handle);
    size_t count = atomic_load_explicit(&nvs_graph_count, memory_order_relaxed);
    if (entry != NULL) {
        entry->devices |= devices;
    } else if (count < nvs_graph_room || nvs_graph_grow()) {
        nvs_graphs[count] = (struct nvs_graph_entry){handle, devices};
        atomic_store_explicit(&nvs_graph_count, count + 1, memory_order_release);
    }
    pthread_mutex_unlock(&nvs_graph_lock);
}

static uint32_t nvs_graph_devices_of(const void *handle) {
    if (atomic_load_explicit(&nvs_graph_count, memory_order_acquire) == 0)
        return 0;
    pthread_mutex_lock(&nvs_graph_lock);
    const struct nvs_graph_entry *entry = nvs_graph_find(handle);
    uint32_t devices = entry == NULL ? 0 : entry->devices;
    pthread_mutex_unlock(&nvs_graph_lock);
    return devices;
}

static void nvs_graph_forget(const void *handle) {
    if (atomic_load_explicit(&nvs_graph_count, memory_order_acquire) == 0)
        return;
    pthread_mutex_lock(&nvs_graph_lock);
    struct nvs_graph_entry *entry = nvs_graph_find(handle);
    if (entry != NULL) {
        size_t last = atomic_load_explicit(&nvs_graph_count, memory_order_relaxed) - 1;
        *entry = nvs_graphs[last];
        atomic_store_explicit(&nvs_graph_count, last, memory_order_release);
    }
    pthread_mutex_unlock(&nvs_graph_lock);
}

uint32_t nvs_graph_devices(CUgraphExec executable) {
    return nvs_graph_devices_of(executable);
}

void nvs_graph_captured(CUstream stream, CUcontext context) {
    if (nvs_device_count() < 2)
        return;
    CUgraph graph = nvs_capture_graph(stream);
    const struct nvs_device *device = nvs_stream_device(context, stream);
    if (graph != NULL && device != NULL)
        nvs_graph_note(graph, 1u << device->ordinal);
}

void nvs_graph_ended(CUgraph graph) {
    uint32_t devices = nvs_graph_devices_of(graph);
    if ((devices & (devices - 1)) == 0)
        nvs_graph_forget(graph);
}

void nvs_graph_atfork_child(void) {
    pthread_mutex_init(&nvs_graph_lock, NULL);
    atomic_store_explicit(&nvs_graph_count, 0, memory_order_relaxed);
}

// ---- The wrappers

static void nvs_graph_instantiated(CUresult result, CUgraph graph, const CUgraphExec *executable) {
    uint32_t devices = nvs_graph_devices_of(graph);
    if (result == CUDA_SUCCESS && devices != 0)
        nvs_graph_note(*executable, devices);
}

// It names memory, which therefore is there until it has been looked at.
#define NVS_GRAPH_INSTANTIATE(name, params, args)                                                                      \
    NVS_LOOK_WRAPPER(name, nvs_graph_instantiated(result, hGraph, phGraphExec), params, args)

NVS_GRAPH_INSTANTIATE(cuGraphInstantiate,
                      (CUgraphExec * phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer,
                       size_t bufferSize),
                      (phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize))
NVS_GRAPH_INSTANTIATE(cuGraphInstantiate_v2,
                      (CUgraphExec * phGraphExec, CUgraph hGraph, CUgraphNode *phErrorNode, char *logBuffer,
                       size_t bufferSize),
                      (phGraphExec, hGraph, phErrorNode, logBuffer, bufferSize))
NVS_GRAPH_INSTANTIATE(cuGraphInstantiateWithFlags,
                      (CUgraphExec * phGraphExec, CUgraph hGraph, unsigned long long flags),
                      (phGraphExec, hGraph, flags))
NVS_GRAPH_INSTANTIATE(cuGraphInstantiateWithParams,
                      (CUgraphExec * phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams),
                      (phGraphExec, hGraph, instantiateParams))
NVS_GRAPH_INSTANTIATE(cuGraphInstantiateWithParams_ptsz,
                      (CUgraphExec * phGraphExec, CUgraph hGraph, CUDA_GRAPH_INSTANTIATE_PARAMS *instantiateParams),
                      (phGraphExec, hGraph, instantiateParams))

// Forgotten first: the handle may be another one's as soon as the driver has destroyed it.
#define NVS_GRAPH_DESTROY(name, handle, params, args)                                                                  \
    NVS_EXPORT CUresult name params {                                                                                  \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        nvs_graph_forget(handle);                                                                                      \
        return nvs_real.name args;                                                                                     \
    }

NVS_GRAPH_DESTROY(cuGraphDestroy, hGraph, (CUgraph hGraph), (hGraph))
NVS_GRAPH_DESTROY(cuGraphExecDestroy, hGraphExec, (CUgraphExec hGraphExec), (hGraphExec))
