#include "mempool.h"

#include "allocate.h"
#include "call.h"
#include "capture.h"
#include "footprint.h"
#include "library.h"
#include "log.h"
#include "managed.h"

#include <pthread.h>
#include <stdlib.h>

// Covers the list and the handles. No other lock is taken under it.
static pthread_mutex_t nvs_mempool_lock = PTHREAD_MUTEX_INITIALIZER;
static struct nvs_mempool *nvs_mempools;

// ---- Their account

static void nvs_mempool_raise(_Atomic uint64_t *sum, _Atomic uint64_t *high, uint64_t bytes) {
    uint64_t now = atomic_fetch_add_explicit(sum, bytes, memory_order_relaxed) + bytes;
    uint64_t before = atomic_load_explicit(high, memory_order_relaxed);
    while (now > before &&
           !atomic_compare_exchange_weak_explicit(high, &before, now, memory_order_relaxed, memory_order_relaxed)) {
    }
}

void nvs_mempool_took(struct nvs_mempool *pool, uint64_t bytes, uint64_t reserved_bytes) {
    if (pool == NULL)
        return;
    nvs_mempool_raise(&pool->used_bytes, &pool->used_high_bytes, bytes);
    nvs_mempool_raise(&pool->reserved_bytes, &pool->reserved_high_bytes, reserved_bytes);
}

void nvs_mempool_freed(struct nvs_mempool *pool, uint64_t bytes) {
    if (pool != NULL)
        atomic_fetch_sub_explicit(&pool->used_bytes, bytes, memory_order_relaxed);
}

void nvs_mempool_ended(struct nvs_mempool *pool, uint64_t reserved_bytes) {
    if (pool != NULL)
        atomic_fetch_sub_explicit(&pool->reserved_bytes, reserved_bytes, memory_order_relaxed);
}

// ---- Which they are

// Caller holds the lock.
static struct nvs_mempool *nvs_mempool_search(CUmemoryPool handle) {
    struct nvs_mempool *pool = nvs_mempools;
    while (pool != NULL && pool->handle != handle)
        pool = pool->next;
    return pool;
}

// Makes a record, or takes one whose pool and blocks are gone. Caller holds the lock.
static struct nvs_mempool *nvs_mempool_make(CUmemoryPool handle, struct nvs_device *device) {
    struct nvs_mempool *pool = nvs_mempools;
    while (pool != NULL && (pool->handle != NULL || atomic_load(&pool->reserved_bytes) != 0))
        pool = pool->next;
    if (pool == NULL) {
        pool = calloc(1, sizeof(*pool));
        if (pool == NULL)
            return NULL;
        pool->next = nvs_mempools;
        nvs_mempools = pool;
    }
    pool->device = device;
    pool->handle = handle;
    atomic_store(&pool->used_high_bytes, 0);
    atomic_store(&pool->reserved_high_bytes, 0);
    return pool;
}

// The device whose default pool it is, of those in use; NULL: none's.
static struct nvs_device *nvs_mempool_default_of(CUmemoryPool handle) {
    CUmemoryPool standard = NULL;
    for (size_t i = 0; nvs_real.cuDeviceGetDefaultMemPool != NULL && i < nvs_device_count(); i++)
        if (atomic_load_explicit(&nvs_devices[i].in_use, memory_order_acquire) &&
            nvs_real.cuDeviceGetDefaultMemPool(&standard, nvs_devices[i].ordinal) == CUDA_SUCCESS && standard == handle)
            return &nvs_devices[i];
    return NULL;
}

// The pool if its memory comes out of the arena; NULL: it is the driver's own.
static struct nvs_mempool *nvs_mempool_find(CUmemoryPool handle) {
    if (handle == NULL)
        return NULL;
    pthread_mutex_lock(&nvs_mempool_lock);
    struct nvs_mempool *pool = nvs_mempool_search(handle);
    struct nvs_device *device = pool == NULL ? nvs_mempool_default_of(handle) : NULL;
    if (device != NULL)
        pool = nvs_mempool_make(handle, device);
    pthread_mutex_unlock(&nvs_mempool_lock);
    return pool != NULL && nvs_memory_ready(pool->device) ? pool : NULL;
}

