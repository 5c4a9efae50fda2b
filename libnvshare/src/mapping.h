// What the program maps itself: its reservations of addresses, and its mappings of physical memory that can move.
//
// Such memory is a block that lies apart in the arena (physical.h), where its extents are mapped as those of every
// block: that is where the mover copies them. What the program maps are *further* mappings of these extents. While an
// extent is on the card they are the driver's, too; while it is away they are only here, and are made again with it.
//
// Locks: the table's lock is taken before a memory's, and memories' locks in the order of the devices. What this table
// holds changes under the table's lock and that of the memory that is mapped, and may be read under either.
#ifndef NVS_MAPPING_H
#define NVS_MAPPING_H

#include "device.h"

struct nvs_mapping {
    uint64_t address, bytes; // where the program wants it
    uint64_t offset;         // in the block
    struct nvs_device *device;
    struct nvs_block *block;
    uint64_t identity;               // of the buffer, never used again
    uint8_t access[NVS_DEVICES_MAX]; // CUmemAccess_flags of each device
    struct nvs_mapping *next_of_block;
};

// Addresses that the program has reserved.
struct nvs_reservation {
    uint64_t address, bytes;
    bool foreign; // memory was mapped there of which the table knows nothing
};

void nvs_mapping_lock(void);
void nvs_mapping_unlock(void);

// The device whose memory the program mapped at this address; NULL: none. Takes the lock; cheap where nothing is
// mapped.
struct nvs_device *nvs_mapping_device_of(CUdeviceptr address);

// What is known of the mapping that holds this address, and its device. False: there is none. Takes the locks.
bool nvs_mapping_facts(CUdeviceptr address, struct nvs_device **device, struct nvs_block_facts *facts);

// ---- Callers hold the table's lock.

// The mapping that holds the address, or else the first one above it; NULL: none.
struct nvs_mapping *nvs_mapping_from(uint64_t address);

// Adds it to the table, or removes it. False: no host memory. Callers hold the memory's lock, too.
bool nvs_mapping_add(struct nvs_mapping *mapping);
void nvs_mapping_remove(struct nvs_mapping *mapping);

// Remembers (forgets) a reservation, or finds the one that holds the address; NULL: none.
void nvs_reservation_add(uint64_t address, uint64_t bytes);
void nvs_reservation_remove(uint64_t address);
struct nvs_reservation *nvs_reservation_find(uint64_t address);

// ---- Callers hold the memory's lock. All or nothing; CUDA_SUCCESS or the driver's error.

// Makes (undoes) the driver's part of a mapping: on all extents that are on the card.
CUresult nvs_mapping_map(const struct nvs_mapping *mapping);
CUresult nvs_mapping_unmap(const struct nvs_mapping *mapping);

// Makes (undoes) the driver's part of all mappings of an extent, which is on the card.
CUresult nvs_mapping_attach(struct nvs_device *device, const struct nvs_extent *extent);
CUresult nvs_mapping_detach(struct nvs_device *device, const struct nvs_extent *extent);

// Remembers what access the program has set; tells the driver, as far as the extents are on the card. The second may
// end half-way.
void nvs_mapping_note_access(struct nvs_mapping *mapping, const CUmemAccessDesc *access, size_t count);
CUresult nvs_mapping_set_access(const struct nvs_mapping *mapping, const CUmemAccessDesc *access, size_t count);

// True if all extents under it are on the card, or on their way.
bool nvs_mapping_is_live(const struct nvs_mapping *mapping);

// After a fork: nothing is mapped.
void nvs_mapping_atfork_child(void);

#endif
