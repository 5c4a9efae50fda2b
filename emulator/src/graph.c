#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "capture.h"
#include "copy.h"
#include "event.h"
#include "launch.h"

#define GRAPH_MAGIC 0x47524631U
#define NODE_MAGIC 0x4e4f4431U
#define EXECUTABLE_MAGIC 0x45584531U

struct CUgraphExec_st {
    uint32_t magic;
    size_t count;
    unsigned long long flags;
    struct CUgraphNode_st nodes[]; /* copies, in launch order */
};

/* ---- Lists and graphs
 * ---------------------------------------------------------------------------------------------------- */

void emu_nodes_clear(struct emu_node_list *list) {
    free(list->nodes);
    *list = (struct emu_node_list){0};
}

bool emu_nodes_add(struct emu_node_list *list, CUgraphNode node) {
    for (size_t index = 0; index < list->count; index++) {
        if (list->nodes[index] == node) {
            return true;
        }
    }
    CUgraphNode *grown = realloc(list->nodes, (list->count + 1) * sizeof(CUgraphNode));
    if (grown == NULL) {
        return false;
    }
    list->nodes = grown;
    list->nodes[list->count++] = node;
    return true;
}

bool emu_nodes_copy(struct emu_node_list *target, const struct emu_node_list *source) {
    emu_nodes_clear(target);
    for (size_t index = 0; index < source->count; index++) {
        if (!emu_nodes_add(target, source->nodes[index])) {
            return false;
        }
    }
    return true;
}

bool emu_graph_is_valid(CUgraph graph) {
    return graph != NULL && graph->magic == GRAPH_MAGIC;
}

CUgraph emu_graph_new(void) {
    CUgraph graph = calloc(1, sizeof *graph);
    if (graph != NULL) {
        graph->magic = GRAPH_MAGIC;
    }
    return graph;
}

void emu_graph_free(CUgraph graph) {
    while (graph->first != NULL) {
        CUgraphNode node = graph->first;
        graph->first = node->next;
        emu_nodes_clear(&node->dependencies);
        node->magic = 0;
        free(node);
    }
    graph->magic = 0;
    free(graph);
}

CUgraphNode emu_graph_add(CUgraph graph, CUgraphNodeType type, const struct emu_node_list *dependencies) {
    CUgraphNode node = calloc(1, sizeof *node);
    if (node == NULL || !emu_nodes_copy(&node->dependencies, dependencies)) {
        free(node);
        return NULL;
    }
    node->magic = NODE_MAGIC;
    node->graph = graph;
    node->type = type;
    if (graph->last == NULL) {
        graph->first = node;
    } else {
        graph->last->next = node;
    }
    graph->last = node;
    graph->count++;
    return node;
}

static bool contains(const struct emu_node_list *list, CUgraphNode node) {
    for (size_t index = 0; index < list->count; index++) {
        if (list->nodes[index] == node) {
            return true;
        }
    }
    return false;
}

bool emu_graph_ends_in(CUgraph graph, const struct emu_node_list *list) {
    for (CUgraphNode node = graph->first; node != NULL; node = node->next) {
        bool has_dependent = false;
        for (CUgraphNode later = node->next; later != NULL && !has_dependent; later = later->next) {
            has_dependent = contains(&later->dependencies, node);
        }
        if (!has_dependent && !contains(list, node)) {
            return false;
        }
    }
    return true;
}

/* ---- Explicit graphs
 * ----------------------------------------------------------------------------------------------------------- */

EMU_EXPORT CUresult CUDAAPI cuGraphCreate(CUgraph *graph, unsigned flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (graph == NULL || flags != 0) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    *graph = emu_graph_new();
    return emu_leave(*graph != NULL ? CUDA_SUCCESS : CUDA_ERROR_OUT_OF_MEMORY);
}

EMU_EXPORT CUresult CUDAAPI cuGraphDestroy(CUgraph graph) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!emu_graph_is_valid(graph)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    emu_graph_free(graph);
    return emu_leave(CUDA_SUCCESS);
}

static bool is_node(CUgraphNode node) {
    return node != NULL && node->magic == NODE_MAGIC;
}

