/* Events as handles. */
#ifndef EMU_EVENT_H
#define EMU_EVENT_H

#include "driver.h"

bool emu_event_is_valid(CUevent event);

#endif
