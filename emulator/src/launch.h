/* Launches as work. `shape` is the grid's x, y, z and the block's x, y, z. */
#ifndef EMU_LAUNCH_H
#define EMU_LAUNCH_H

#include "driver.h"

CUresult emu_launch_work(CUfunction function, const unsigned shape[6], void **parameters, void **extra,
                         struct emu_work *work);
CUresult emu_launch_submit(CUfunction function, const unsigned shape[6], void **parameters, void **extra,
                           CUstream handle);

#endif
