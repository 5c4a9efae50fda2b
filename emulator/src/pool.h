/* Memory pools. */
#ifndef EMU_POOL_H
#define EMU_POOL_H

#include "driver.h"

CUresult emu_pool_allocate(CUdeviceptr *pointer, size_t bytes, CUmemoryPool pool, CUstream handle);
CUresult emu_pool_free(CUdeviceptr pointer, CUstream handle);

#endif
