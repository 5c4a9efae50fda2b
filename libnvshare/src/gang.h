// Whether this process's work on a GPU is tied to work on other GPUs: then all of it must run together, and the
// scheduler treats the clients of its allocation as a gang.
//
// Signs of it: peer access between devices, memory of another process, a NCCL communicator with several ranks. A sign
// is noted when it is first seen, before the call that ties, and stays for the life of the process. Owner of the flag
// in struct nvs_device: this module.
//
// NCCL is not needed to build or to run. Its functions are wrapped in the ways in which programs come to them: by the
// name that we export (PyTorch links NCCL), and by dlsym (JAX and vLLM open it). A program that asks dlsym for NCCL
// while there is none is told so, as without us.
#ifndef NVS_GANG_H
#define NVS_GANG_H

#include "device.h"

#include <stdbool.h>

// The process ties its work on this device to work elsewhere. `sign` is for the log, a few words. NULL: no device.
// Cheap when known. Safe from every thread that holds no device's lock.
void nvs_gang_note(struct nvs_device *device, const char *sign);

// Whether a sign was noted for the device.
bool nvs_gang_seen(struct nvs_device *device);

// Whether dlsym must ask nvs_gang_resolve() for this name.
bool nvs_gang_is_name(const char *symbol);

// What dlsym(handle, symbol) gives the program for such a name: as without us, or the wrapper of that.
void *nvs_gang_resolve(void *handle, const char *symbol);

#endif
