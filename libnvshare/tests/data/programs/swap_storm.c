// Memory that moves under everything at once: threads that allocate, fill, copy both ways, launch, free and check what
// they wrote, while the test lets the memory go and come. Each thread has a block that stays, and one that changes.
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

static void *storm(void *argument) {
    uint32_t thread = (uint32_t)(uintptr_t)argument;
    uint32_t *words = malloc(WORDS * sizeof(*words));
    CUdeviceptr staying;
    CUstream stream;
    REQUIRE(cuCtxSetCurrent(context));
    REQUIRE(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    REQUIRE(cuMemAlloc(&staying, STAYING_BYTES));
    launch_fill(staying, thread, stream);
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
    }
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
