#include "mapping.h"

#include "log.h"
#include "physical.h"

#include <stdlib.h>
#include <string.h>

// Under the lock:
static pthread_mutex_t nvs_table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_mapping **nvs_mappings; // by address
static size_t nvs_mapping_room;
static _Atomic size_t nvs_mapping_count;         // also read without it
static struct nvs_reservation *nvs_reservations; // by address
static size_t nvs_reservation_count, nvs_reservation_room;

void nvs_mapping_lock(void) {
    pthread_mutex_lock(&nvs_table_lock);
}

void nvs_mapping_unlock(void) {
    pthread_mutex_unlock(&nvs_table_lock);
}

// ---- The table

// Index of the first mapping that ends after the address.
static size_t nvs_mapping_index(uint64_t address) {
    size_t low = 0, high = nvs_mapping_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nvs_mappings[middle]->address + nvs_mappings[middle]->bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct nvs_mapping *nvs_mapping_from(uint64_t address) {
    size_t at = nvs_mapping_index(address);
    return at < nvs_mapping_count ? nvs_mappings[at] : NULL;
}

static struct nvs_mapping *nvs_mapping_at(uint64_t address) {
    struct nvs_mapping *mapping = nvs_mapping_from(address);
    return mapping != NULL && mapping->address <= address ? mapping : NULL;
}

bool nvs_mapping_add(struct nvs_mapping *mapping) {
    size_t count = nvs_mapping_count;
    if (count == nvs_mapping_room) {
        size_t room = nvs_mapping_room == 0 ? 64 : 2 * nvs_mapping_room;
        struct nvs_mapping **grown = realloc(nvs_mappings, room * sizeof(struct nvs_mapping *));
        if (grown == NULL)
            return false;
        nvs_mappings = grown;
        nvs_mapping_room = room;
    }
    size_t at = nvs_mapping_index(mapping->address);
    memmove(&nvs_mappings[at + 1], &nvs_mappings[at], (count - at) * sizeof(struct nvs_mapping *));
    nvs_mappings[at] = mapping;
    nvs_mapping_count = count + 1;
    mapping->next_of_block = mapping->block->physical->mappings;
    mapping->block->physical->mappings = mapping;
    return true;
}

void nvs_mapping_remove(struct nvs_mapping *mapping) {
    size_t at = nvs_mapping_index(mapping->address), after = nvs_mapping_count - at - 1;
    memmove(&nvs_mappings[at], &nvs_mappings[at + 1], after * sizeof(struct nvs_mapping *));
    nvs_mapping_count = at + after;
    struct nvs_mapping **link = &mapping->block->physical->mappings;
    while (*link != mapping)
        link = &(*link)->next_of_block;
    *link = mapping->next_of_block;
}

struct nvs_device *nvs_mapping_device_of(CUdeviceptr address) {
    if (atomic_load_explicit(&nvs_mapping_count, memory_order_acquire) == 0)
        return NULL;
    nvs_mapping_lock();
    const struct nvs_mapping *mapping = nvs_mapping_at(address);
    struct nvs_device *device = mapping == NULL ? NULL : mapping->device;
    nvs_mapping_unlock();
    return device;
}

bool nvs_mapping_facts(CUdeviceptr address, struct nvs_device **device, struct nvs_block_facts *facts) {
    if (atomic_load_explicit(&nvs_mapping_count, memory_order_acquire) == 0)
        return false;
    nvs_mapping_lock();
    const struct nvs_mapping *mapping = nvs_mapping_at(address);
    if (mapping != NULL) {
        const struct nvs_reservation *reservation = nvs_reservation_find(address);
        const struct nvs_block *block = mapping->block;
        *device = mapping->device;
        pthread_mutex_lock(&mapping->device->memory.lock);
        *facts = (struct nvs_block_facts){
            .address = mapping->address,
            .bytes = mapping->bytes,
            .identity = mapping->identity,
            .synchronous = block->synchronous,
            .rdma = mapping->device->memory.rdma,
            .mapped = true,
            .home = block->address + mapping->offset + (address - mapping->address),
            .range_address = reservation != NULL ? reservation->address : mapping->address,
            .range_bytes = reservation != NULL ? reservation->bytes : mapping->bytes,
            .access = mapping->access[mapping->device->ordinal],
            .handle_types = block->physical->properties.requestedHandleTypes,
        };
        pthread_mutex_unlock(&mapping->device->memory.lock);
    }
    nvs_mapping_unlock();
    return mapping != NULL;
}

// ---- Reservations

// Index of the first reservation that ends after the address.
static size_t nvs_reservation_index(uint64_t address) {
    size_t low = 0, high = nvs_reservation_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (nvs_reservations[middle].address + nvs_reservations[middle].bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

struct nvs_reservation *nvs_reservation_find(uint64_t address) {
    size_t at = nvs_reservation_index(address);
    return at < nvs_reservation_count && nvs_reservations[at].address <= address ? &nvs_reservations[at] : NULL;
}

void nvs_reservation_add(uint64_t address, uint64_t bytes) {
    if (nvs_reservation_count == nvs_reservation_room) {
        size_t room = nvs_reservation_room == 0 ? 16 : 2 * nvs_reservation_room;
        struct nvs_reservation *grown = realloc(nvs_reservations, room * sizeof(*grown));
        if (grown == NULL)
            return; // what is mapped there waits for its memory, as in every place that is not known
        nvs_reservations = grown;
        nvs_reservation_room = room;
    }
    size_t at = nvs_reservation_index(address), after = nvs_reservation_count - at;
    memmove(&nvs_reservations[at + 1], &nvs_reservations[at], after * sizeof(*nvs_reservations));
    nvs_reservations[at] = (struct nvs_reservation){address, bytes, false};
    nvs_reservation_count++;
}

void nvs_reservation_remove(uint64_t address) {
    size_t at = nvs_reservation_index(address);
    if (at == nvs_reservation_count || nvs_reservations[at].address != address)
        return;
    nvs_reservation_count--;
    memmove(&nvs_reservations[at], &nvs_reservations[at + 1], (nvs_reservation_count - at) * sizeof(*nvs_reservations));
}

// ---- Pieces: what a mapping has of an extent

struct nvs_piece {
    uint64_t address, bytes; // where the program wants it
    uint64_t offset;         // in the extent
};

// False: it has nothing of it.
static bool nvs_piece_of(const struct nvs_mapping *mapping, const struct nvs_extent *extent, struct nvs_piece *piece) {
    uint64_t home = mapping->block->address + mapping->offset;
    uint64_t from = home > extent->address ? home : extent->address;
    uint64_t home_end = home + mapping->bytes, extent_end = extent->address + extent->bytes;
    uint64_t to = home_end < extent_end ? home_end : extent_end;
    if (from >= to)
        return false;
    *piece = (struct nvs_piece){mapping->address + (from - home), to - from, from - extent->address};
    return true;
}

// The access that the program has set, on a piece that is mapped anew and has none.
static CUresult nvs_piece_restore_access(const struct nvs_mapping *mapping, const struct nvs_piece *piece) {
    CUmemAccessDesc access[NVS_DEVICES_MAX];
    size_t count = 0;
    for (int i = 0; i < NVS_DEVICES_MAX; i++)
        if (mapping->access[i] != CU_MEM_ACCESS_FLAGS_PROT_NONE)
            access[count++] = (CUmemAccessDesc){.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = i},
                                                .flags = (CUmemAccess_flags)mapping->access[i]};
    return count == 0 ? CUDA_SUCCESS : nvs_real.cuMemSetAccess(piece->address, piece->bytes, access, count);
}

static CUresult nvs_piece_map(const struct nvs_mapping *mapping, const struct nvs_extent *extent) {
    struct nvs_piece piece;
    if (!nvs_piece_of(mapping, extent, &piece))
        return CUDA_SUCCESS;
    CUresult result = nvs_real.cuMemMap(piece.address, piece.bytes, piece.offset, extent->handle, 0);
    if (result != CUDA_SUCCESS)
        return result;
    result = nvs_piece_restore_access(mapping, &piece);
    if (result != CUDA_SUCCESS && nvs_real.cuMemUnmap(piece.address, piece.bytes) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_ERROR, "memory that could not be used stays mapped where the program wanted it");
    return result;
}

static CUresult nvs_piece_unmap(const struct nvs_mapping *mapping, const struct nvs_extent *extent) {
    struct nvs_piece piece;
    if (!nvs_piece_of(mapping, extent, &piece))
        return CUDA_SUCCESS;
    return nvs_real.cuMemUnmap(piece.address, piece.bytes);
}

// Does one of the two to a piece; or, of one that is to be undone, the other, which then can only be told.
static CUresult nvs_piece_do(const struct nvs_mapping *mapping, const struct nvs_extent *extent, bool maps) {
    return maps ? nvs_piece_map(mapping, extent) : nvs_piece_unmap(mapping, extent);
}

static void nvs_piece_undo(const struct nvs_mapping *mapping, const struct nvs_extent *extent, bool maps) {
    if (nvs_piece_do(mapping, extent, !maps) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_ERROR, "%s: what the program mapped is lost to it, since the driver fails",
                     mapping->device->uuid);
}

// The driver has what the program mapped of it. One that is away has none, also where the driver does not unmap it for
// the library.
static bool nvs_extent_is_live(const struct nvs_extent *extent) {
    return extent->place != NVS_EXTENT_AWAY;
}

// The extents under a mapping: indices [*first, *end).
static void nvs_mapping_extents(const struct nvs_mapping *mapping, size_t *first, size_t *end) {
    const struct nvs_arena *arena = &mapping->device->memory.arena;
    uint64_t home = mapping->block->address + mapping->offset;
    *first = nvs_arena_extent_from(arena, home);
    *end = nvs_arena_extent_from(arena, home + mapping->bytes - 1) + 1;
}

static CUresult nvs_mapping_do(const struct nvs_mapping *mapping, bool maps) {
    struct nvs_extent *const *extents = mapping->device->memory.arena.extents;
    size_t first, end;
    nvs_mapping_extents(mapping, &first, &end);
    for (size_t i = first; i < end; i++) {
        CUresult result = nvs_extent_is_live(extents[i]) ? nvs_piece_do(mapping, extents[i], maps) : CUDA_SUCCESS;
        if (result == CUDA_SUCCESS)
            continue;
        while (i-- > first)
            if (nvs_extent_is_live(extents[i]))
                nvs_piece_undo(mapping, extents[i], maps);
        return result;
    }
    return CUDA_SUCCESS;
}

CUresult nvs_mapping_map(const struct nvs_mapping *mapping) {
    return nvs_mapping_do(mapping, true);
}

CUresult nvs_mapping_unmap(const struct nvs_mapping *mapping) {
    return nvs_mapping_do(mapping, false);
}

// The first mapping of the block that an extent belongs to; NULL: none, as of every extent that does not lie apart.
static const struct nvs_mapping *nvs_mapping_of_extent(const struct nvs_device *device,
                                                       const struct nvs_extent *extent) {
    const struct nvs_arena *arena = &device->memory.arena;
    if (!nvs_arena_is_apart(arena, extent->address))
        return NULL;
    const struct nvs_block *block = nvs_arena_find_block(arena, extent->address);
    return block == NULL || block->physical == NULL ? NULL : block->physical->mappings;
}

static CUresult nvs_mapping_do_extent(const struct nvs_device *device, const struct nvs_extent *extent, bool maps) {
    const struct nvs_mapping *first = nvs_mapping_of_extent(device, extent);
    for (const struct nvs_mapping *mapping = first; mapping != NULL; mapping = mapping->next_of_block) {
        CUresult result = nvs_piece_do(mapping, extent, maps);
        if (result == CUDA_SUCCESS)
            continue;
        for (const struct nvs_mapping *done = first; done != mapping; done = done->next_of_block)
            nvs_piece_undo(done, extent, maps);
        return result;
    }
    return CUDA_SUCCESS;
}

CUresult nvs_mapping_attach(struct nvs_device *device, const struct nvs_extent *extent) {
    return nvs_mapping_do_extent(device, extent, true);
}

CUresult nvs_mapping_detach(struct nvs_device *device, const struct nvs_extent *extent) {
    return nvs_mapping_do_extent(device, extent, false);
}

void nvs_mapping_note_access(struct nvs_mapping *mapping, const CUmemAccessDesc *access, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (access[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE && access[i].location.id >= 0 &&
            access[i].location.id < NVS_DEVICES_MAX)
            mapping->access[access[i].location.id] = (uint8_t)access[i].flags;
}

CUresult nvs_mapping_set_access(const struct nvs_mapping *mapping, const CUmemAccessDesc *access, size_t count) {
    struct nvs_extent *const *extents = mapping->device->memory.arena.extents;
    CUresult result = CUDA_SUCCESS;
    struct nvs_piece piece;
    size_t first, end;
    nvs_mapping_extents(mapping, &first, &end);
    for (size_t i = first; i < end && result == CUDA_SUCCESS; i++)
        if (nvs_extent_is_live(extents[i]) && nvs_piece_of(mapping, extents[i], &piece))
            result = nvs_real.cuMemSetAccess(piece.address, piece.bytes, access, count);
    return result;
}

bool nvs_mapping_is_live(const struct nvs_mapping *mapping) {
    struct nvs_extent *const *extents = mapping->device->memory.arena.extents;
    size_t first, end;
    nvs_mapping_extents(mapping, &first, &end);
    for (size_t i = first; i < end; i++)
        if (!nvs_extent_is_live(extents[i]))
            return false;
    return true;
}

void nvs_mapping_atfork_child(void) {
    // What the parent's table consists of is left where it is: another thread may have been changing it.
    pthread_mutex_init(&nvs_table_lock, NULL);
    nvs_mappings = NULL;
    nvs_reservations = NULL;
    nvs_mapping_count = nvs_mapping_room = nvs_reservation_count = nvs_reservation_room = 0;
}
