// Physical memory that the program makes itself with cuMemCreate, as far as it can move.
//
// It is a block that lies apart in the arena; its *handle* is the block's address, which no handle of the driver's is.
// The block ends, and its bytes are given back, when the program has neither handles of it nor mappings (mapping.h).
// Memory that can be exported as a file descriptor moves until it is exported; from then on others may hold what is on
// the card, and it stays there. Memory of a kind that only the driver can make stays the driver's own.
#ifndef NVS_PHYSICAL_H
#define NVS_PHYSICAL_H

#include "device.h"

struct nvs_mapping;

struct nvs_physical {
    CUmemAllocationProp properties; // as the program asked
    unsigned handles;               // cuMemCreate and cuMemRetainAllocationHandle, less cuMemRelease
    struct nvs_mapping *mappings;
};

// Whether memory that is asked for so can move.
bool nvs_physical_can_move(size_t bytes, const CUmemAllocationProp *properties, unsigned long long flags);

// Why it cannot.
enum nvs_pin nvs_physical_pin(const CUmemAllocationProp *properties);

// Makes it, waiting for the scheduler if need be; errors as of nvs_memory_allocate.
CUresult nvs_physical_create(struct nvs_device *device, size_t bytes, const CUmemAllocationProp *properties,
                             CUmemGenericAllocationHandle *handle);

// Exports a handle as cuMemExportToShareableHandle does: waits until its memory is on the card, where it then stays.
// CUDA_ERROR_INVALID_VALUE: there is none, or none that may be exported so; or the driver's error, and nothing changed.
CUresult nvs_physical_export(struct nvs_device *device, CUmemGenericAllocationHandle handle, void *shareable,
                             CUmemAllocationHandleType type, unsigned long long flags);

// Takes one handle away. CUDA_ERROR_INVALID_VALUE: there is none.
CUresult nvs_physical_release(struct nvs_device *device, CUmemGenericAllocationHandle handle);

// ---- Callers hold the memory's lock.

// The block that a handle of the program's is; NULL: it is none any more, or never was.
struct nvs_block *nvs_physical_find(struct nvs_device *device, CUmemGenericAllocationHandle handle);

// The program has one mapping or handle less: without any, the block ends.
void nvs_physical_let_go(struct nvs_device *device, struct nvs_block *block);

// Ends a block that the program has let go of, unless one of its extents is under way: then when that is at rest.
void nvs_physical_end(struct nvs_device *device, struct nvs_block *block);

#endif
