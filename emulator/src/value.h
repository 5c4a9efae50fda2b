/* Writes of values to memory, and waits for values, in stream order. */
#ifndef EMU_VALUE_H
#define EMU_VALUE_H

#include "driver.h"

CUresult emu_value_write(CUstream handle, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags);
CUresult emu_value_wait(CUstream handle, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags);
/* Several of them, in their order; all are checked before the first is put into the stream. */
CUresult emu_value_batch(CUstream handle, const CUstreamBatchMemOpParams *operations, unsigned count);

#endif
