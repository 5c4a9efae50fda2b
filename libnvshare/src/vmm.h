// The program's own virtual memory management, for other wrappers.
#ifndef NVS_VMM_H
#define NVS_VMM_H

#include "driver.h"
#include "pin.h"

// Keeps the memory on the card that the program mapped in [address, address + bytes), until it has neither handles of
// it nor mappings; waits until it is there. CUDA_SUCCESS, also if nothing is mapped there, or the error of the setting
// without a relay.
CUresult nvs_vmm_pin(CUdeviceptr address, uint64_t bytes, enum nvs_pin pin);

#endif
