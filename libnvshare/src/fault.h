// Errors after which a context answers every call with them: what is in it can neither leave nor come back.
//
// The program must learn it from its next call, instead of waiting at its gate for ever: it then ends, or ends the
// context.
#ifndef NVS_FAULT_H
#define NVS_FAULT_H

#include "device.h"

// True if no later call in the context can succeed.
bool nvs_fault_is_final(CUresult result);

// From now on gates and allocations of the device answer with this error, until a context ends.
void nvs_fault_tell(struct nvs_device *device, CUresult result);

#endif
