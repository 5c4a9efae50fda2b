// Why memory of a device cannot leave the card, counted by reason, for people to read in the status.
//
// Two kinds: blocks of the arena that something outside refers to, which stay until they are freed; and allocations
// that are the driver's own, which nobody can move. Owner of the counts in struct nvs_device: this module.
#ifndef NVS_PIN_H
#define NVS_PIN_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

enum nvs_pin {
    NVS_PIN_IPC,      // a block is exported to other processes
    NVS_PIN_RANGE,    // a block has a dma-buf
    NVS_PIN_RDMA,     // a block was prepared for other devices on the bus
    NVS_PIN_ACCESS,   // a handle of the program's may be reached by what is no device of its own
    NVS_PIN_BOUND,    // a handle of the program's is part of a multicast object
    NVS_PIN_EXPORTED, // a handle of the program's was handed to other processes
    NVS_PIN_LINEAR,   // linear memory of a device without an arena
    NVS_PIN_MANAGED,
    NVS_PIN_STREAM_ORDERED,
    NVS_PIN_EXPORTABLE, // physical memory that can be exported, of a kind that only the driver can make
    NVS_PIN_HANDLE,     // physical memory of another kind that only the driver can make
    NVS_PIN_ARRAY,
    NVS_PINS,
};

struct nvs_pins {
    _Atomic uint32_t counts[NVS_PINS];
};

static inline void nvs_pin_add(struct nvs_pins *pins, enum nvs_pin pin) {
    atomic_fetch_add_explicit(&pins->counts[pin], 1, memory_order_relaxed);
}

static inline void nvs_pin_remove(struct nvs_pins *pins, enum nvs_pin pin) {
    atomic_fetch_sub_explicit(&pins->counts[pin], 1, memory_order_relaxed);
}

// Writes them as text, "2 blocks exported by cuIpcGetMemHandle, 1 array"; "" if there are none. Cut to size.
void nvs_pin_text(const struct nvs_pins *pins, char *text, size_t size);

#endif
