/* Declares every entry point of symbols.def with the type that NVIDIA's cudaTypedefs.h gives it, so that a definition
 * of another type does not compile. For sources that define or name older versions of an entry point. */
#ifndef EMU_ENTRY_POINTS_H
#define EMU_ENTRY_POINTS_H

#include <cudaTypedefs.h>

#undef cuGetProcAddress
#undef cuEventElapsedTime
#undef cuMemPrefetchAsync
#undef cuMemAdvise
#undef cuStreamGetCaptureInfo
#undef cuMemcpyBatchAsync
#undef cuCtxCreate
#undef cuIpcOpenMemHandle
#undef cuDeviceGetUuid
#undef cuGraphExecUpdate

#define EMU_SYMBOL(base, version, function, per_thread, type) extern __typeof__(*(type)0) function;
#include "symbols.def"
#undef EMU_SYMBOL

#endif
