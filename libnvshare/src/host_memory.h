// Pieces of host memory: mapped, and faulted in by several threads before they are needed.
//
// A first touch costs more than the copy that it is for (0.36 s for each GiB in pages of 4 KiB by one thread), so pages
// are made ahead of need: huge ones where the kernel has them, near the GPU, by up to four threads.
#ifndef NVS_HOST_MEMORY_H
#define NVS_HOST_MEMORY_H

#include <stddef.h>
#include <stdint.h>

#define NVS_NUMA_UNKNOWN (-1)

// Private memory without pages yet, on a boundary of 2 MiB, near `numa_node` where there is one. A forked child does
// not have it. NULL: there is no address space, errno says why.
void *nvs_host_memory_map(size_t bytes, int numa_node);

// The shared memory behind `descriptor`, all of it. The same otherwise.
void *nvs_host_memory_map_shared(int descriptor, size_t bytes);

// Gives it back.
void nvs_host_memory_unmap(void *address, size_t bytes);

// Makes all its pages, huge ones where it can. Returns 0, or an errno value: not all of them are there.
int nvs_host_memory_fault_in(void *address, size_t bytes);

#endif
