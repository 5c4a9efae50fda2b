// The driver's side of an extent: physical memory that is mapped at its addresses, and where the program mapped it.
#ifndef NVS_EXTENT_H
#define NVS_EXTENT_H

#include "arena.h"
#include "device.h"

// Gives the extent physical memory, mapped and accessible to the device and to those that may access its memory.
// CUDA_SUCCESS and the handle in it, or the driver's error and no handle; one that stays in it all the same is of
// memory that the driver does not unmap: the next try goes on with that.
CUresult nvs_extent_make(struct nvs_device *device, struct nvs_extent *extent);

// Takes the memory away: nothing may be in flight on it. CUDA_SUCCESS, or the driver's error and it is as it was.
CUresult nvs_extent_drop(struct nvs_device *device, struct nvs_extent *extent);

// Sets the access of the devices that have it now, after `accessed_by` has changed.
CUresult nvs_extent_access(const struct nvs_device *device, const struct nvs_extent *extent);

#endif
