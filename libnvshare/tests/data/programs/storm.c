// Everything at once for some seconds, under a sanitizer: threads that launch on several streams, allocate and free,
// capture and replay, make and destroy streams, ask about memory, look symbols up, and a fork, while the test opens and
// closes the gate.
//
// storm <seconds>   exits 0 if every call did what it should
#include <cuda.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define THREADS 3
#define STREAMS 3

static CUcontext context;
static CUfunction spin;
static atomic_bool stop;

static void require(CUresult result, const char *what) {
    if (result != CUDA_SUCCESS) {
        fprintf(stderr, "%s failed: %d\n", what, (int)result);
        _exit(1);
    }
}
#define REQUIRE(call) require((call), #call)

static void launch(CUstream stream, uint64_t duration_ns) {
    void *arguments[] = {&duration_ns};
    REQUIRE(cuLaunchKernel(spin, 1, 1, 1, 1, 1, 1, 0, stream, arguments, NULL));
}

static void replay(void) {
    CUstream stream;
    CUgraph graph;
    CUgraphExec exec;
    REQUIRE(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    REQUIRE(cuStreamBeginCapture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL));
    for (int i = 0; i < 5; i++)
        launch(stream, 10000);
    REQUIRE(cuStreamEndCapture(stream, &graph));
    REQUIRE(cuGraphInstantiate(&exec, graph, 0));
    REQUIRE(cuGraphLaunch(exec, stream));
    REQUIRE(cuStreamSynchronize(stream));
    REQUIRE(cuGraphExecDestroy(exec));
    REQUIRE(cuGraphDestroy(graph));
    REQUIRE(cuStreamDestroy(stream));
}

static void allocate(unsigned turn) {
    CUdeviceptr block;
    size_t free_bytes, total_bytes;
    REQUIRE(cuMemAlloc(&block, (size_t)4096 << turn % 8));
    REQUIRE(cuMemsetD32(block, turn, 1024));
    REQUIRE(cuMemGetInfo(&free_bytes, &total_bytes));
    REQUIRE(cuMemFree(block));
}

// In stream order: freed while the work is in flight, and asked about meanwhile.
static void allocate_in_order(CUstream stream, unsigned turn) {
    CUdeviceptr block, start;
    size_t bytes;
    REQUIRE(cuMemAllocAsync(&block, (size_t)65536 << turn % 10, stream));
    REQUIRE(cuMemsetD32Async(block, turn, 1024, stream));
    REQUIRE(cuMemGetAddressRange(&start, &bytes, block + 512));
    if (start != block || bytes != (size_t)65536 << turn % 10)
        _exit(3);
    REQUIRE(cuMemFreeAsync(block, stream));
}

static void *storm(void *argument) {
    unsigned thread = (unsigned)(uintptr_t)argument;
    CUstream streams[STREAMS];
    REQUIRE(cuCtxSetCurrent(context));
    for (int i = 0; i < STREAMS; i++)
        REQUIRE(cuStreamCreate(&streams[i], i == 0 ? CU_STREAM_DEFAULT : CU_STREAM_NON_BLOCKING));
    for (unsigned turn = 0; !atomic_load(&stop); turn++) {
        for (unsigned i = 0; i < 16; i++)
            launch(streams[(turn + i / 4) % STREAMS], 20000);
        launch(CU_STREAM_PER_THREAD, 5000);
        if (turn % 4 == thread)
            allocate(turn);
        allocate_in_order(streams[turn % STREAMS], turn);
        if (turn % 8 == thread)
            replay();
        if (turn % 16 == thread) {
            REQUIRE(cuStreamDestroy(streams[turn / 16 % STREAMS]));
            REQUIRE(cuStreamCreate(&streams[turn / 16 % STREAMS], CU_STREAM_NON_BLOCKING));
        }
        if (dlsym(RTLD_DEFAULT, "cuLaunchKernel") == NULL)
            _exit(2);
    }
    for (int i = 0; i < STREAMS; i++)
        REQUIRE(cuStreamDestroy(streams[i]));
    return NULL;
}

// A second context of its own, made and destroyed.
static void *contexts(void *unused) {
    while (!atomic_load(&stop)) {
        CUcontext own;
        CUdeviceptr block;
        REQUIRE(cuCtxCreate(&own, NULL, 0, 0));
        REQUIRE(cuMemAlloc(&block, 1 << 20));
        REQUIRE(cuMemsetD32(block, 1, 1024));
        REQUIRE(cuCtxDestroy(own));
        const struct timespec pause = {.tv_nsec = 20000000};
        nanosleep(&pause, NULL);
    }
    return unused;
}

int main(int count, char **words) {
    unsigned seconds = count > 1 ? (unsigned)atoi(words[1]) : 1;
    CUmodule module;
    REQUIRE(cuInit(0));
    REQUIRE(cuDevicePrimaryCtxRetain(&context, 0));
    REQUIRE(cuCtxSetCurrent(context));
    REQUIRE(cuModuleLoadData(&module, "NVSHARE-EMULATOR-KERNELS-1"));
    REQUIRE(cuModuleGetFunction(&spin, module, "spin"));
    pthread_t threads[THREADS + 1];
    for (uintptr_t i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, storm, (void *)i);
    pthread_create(&threads[THREADS], NULL, contexts, NULL);
    sleep(seconds);
    pid_t child = fork();
    if (child == 0)
        _exit(cuCtxSynchronize() == CUDA_SUCCESS); // the parent's GPU is not the child's
    int status = 0;
    waitpid(child, &status, 0);
    atomic_store(&stop, true);
    for (int i = 0; i <= THREADS; i++)
        pthread_join(threads[i], NULL);
    REQUIRE(cuDevicePrimaryCtxRelease(0));
    printf("{\"child\": %d}\n", status);
    return 0;
}
