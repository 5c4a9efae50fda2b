/* Each thread's stack of current contexts. */
#ifndef EMU_CURRENT_H
#define EMU_CURRENT_H

#include "driver.h"

/* Push a context onto the calling thread's stack. */
CUresult emu_current_push(CUcontext context);
/* Pop the context if it is on top. */
void emu_current_forget(CUcontext context);

#endif
