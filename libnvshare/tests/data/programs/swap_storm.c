// Memory that moves under everything at once: threads that allocate, fill, copy both ways, launch, free and check what
// they wrote, while the test lets the memory go and come. Each thread has a block that stays, and one that changes; and
// the same in memory that it makes and maps itself, at changing addresses.
//
// swap_storm   goes on until it reads a line; exits 0 if every call did what it should and all data was right
#include <cuda.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define THREADS 3
#define WORDS ((size_t)1 << 16)
#define STAYING_BYTES ((size_t)24 << 20)
#define PIECE_BYTES ((size_t)2 << 20)

static CUcontext context;
static CUfunction fill;
static atomic_bool ending;

static void require(CUresult result, const char *what) {
    if (result != CUDA_SUCCESS) {
        fprintf(stderr, "%s failed: %d\n", what, (int)result);
        _exit(1);
    }
}
#define REQUIRE(call) require((call), #call)

static void check(const uint32_t *words, uint32_t value, const char *what) {
    for (size_t i = 0; i < WORDS; i++)
        if (words[i] != value) {
            fprintf(stderr, "%s: word %zu is %u, not %u\n", what, i, words[i], value);
            _exit(1);
        }
}

static void launch_fill(CUdeviceptr block, uint32_t value, CUstream stream) {
    uint64_t words = WORDS, stride = 1, duration_ns = 20000;
    void *arguments[] = {&block, &words, &stride, &value, &duration_ns};
    REQUIRE(cuLaunchKernel(fill, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL));
}

// Four pieces of addresses: the first or the last one for memory that stays, the others for memory that changes.
struct own {
    CUdeviceptr pieces;
    CUmemGenericAllocationHandle staying;
    int place; // piece that the staying memory is mapped at
};

static CUmemGenericAllocationHandle create(void) {
    CUmemAllocationProp properties = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                      .requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR,
                                      .location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0}};
    CUmemGenericAllocationHandle handle;
    REQUIRE(cuMemCreate(&handle, PIECE_BYTES, &properties, 0));
    return handle;
}

static CUdeviceptr map(const struct own *own, int piece, CUmemGenericAllocationHandle handle) {
    CUmemAccessDesc access = {.location = {.type = CU_MEM_LOCATION_TYPE_DEVICE, .id = 0},
                              .flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
    CUdeviceptr address = own->pieces + (size_t)piece * PIECE_BYTES;
    REQUIRE(cuMemMap(address, PIECE_BYTES, 0, handle, 0));
    REQUIRE(cuMemSetAccess(address, PIECE_BYTES, &access, 1));
    return address;
}

static void unmap(const struct own *own, int piece) {
    REQUIRE(cuMemUnmap(own->pieces + (size_t)piece * PIECE_BYTES, PIECE_BYTES));
}

static void own_begin(struct own *own, uint32_t thread, CUstream stream) {
    REQUIRE(cuMemAddressReserve(&own->pieces, 4 * PIECE_BYTES, 0, 0, 0));
    own->staying = create();
    own->place = 0;
    launch_fill(map(own, own->place, own->staying), thread, stream);
    REQUIRE(cuStreamSynchronize(stream));
}

static void export(CUmemGenericAllocationHandle handle) {
    int descriptor = -1;
    REQUIRE(cuMemExportToShareableHandle(&descriptor, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0));
    close(descriptor);
}

// What is written at one address of a handle is read at another one, whether it is exported meanwhile or not; what
// stays moves from place to place.
static void own_turn(struct own *own, uint32_t thread, uint32_t turn, uint32_t *words, CUstream stream) {
    CUmemGenericAllocationHandle handle = create();
    CUdeviceptr one = map(own, 1, handle);
    launch_fill(one, turn, stream);
    if (turn % 4 == 1)
        export(handle);
    CUdeviceptr two = map(own, 2, handle);
    if (turn % 2 == 0)
        REQUIRE(cuMemRelease(handle));
    REQUIRE(cuStreamSynchronize(stream));
    unmap(own, 1);
    REQUIRE(cuMemcpyDtoH(words, two, WORDS * sizeof(*words)));
    check(words, turn, "what a kernel wrote to memory of the program's own");
    unmap(own, 2);
    if (turn % 2 != 0)
        REQUIRE(cuMemRelease(handle));
    unmap(own, own->place);
    own->place = 3 - own->place;
    REQUIRE(cuMemcpyDtoH(words, map(own, own->place, own->staying), WORDS * sizeof(*words)));
    check(words, thread, "what stayed in memory of the program's own");
}

static void own_end(const struct own *own) {
    REQUIRE(cuMemRelease(own->staying));
    unmap(own, own->place);
    REQUIRE(cuMemAddressFree(own->pieces, 4 * PIECE_BYTES));
}

static void *storm(void *argument) {
    uint32_t thread = (uint32_t)(uintptr_t)argument;
    uint32_t *words = malloc(WORDS * sizeof(*words));
    CUdeviceptr staying;
    CUstream stream;
    REQUIRE(cuCtxSetCurrent(context));
    REQUIRE(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    REQUIRE(cuMemAlloc(&staying, STAYING_BYTES));
    launch_fill(staying, thread, stream);
    struct own own;
    own_begin(&own, thread, stream);
    for (uint32_t turn = 0; !atomic_load(&ending); turn++) {
        CUdeviceptr block;
        uint32_t value = turn * THREADS + thread;
        REQUIRE(cuMemAlloc(&block, WORDS * sizeof(*words) << turn % 6));
        for (size_t i = 0; i < WORDS; i++)
            words[i] = value;
        REQUIRE(cuMemcpyHtoDAsync(block, words, WORDS * sizeof(*words), stream));
        REQUIRE(cuStreamSynchronize(stream));
        memset(words, 0xee, WORDS * sizeof(*words));
        REQUIRE(cuMemcpyDtoH(words, block, WORDS * sizeof(*words)));
        check(words, value, "what was copied in");
        launch_fill(block, value + 1, stream);
        REQUIRE(cuMemcpyDtoHAsync(words, block, WORDS * sizeof(*words), stream));
        REQUIRE(cuStreamSynchronize(stream));
        check(words, value + 1, "what a kernel wrote");
        REQUIRE(cuMemFree(block));
        REQUIRE(cuMemcpyDtoH(words, staying, WORDS * sizeof(*words)));
        check(words, thread, "what stayed");
        own_turn(&own, thread, turn, words, stream);
    }
    own_end(&own);
    REQUIRE(cuMemFree(staying));
    REQUIRE(cuStreamDestroy(stream));
    free(words);
    return NULL;
}

int main(void) {
    CUmodule module;
    REQUIRE(cuInit(0));
    REQUIRE(cuDevicePrimaryCtxRetain(&context, 0));
    REQUIRE(cuCtxSetCurrent(context));
    REQUIRE(cuModuleLoadData(&module, "NVSHARE-EMULATOR-KERNELS-1"));
    REQUIRE(cuModuleGetFunction(&fill, module, "fill"));
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, storm, (void *)i);
    usleep(200000);
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    int status = -1;
    waitpid(child, &status, 0);
    for (int letter = 0; letter != '\n' && letter != EOF;)
        letter = getchar();
    atomic_store(&ending, true);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    REQUIRE(cuDevicePrimaryCtxRelease(0));
    printf("{\"child\": %d}\n", status);
    return 0;
}
