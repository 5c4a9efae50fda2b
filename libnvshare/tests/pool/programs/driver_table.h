// The table of the driver's functions as the pool uses it, filled from the emulated driver.
#ifndef NVS_TEST_DRIVER_TABLE_H
#define NVS_TEST_DRIVER_TABLE_H

#include "driver.h"

#include <stdbool.h>

// Registering fails while this is set, as it does where the host forbids it.
extern bool register_is_refused;

// Starts the driver and fills nvs_real.
void fill_driver_table(void);

#endif
