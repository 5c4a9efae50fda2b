/* Copies and fills as work items. */
#ifndef EMU_COPY_H
#define EMU_COPY_H

#include "driver.h"

#define EMU_STAGED_BYTES                                                                                               \
    65536 /* a pageable source up to this size is copied aside at the call, as the real driver does */

/* Describe a copy of `height` rows of `width_bytes`. Host or device is decided from the addresses. */
CUresult emu_copy_work(CUcontext context, const struct emu_copy *copy, struct emu_work *work);

/* Describe a fill. */
CUresult emu_fill_work(CUcontext context, const struct emu_fill *fill, struct emu_work *work);

/* Enqueue a copy; a synchronous one, or one with pageable memory that may not be touched later, is waited for. */
CUresult emu_copy_submit(const struct emu_copy *copy, CUstream handle, bool synchronous);
CUresult emu_fill_submit(const struct emu_fill *fill, CUstream handle);

#endif
