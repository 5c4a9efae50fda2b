// Host memory and the driver: registered, so that copies run at the speed of the link and beside the program.
#ifndef NVS_HOST_PIN_H
#define NVS_HOST_PIN_H

#include "driver.h"

#include <stddef.h>

// Registers memory that has its pages, for every context of the process. Only in `context`'s life. What is registered
// already is so.
CUresult nvs_host_pin(CUcontext context, void *address, size_t bytes);

// The reverse.
void nvs_host_unpin(CUcontext context, void *address);

// The NUMA node of the host that is nearest to the context's card; NVS_NUMA_UNKNOWN (host_memory.h) where none is.
int nvs_host_pin_numa_node(CUcontext context);

#endif
