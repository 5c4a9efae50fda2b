// The life of the library in its process: start, fork, end.
#ifndef NVS_LIBRARY_H
#define NVS_LIBRARY_H

#include <stdbool.h>

// The bound of work in flight where no grant says another: alone on the card (design, section 4).
#define NVS_WINDOW_US 20000u

// Makes everything ready that does not need the driver's cuInit. Cheap when done. False: there is no driver.
bool nvs_library_start(void);

// The process is ending: nothing waits any more.
bool nvs_library_leaving(void);

#endif
