// Graphs whose work is on several devices: launching one needs the locks of all of them.
//
// A capture may spread over streams of several devices. Each call that is captured says which device it is for; the
// graph in which the capture ends remembers the devices if they are several, and so does what is instantiated of it.
#ifndef NVS_GRAPH_H
#define NVS_GRAPH_H

#include "driver.h"

#include <stdint.h>

// A call was captured on this stream, with this context current.
void nvs_graph_captured(CUstream stream, CUcontext context);

// A capture has ended in this graph.
void nvs_graph_ended(CUgraph graph);

// The devices (bits) that a launch of it is for, if they are several; 0: one. Quick while there are none such.
uint32_t nvs_graph_devices(CUgraphExec executable);

// After a fork: the parent's are gone with its contexts.
void nvs_graph_atfork_child(void);

#endif