/* Enter, and append a node to the graph with the caller's dependencies. */
static CUresult enter_add(CUgraph graph, CUgraphNodeType type, const CUgraphNode *dependencies, size_t count,
                          CUgraphNode *node) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    bool valid = node != NULL && emu_graph_is_valid(graph) && (count == 0 || dependencies != NULL);
    for (size_t index = 0; valid && index < count; index++) {
        valid = is_node(dependencies[index]) && dependencies[index]->graph == graph;
    }
    if (!valid) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    const struct emu_node_list list = {.nodes = (CUgraphNode *)(uintptr_t)dependencies, .count = count};
    *node = emu_graph_add(graph, type, &list);
    return *node != NULL ? CUDA_SUCCESS : emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
}

EMU_EXPORT CUresult CUDAAPI cuGraphAddEmptyNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies,
                                                size_t count) {
    CUresult result = enter_add(graph, CU_GRAPH_NODE_TYPE_EMPTY, dependencies, count, node);
    return result != CUDA_SUCCESS ? result : emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuGraphAddKernelNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies,
                                                 size_t count, const CUDA_KERNEL_NODE_PARAMS *parameters) {
    struct emu_work work;
    if (parameters == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    const unsigned shape[6] = {parameters->gridDimX,  parameters->gridDimY,  parameters->gridDimZ,
                               parameters->blockDimX, parameters->blockDimY, parameters->blockDimZ};
    CUfunction function = parameters->func != NULL ? parameters->func : (CUfunction)parameters->kern;
    CUresult result = emu_launch_work(function, shape, parameters->kernelParams, parameters->extra, &work);
    if (result == CUDA_SUCCESS) {
        result = enter_add(graph, CU_GRAPH_NODE_TYPE_KERNEL, dependencies, count, node);
    }
    if (result != CUDA_SUCCESS) {
        return result;
    }
    (*node)->work = work;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuGraphAddMemsetNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies,
                                                 size_t count, const CUDA_MEMSET_NODE_PARAMS *parameters,
                                                 CUcontext context) {
    struct emu_work work;
    if (parameters == NULL ||
        (parameters->elementSize != 1 && parameters->elementSize != 2 && parameters->elementSize != 4)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    const struct emu_fill fill = {.destination = parameters->dst,
                                  .width = parameters->width,
                                  .height = parameters->height,
                                  .pitch = parameters->height == 1 ? parameters->width * parameters->elementSize
                                                                   : parameters->pitch,
                                  .value = parameters->value,
                                  .element_bytes = parameters->elementSize};
    CUresult result = enter_add(graph, CU_GRAPH_NODE_TYPE_MEMSET, dependencies, count, node);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_fill_work(context, &fill, &work);
    if (result == CUDA_SUCCESS) {
        (*node)->work = work;
    } else {
        (*node)->type = CU_GRAPH_NODE_TYPE_EMPTY;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuGraphAddHostNode(CUgraphNode *node, CUgraph graph, const CUgraphNode *dependencies,
                                               size_t count, const CUDA_HOST_NODE_PARAMS *parameters) {
    if (parameters == NULL || parameters->fn == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = enter_add(graph, CU_GRAPH_NODE_TYPE_HOST, dependencies, count, node);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    (*node)->host_function = parameters->fn;
    (*node)->user_data = parameters->userData;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType *type) {
    if (type == NULL || !is_node(node)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *type = node->type;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuGraphGetNodes(CUgraph graph, CUgraphNode *nodes, size_t *count) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (count == NULL || !emu_graph_is_valid(graph)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    if (nodes == NULL) {
        *count = graph->count;
        return emu_leave(CUDA_SUCCESS);
    }
    size_t written = 0;
    CUgraphNode node = graph->first;
    for (; node != NULL && written < *count; node = node->next) {
        nodes[written++] = node;
    }
    for (size_t index = written; index < *count; index++) {
        nodes[index] = NULL;
    }
    *count = written;
    return emu_leave(CUDA_SUCCESS);
}

/* ---- Executable graphs
 * ------------------------------------------------------------------------------------------------------------ */

static CUresult instantiate(CUgraphExec *executable, CUgraph graph, unsigned long long flags) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (executable == NULL || !emu_graph_is_valid(graph)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    CUgraphExec made = calloc(1, sizeof *made + graph->count * sizeof made->nodes[0]);
    if (made == NULL) {
        return emu_leave(CUDA_ERROR_OUT_OF_MEMORY);
    }
    made->magic = EXECUTABLE_MAGIC;
    made->flags = flags;
    for (CUgraphNode node = graph->first; node != NULL; node = node->next) {
        made->nodes[made->count] = *node;
        made->nodes[made->count].dependencies = (struct emu_node_list){0};
        made->count++;
    }
    *executable = made;
    return emu_leave(CUDA_SUCCESS);
}

EMU_EXPORT CUresult CUDAAPI cuGraphInstantiateWithFlags(CUgraphExec *executable, CUgraph graph,
                                                        unsigned long long flags) {
    return instantiate(executable, graph, flags);
}

EMU_EXPORT CUresult CUDAAPI cuGraphInstantiateWithParams(CUgraphExec *executable, CUgraph graph,
                                                         CUDA_GRAPH_INSTANTIATE_PARAMS *parameters) {
    if (parameters == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = instantiate(executable, graph, parameters->flags);
    parameters->hErrNode_out = NULL;
    parameters->result_out = result == CUDA_SUCCESS ? CUDA_GRAPH_INSTANTIATE_SUCCESS : CUDA_GRAPH_INSTANTIATE_ERROR;
    return result;
}

static bool is_executable(CUgraphExec executable) {
    return executable != NULL && executable->magic == EXECUTABLE_MAGIC;
}

EMU_EXPORT CUresult CUDAAPI cuGraphExecGetFlags(CUgraphExec executable, cuuint64_t *flags) {
    if (flags == NULL || !is_executable(executable)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *flags = executable->flags;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuGraphExecDestroy(CUgraphExec executable) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (!is_executable(executable)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    executable->magic = 0;
    free(executable);
    return emu_leave(CUDA_SUCCESS);
}

/* An update takes the other graph's nodes when they are as many and of the same types. */
EMU_EXPORT CUresult CUDAAPI cuGraphExecUpdate(CUgraphExec executable, CUgraph graph,
                                              CUgraphExecUpdateResultInfo *info) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (info == NULL || !is_executable(executable) || !emu_graph_is_valid(graph)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    memset(info, 0, sizeof *info);
    bool same = executable->count == graph->count;
    size_t index = 0;
    for (CUgraphNode node = graph->first; same && node != NULL; node = node->next) {
        same = executable->nodes[index++].type == node->type;
    }
    if (!same) {
        info->result = CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED;
        return emu_leave(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE);
    }
    index = 0;
    for (CUgraphNode node = graph->first; node != NULL; node = node->next) {
        executable->nodes[index] = *node;
        executable->nodes[index].dependencies = (struct emu_node_list){0};
        index++;
    }
    info->result = CU_GRAPH_EXEC_UPDATE_SUCCESS;
    return emu_leave(CUDA_SUCCESS);
}

static CUresult launch_node(struct CUgraphNode_st *node, CUstream stream) {
    switch (node->type) {
    case CU_GRAPH_NODE_TYPE_KERNEL:
    case CU_GRAPH_NODE_TYPE_MEMCPY:
    case CU_GRAPH_NODE_TYPE_MEMSET:
        return emu_stream_append_work(stream, &node->work);
    case CU_GRAPH_NODE_TYPE_HOST:
        return emu_stream_append_host(stream, node->host_function, NULL, NULL, node->user_data);
    case CU_GRAPH_NODE_TYPE_EVENT_RECORD:
        return emu_event_is_valid(node->event) ? emu_record_now(stream, node->event) : CUDA_ERROR_INVALID_HANDLE;
    case CU_GRAPH_NODE_TYPE_WAIT_EVENT:
        return emu_event_is_valid(node->event) && node->event->marker != NULL
                   ? emu_stream_append_wait(stream, node->event->marker)
                   : CUDA_SUCCESS;
    default:
        return CUDA_SUCCESS;
    }
}

CUresult emu_graph_launch(CUgraphExec executable, CUstream stream) {
    if (!is_executable(executable)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    CUresult result = emu_capture_check_launch(stream);
    for (size_t index = 0; result == CUDA_SUCCESS && index < executable->count; index++) {
        result = launch_node(&executable->nodes[index], stream);
    }
    return result;
}
