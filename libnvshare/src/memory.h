// A device's linear memory: what cuMemAlloc gives comes out of one reservation of addresses, backed by extents.
//
// The addresses of a block are its own until it is freed; the physical memory under them may leave and come back.
// Freeing waits for what was launched before it, as the driver's own cuMemFree does; where that cannot be waited for (a
// stream is being captured), the block is in quarantine: gone for the program, its addresses not yet used again.
//
// Locks: a memory's `lock` may be held over calls of the driver. A device's `lock` may be taken under it; a stream's
// never.
#ifndef NVS_MEMORY_H
#define NVS_MEMORY_H

#include "arena.h"
#include "pin.h"
#include "quarantine.h"

#include <pthread.h>
#include <stdatomic.h>

struct nvs_device;

struct nvs_memory {
    // Of the reservation; 0 bytes: there is none. Written once, before any address of it is known outside.
    _Atomic uint64_t address, bytes;

    pthread_mutex_t lock;
    // Under lock:
    bool tried; // to reserve addresses
    struct nvs_arena arena;
    bool exports;                 // its extents can be handed to other processes as descriptors
    bool rdma;                    // its extents can be reached by other devices on the bus
    CUcontext context;            // of the last allocation
    struct nvs_quarantine ending; // blocks that were freed after all work so far
    size_t ordered;               // blocks that were freed in the order of streams, and are in their quarantines
    uint64_t identity;            // of the last block
};

// After a fork, and before first use: nothing is known.
void nvs_memory_reset(struct nvs_memory *memory);

// True if this device's linear memory comes out of a reservation; tries to make one the first time.
bool nvs_memory_ready(struct nvs_device *device);

// The device whose linear memory has this address, or NULL. Without a lock.
struct nvs_device *nvs_memory_device_of(CUdeviceptr address);

// An allocation as it is asked for.
struct nvs_request {
    uint64_t bytes;
    CUcontext context;             // that is current; NULL: one of another device
    struct nvs_mempool *pool;      // NULL: the block belongs to the context, and ends with it
    struct nvs_stream *stream;     // in whose order it is used first; NULL: in none
    struct nvs_physical *physical; // the block is this handle of cuMemCreate, and lies apart; NULL: it is none
    bool whole;                    // such a block is to be one extent, at most NVS_EXTENT_WHOLE_BYTES
};

// Allocates, waiting for the scheduler if need be. CUDA_SUCCESS and the address, CUDA_ERROR_OUT_OF_MEMORY, or the error
// of the setting without a relay.
CUresult nvs_memory_allocate(struct nvs_device *device, const struct nvs_request *request, CUdeviceptr *address);

// Frees the block that begins there: after all work so far, waiting for it; or, if a stream is given, after so many of
// its calls, waiting for nothing. CUDA_ERROR_INVALID_VALUE: no block begins there.
CUresult nvs_memory_free(struct nvs_device *device, CUdeviceptr address, struct nvs_stream *stream, uint64_t calls);

// Ends the blocks in quarantine whose work is done; waits for it, if so asked and no capture forbids it. False: some
// are left, look again.
bool nvs_memory_sweep(struct nvs_device *device, bool waits);

// A context of the device was made: memory may be moved in it that outlived those before.
void nvs_memory_context_made(struct nvs_device *device, CUcontext context);

// A context has ended, and its allocations with it.
void nvs_memory_context_ended(CUcontext context);

// A green context of the device has ended: what was allocated in it is the other one's.
void nvs_memory_context_replaced(struct nvs_device *device, CUcontext context, CUcontext other);

// Another device may access this one's memory from now on: what is there, and what will be. Waits until it is there.
// NULL: no device.
void nvs_memory_share(struct nvs_device *device, struct nvs_device *accessor);

// What is known of the block that holds an address of the arena, or of the mapping of it that the program made there.
struct nvs_block_facts {
    uint64_t address, bytes; // as the program asked
    uint64_t identity;
    CUcontext context;
    bool synchronous, rdma;
    struct nvs_mempool *pool;            // NULL: of none
    uint64_t home;                       // where the address that was asked for is in the arena
    bool mapped;                         // by the program itself, and then:
    uint64_t range_address, range_bytes; // the program's reservation
    uint32_t access;                     // of the memory's own device: CUmemAccess_flags
    uint32_t handle_types;               // that it may be exported as: CUmemAllocationHandleType
};

// CUDA_SUCCESS, or CUDA_ERROR_INVALID_VALUE: no block holds it.
CUresult nvs_memory_facts(struct nvs_device *device, CUdeviceptr address, struct nvs_block_facts *facts);

// Keeps the block that holds [address, address + bytes) on the card until it is freed; waits until it is there.
// CUDA_SUCCESS, CUDA_ERROR_INVALID_VALUE (no one block holds it), or the error of the setting without a relay. With
// `call`, makes it while the block can neither move nor end, and pins only if it gives CUDA_SUCCESS.
CUresult nvs_memory_pin(struct nvs_device *device, CUdeviceptr address, uint64_t bytes, enum nvs_pin pin,
                        CUresult (*call)(struct nvs_block *block, void *argument), void *argument);

// One process less has the block mapped (nvs_block.imports). What was freed meanwhile stays, pinned, until none has:
// its physical memory stays on the card anyway.
void nvs_memory_import_ended(struct nvs_device *device, uint64_t address, uint64_t identity);

// Takes a block out of the arena, with its pins, once no other process has it mapped. Caller holds the memory's lock.
void nvs_memory_end(struct nvs_device *device, struct nvs_block *block);

// Takes all pins off a block that ends. Caller holds the memory's lock.
void nvs_memory_unpin(struct nvs_device *device, struct nvs_block *block);

// Gives the memory of extents without blocks back. Caller holds the memory's lock.
void nvs_memory_trim(struct nvs_device *device, uint64_t from, uint64_t to);

// The same for an extent that was under way and is at rest again, whose block may have been freed meanwhile.
void nvs_memory_settle(struct nvs_device *device, uint64_t from, uint64_t to);

// A context of this device that lives: that of the last allocation if it does. NULL: none. Caller holds the memory's
// lock.
CUcontext nvs_memory_context(struct nvs_device *device);

#endif
