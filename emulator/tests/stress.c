/* Several threads use everything at once for a moment, for the sanitizers to watch. Ends with status 0 when all data is
 * right. Built with -DNVSHARE_BUILD_TESTS=ON, usually together with -DNVSHARE_SANITIZE=address,undefined or =thread. */
#include <cuda.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define THREADS 4
#define ROUNDS 30
#define WORDS 4096

#define CHECK(call)                                                                                                    \
    do {                                                                                                               \
        CUresult result_ = (call);                                                                                     \
        if (result_ != CUDA_SUCCESS) {                                                                                 \
            fprintf(stderr, "%s:%d: %s = %d\n", __FILE__, __LINE__, #call, (int)result_);                              \
            exit(1);                                                                                                   \
        }                                                                                                              \
    } while (0)

static CUcontext context;
static CUfunction spin;
static CUfunction fill;

static void launch_fill(CUdeviceptr out, uint32_t value, CUstream stream) {
    uint64_t n = WORDS;
    uint64_t stride = 1;
    uint64_t duration_ns = 20000;
    void *parameters[] = {&out, &n, &stride, &value, &duration_ns};
    CHECK(cuLaunchKernel(fill, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
}

static void CUDA_CB count_up(void *counter) {
    __atomic_fetch_add((int *)counter, 1, __ATOMIC_RELAXED);
}

static void map_and_unmap(CUstream stream) {
    CUmemAllocationProp properties;
    memset(&properties, 0, sizeof properties);
    properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
    properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
    CUmemAccessDesc access = {.location = properties.location, .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    const size_t bytes = 4 << 20;
    CUmemGenericAllocationHandle handle;
    CUdeviceptr address;
    unsigned char *host;
    CHECK(cuMemHostAlloc((void **)&host, bytes, 0));
    CHECK(cuMemCreate(&handle, bytes, &properties, 0));
    CHECK(cuMemAddressReserve(&address, bytes, 0, 0, 0));
    CHECK(cuMemMap(address, bytes, 0, handle, 0));
    CHECK(cuMemSetAccess(address, bytes, &access, 1));
    CHECK(cuMemRelease(handle));
    CHECK(cuMemsetD8Async(address, 7, bytes, stream));
    CHECK(cuMemcpyDtoHAsync(host, address, bytes, stream));
    CHECK(cuMemcpyHtoDAsync(address, host, bytes, stream));
    CHECK(cuStreamSynchronize(stream));
    CHECK(cuMemUnmap(address, bytes));
    if (host[0] != 7 || host[bytes - 1] != 7) {
        fprintf(stderr, "copied %u and %u\n", host[0], host[bytes - 1]);
        exit(1);
    }
    CHECK(cuMemFreeHost(host));
    CHECK(cuMemAddressFree(address, bytes));
}

static void replay(CUstream stream, CUdeviceptr out, uint32_t value) {
    CUgraph graph;
    CUgraphExec executable;
    CHECK(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_RELAXED));
    launch_fill(out, value, stream);
    CHECK(cuStreamEndCapture(stream, &graph));
    CHECK(cuGraphInstantiate(&executable, graph, 0));
    CHECK(cuGraphLaunch(executable, stream));
    CHECK(cuGraphExecDestroy(executable));
    CHECK(cuGraphDestroy(graph));
}

static void *work(void *argument) {
    uint32_t seed = (uint32_t)(uintptr_t)argument;
    CUstream stream;
    CUevent event;
    uint32_t *pinned;
    int calls = 0;
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuEventCreate(&event, 0));
    CHECK(cuMemHostAlloc((void **)&pinned, WORDS * 4, 0));
    for (uint32_t round = 0; round < ROUNDS; round++) {
        CUdeviceptr out;
        uint64_t duration_ns = 50000;
        void *parameters[] = {&duration_ns};
        uint32_t value = seed * 1000 + round;
        CHECK(cuMemAllocAsync(&out, WORDS * 4, stream));
        CHECK(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, parameters, NULL));
        launch_fill(out, 0, stream);
        replay(stream, out, value);
        CHECK(cuMemcpyDtoHAsync(pinned, out, WORDS * 4, stream));
        CHECK(cuLaunchHostFunc(stream, count_up, &calls));
        CHECK(cuMemFreeAsync(out, stream));
        CHECK(cuEventRecord(event, stream));
        if (round % 3 == 0) {
            map_and_unmap(stream);
        }
        while (round % 2 == 0 && cuEventQuery(event) == CUDA_ERROR_NOT_READY) {
        }
        CHECK(cuStreamSynchronize(stream));
        for (uint32_t index = 0; index < WORDS; index++) {
            if (pinned[index] != value) {
                fprintf(stderr, "thread %u, round %u: word %u is %u\n", seed, round, index, pinned[index]);
                exit(1);
            }
        }
    }
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuEventDestroy(event));
    CHECK(cuStreamDestroy(stream));
    return (void *)(uintptr_t)(__atomic_load_n(&calls, __ATOMIC_RELAXED) == ROUNDS ? 0 : 1);
}

int main(void) {
    pthread_t threads[THREADS];
    CUmodule module;
    int status = 0;
    CHECK(cuInit(0));
    CHECK(cuDevicePrimaryCtxRetain(&context, 0));
    CHECK(cuCtxSetCurrent(context));
    CHECK(cuModuleLoadData(&module, "NVSHARE-EMULATOR-KERNELS-1"));
    CHECK(cuModuleGetFunction(&spin, module, "spin"));
    CHECK(cuModuleGetFunction(&fill, module, "fill"));
    for (uintptr_t index = 0; index < THREADS; index++) {
        if (pthread_create(&threads[index], NULL, work, (void *)(index + 1)) != 0) {
            return 1;
        }
    }
    for (int index = 0; index < THREADS; index++) {
        void *result = NULL;
        pthread_join(threads[index], &result);
        status |= result != NULL;
    }
    size_t free_bytes;
    size_t total_bytes;
    CHECK(cuMemGetInfo(&free_bytes, &total_bytes));
    CHECK(cuModuleUnload(module));
    CHECK(cuDevicePrimaryCtxRelease(0));
    printf("status %d, %zu bytes in use\n", status, total_bytes - free_bytes);
    return status;
}