NVS_EXPORT CUresult cuMemPoolCreate(CUmemoryPool *pool, const CUmemPoolProps *poolProps) {
    if (!nvs_library_start() || nvs_real.cuMemPoolCreate == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuMemPoolCreate(pool, poolProps);
    if (result != CUDA_SUCCESS || poolProps->handleTypes != CU_MEM_HANDLE_TYPE_NONE || poolProps->maxSize != 0 ||
        poolProps->allocType != CU_MEM_ALLOCATION_TYPE_PINNED ||
        poolProps->location.type != CU_MEM_LOCATION_TYPE_DEVICE)
        return result;
    nvs_devices_learn();
    struct nvs_device *device = nvs_device_of_ordinal(poolProps->location.id);
    pthread_mutex_lock(&nvs_mempool_lock);
    if (device != NULL && nvs_mempool_make(*pool, device) == NULL)
        nvs_log_once(NVS_LOG_WARN, "no host memory to remember a pool: its memory stays on the card");
    pthread_mutex_unlock(&nvs_mempool_lock);
    return result;
}

NVS_EXPORT CUresult cuMemPoolDestroy(CUmemoryPool pool) {
    if (!nvs_library_start() || nvs_real.cuMemPoolDestroy == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    // Forgotten first: the handle may be another pool's as soon as the driver has destroyed it.
    pthread_mutex_lock(&nvs_mempool_lock);
    struct nvs_mempool *known = pool == NULL ? NULL : nvs_mempool_search(pool);
    if (known != NULL)
        known->handle = NULL; // its blocks live on until they are freed
    CUresult result = nvs_real.cuMemPoolDestroy(pool);
    if (known != NULL && result != CUDA_SUCCESS)
        known->handle = pool;
    pthread_mutex_unlock(&nvs_mempool_lock);
    return result;
}

NVS_EXPORT CUresult cuMemPoolSetAccess(CUmemoryPool pool, const CUmemAccessDesc *map, size_t count) {
    if (!nvs_library_start() || nvs_real.cuMemPoolSetAccess == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuMemPoolSetAccess(pool, map, count);
    struct nvs_mempool *known = result == CUDA_SUCCESS ? nvs_mempool_find(pool) : NULL;
    for (size_t i = 0; known != NULL && i < count; i++)
        if (map[i].location.type == CU_MEM_LOCATION_TYPE_DEVICE && map[i].flags == CU_MEM_ACCESS_FLAGS_PROT_READWRITE)
            nvs_memory_share(known->device, nvs_device_of_ordinal(map[i].location.id));
    return result;
}

// The sums of a pool that an attribute is about; NULL: about none.
static _Atomic uint64_t *nvs_mempool_sum(struct nvs_mempool *pool, CUmemPool_attribute attribute) {
    switch (attribute) {
    case CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT:
        return &pool->reserved_bytes;
    case CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH:
        return &pool->reserved_high_bytes;
    case CU_MEMPOOL_ATTR_USED_MEM_CURRENT:
        return &pool->used_bytes;
    case CU_MEMPOOL_ATTR_USED_MEM_HIGH:
        return &pool->used_high_bytes;
    default:
        return NULL;
    }
}

NVS_EXPORT CUresult cuMemPoolGetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    if (!nvs_library_start() || nvs_real.cuMemPoolGetAttribute == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuMemPoolGetAttribute(pool, attr, value);
    struct nvs_mempool *known = result == CUDA_SUCCESS ? nvs_mempool_find(pool) : NULL;
    const _Atomic uint64_t *sum = known == NULL ? NULL : nvs_mempool_sum(known, attr);
    if (sum != NULL) // the driver's own part is what graphs allocate
        *(cuuint64_t *)value += atomic_load_explicit(sum, memory_order_relaxed);
    return result;
}

NVS_EXPORT CUresult cuMemPoolSetAttribute(CUmemoryPool pool, CUmemPool_attribute attr, void *value) {
    if (!nvs_library_start() || nvs_real.cuMemPoolSetAttribute == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUresult result = nvs_real.cuMemPoolSetAttribute(pool, attr, value);
    struct nvs_mempool *known = result == CUDA_SUCCESS ? nvs_mempool_find(pool) : NULL;
    if (known != NULL && attr == CU_MEMPOOL_ATTR_RESERVED_MEM_HIGH)
        atomic_store(&known->reserved_high_bytes, atomic_load(&known->reserved_bytes));
    if (known != NULL && attr == CU_MEMPOOL_ATTR_USED_MEM_HIGH)
        atomic_store(&known->used_high_bytes, atomic_load(&known->used_bytes));
    return result;
}

// ---- Allocating and freeing in stream order

// Out of the arena. CUDA_ERROR_NOT_SUPPORTED: the pool is the driver's own.
static CUresult nvs_order_allocate(CUmemoryPool handle, CUstream stream, size_t bytes, CUdeviceptr *address) {
    CUcontext context = NULL;
    struct nvs_device *device = nvs_device_current(&context);
    struct nvs_mempool *pool = device == NULL ? NULL : nvs_mempool_find(handle);
    if (pool == NULL)
        return CUDA_ERROR_NOT_SUPPORTED;
    CUstreamCaptureStatus status;
    CUresult result =
        stream == NULL || stream == CU_STREAM_LEGACY ? CUDA_SUCCESS : nvs_real.cuStreamIsCapturing(stream, &status);
    if (result != CUDA_SUCCESS)
        return result; // no such stream
    struct nvs_request request = {.bytes = bytes,
                                  .context = pool->device == device ? context : NULL,
                                  .pool = pool,
                                  .stream = nvs_stream_find(nvs_thread_join(), context, stream)};
    return nvs_memory_allocate(pool->device, &request, address);
}

static CUmemoryPool nvs_order_current_pool(void) {
    CUmemoryPool pool = NULL;
    struct nvs_device *device = nvs_device_current(NULL);
    if (device == NULL || nvs_real.cuDeviceGetMemPool == NULL ||
        nvs_real.cuDeviceGetMemPool(&pool, device->ordinal) != CUDA_SUCCESS)
        return NULL;
    return pool;
}

#define NVS_ORDER_ALLOCATE(name, pool, stream, params, args)                                                           \
    NVS_EXPORT CUresult name params {                                                                                  \
        CUcontext context = NULL;                                                                                      \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        struct nvs_device *device = nvs_allocating_device(&context);                                                   \
        if (device == NULL || dptr == NULL || bytesize == 0 || nvs_capture_on(stream))                                 \
            return nvs_real.name args;                                                                                 \
        CUresult result = nvs_order_allocate((pool), (stream), bytesize, dptr);                                        \
        if (result != CUDA_ERROR_NOT_SUPPORTED)                                                                        \
            return result;                                                                                             \
        NVS_ALLOCATE(device, context, bytesize, nvs_real.name args, *dptr, NVS_PIN_STREAM_ORDERED);                    \
    }

NVS_ORDER_ALLOCATE(cuMemAllocAsync, nvs_order_current_pool(), hStream,
                   (CUdeviceptr * dptr, size_t bytesize, CUstream hStream), (dptr, bytesize, hStream))
NVS_ORDER_ALLOCATE(cuMemAllocAsync_ptsz, nvs_order_current_pool(), NVS_OWN(hStream),
                   (CUdeviceptr * dptr, size_t bytesize, CUstream hStream), (dptr, bytesize, hStream))
NVS_ORDER_ALLOCATE(cuMemAllocFromPoolAsync, pool, hStream,
                   (CUdeviceptr * dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream),
                   (dptr, bytesize, pool, hStream))
NVS_ORDER_ALLOCATE(cuMemAllocFromPoolAsync_ptsz, pool, NVS_OWN(hStream),
                   (CUdeviceptr * dptr, size_t bytesize, CUmemoryPool pool, CUstream hStream),
                   (dptr, bytesize, pool, hStream))

// A block of the arena, freed where the stream is now.
static CUresult nvs_order_free(struct nvs_device *device, CUdeviceptr address, CUstream handle) {
    CUcontext context = NULL;
    struct nvs_thread *thread = nvs_thread_join();
    struct nvs_device *current = nvs_device_current(&context);
    if (current == NULL)
        return CUDA_ERROR_INVALID_CONTEXT;
    if (nvs_capture_on(handle))
        return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED; // no graph can own it
    struct nvs_stream *stream = thread == NULL ? NULL : nvs_stream_find(thread, context, handle);
    if (stream == NULL)
        return nvs_memory_free(device, address, NULL, 0);
    return nvs_memory_free(device, address, stream, nvs_stream_point(stream));
}

#define NVS_ORDER_FREE(name, stream)                                                                                   \
    NVS_EXPORT CUresult name(CUdeviceptr dptr, CUstream hStream) {                                                     \
        if (!nvs_library_start() || nvs_real.name == NULL)                                                             \
            return CUDA_ERROR_NOT_SUPPORTED;                                                                           \
        struct nvs_device *device = nvs_memory_device_of(dptr);                                                        \
        if (device != NULL)                                                                                            \
            return nvs_order_free(device, dptr, (stream));                                                             \
        CUresult result;                                                                                               \
        if (nvs_managed_on() && nvs_managed_free(dptr, &result))                                                       \
            return result;                                                                                             \
        struct nvs_allocation allocation = nvs_footprint_take(dptr);                                                   \
        result = nvs_real.name(dptr, hStream);                                                                         \
        nvs_footprint_freed(&allocation, result);                                                                      \
        return result;                                                                                                 \
    }

NVS_ORDER_FREE(cuMemFreeAsync, hStream)
NVS_ORDER_FREE(cuMemFreeAsync_ptsz, NVS_OWN(hStream))

void nvs_mempool_atfork_child(void) {
    pthread_mutex_init(&nvs_mempool_lock, NULL);
    nvs_mempools = NULL; // the parent's
}
