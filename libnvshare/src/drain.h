// Draining a device: waiting, without ever blocking, until what passed its gate before it closed has ended.
//
// All of it belongs to the control thread. A drain names the classes that the gate is closed for. It is over when no
// thread is in a call of them and every stream has come as far as it had been launched by then. While a capture is open
// no mark can be recorded, which defers it.
#ifndef NVS_DRAIN_H
#define NVS_DRAIN_H

#include "device.h"

// Marks what is not marked yet, and takes in what has completed. True if nothing is in flight on the device.
bool nvs_drain_settle(struct nvs_device *device);

// The gate is, and stays, closed for these classes; 0: for none, the device runs. A drain that already covers them goes
// on, or is over, as it was.
void nvs_drain_begin(struct nvs_device *device, uint32_t classes, uint64_t now_ns);

// One look. True: the drain is over, or there is none.
bool nvs_drain_look(struct nvs_device *device, uint64_t now_ns);

// Every stream's next call begins a new stretch of work.
void nvs_drain_set_idle(struct nvs_device *device);

#endif
