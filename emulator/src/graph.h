/* Graphs: nodes in the order of their making, which respects their dependencies. A launch puts the nodes into the
 * stream in that order; nodes that could overlap run one after another, as kernels that fill the card do anyway. */
#ifndef EMU_GRAPH_H
#define EMU_GRAPH_H

#include "driver.h"

struct CUgraphNode_st {
    uint32_t magic;
    CUgraph graph;
    CUgraphNodeType type;
    struct emu_node_list dependencies;
    struct emu_work work; /* kernel, memcpy, memset */
    CUhostFn host_function;
    void *user_data;
    CUevent event; /* event record and wait */
    CUgraphNode next;
};

struct CUgraph_st {
    uint32_t magic;
    CUgraphNode first, last;
    size_t count;
};

bool emu_graph_is_valid(CUgraph graph);
CUgraph emu_graph_new(void);
void emu_graph_free(CUgraph graph);

/* Append a node that depends on the given ones. NULL when out of host memory. */
CUgraphNode emu_graph_add(CUgraph graph, CUgraphNodeType type, const struct emu_node_list *dependencies);

bool emu_nodes_copy(struct emu_node_list *target, const struct emu_node_list *source);
bool emu_nodes_add(struct emu_node_list *list, CUgraphNode node);
void emu_nodes_clear(struct emu_node_list *list);

/* Whether every node that none depends on is in the list. */
bool emu_graph_ends_in(CUgraph graph, const struct emu_node_list *list);

CUresult emu_graph_launch(CUgraphExec executable, CUstream stream);

#endif
