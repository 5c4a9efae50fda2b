#include "host_memory.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 // Linux 5.14
#endif

#define HUGE_PAGE_BYTES ((size_t)2 << 20)
#define THREADS_MAX 4u
#define SHARE_MIN_BYTES ((size_t)16 << 20) // less is not worth a thread
#define STACK_BYTES (64u * 1024u)
#define MPOL_PREFERRED 1 // from numaif.h
#define NODES_MAX 1024

static void prefer_node(void *address, size_t bytes, int numa_node) {
    const unsigned bits = 8 * sizeof(unsigned long);
    if (numa_node < 0 || numa_node >= NODES_MAX)
        return;
    unsigned long nodes[NODES_MAX / (8 * sizeof(unsigned long))] = {0};
    nodes[(unsigned)numa_node / bits] = 1ul << (unsigned)numa_node % bits;
    // A preference: on a kernel without NUMA, or a node without memory, the pages come from elsewhere.
    syscall(SYS_mbind, address, bytes, MPOL_PREFERRED, nodes, (unsigned long)NODES_MAX, 0u);
}

void *nvs_host_memory_map(size_t bytes, int numa_node) {
    size_t wide = bytes + HUGE_PAGE_BYTES;
    char *start = mmap(NULL, wide, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (start == MAP_FAILED)
        return NULL;
    size_t before = (HUGE_PAGE_BYTES - (uintptr_t)start % HUGE_PAGE_BYTES) % HUGE_PAGE_BYTES;
    char *address = start + before;
    if (before > 0)
        munmap(start, before);
    munmap(address + bytes, wide - before - bytes);
    if (madvise(address, bytes, MADV_DONTFORK) != 0) { // a child that shared pinned pages would take them at a write
        int error = errno;
        munmap(address, bytes);
        errno = error;
        return NULL;
    }
    prefer_node(address, bytes, numa_node);
    return address;
}

void *nvs_host_memory_map_shared(int descriptor, size_t bytes) {
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (address == MAP_FAILED)
        return NULL;
    if (madvise(address, bytes, MADV_DONTFORK) != 0) {
        int error = errno;
        munmap(address, bytes);
        errno = error;
        return NULL;
    }
    return address;
}

void nvs_host_memory_unmap(void *address, size_t bytes) {
    munmap(address, bytes);
}

struct share {
    char *address;
    size_t bytes;
    int error;
};

static void *fault_in(void *argument) {
    struct share *share = argument;
    if (madvise(share->address, share->bytes, MADV_POPULATE_WRITE) == 0)
        return NULL;
    if (errno != EINVAL) {
        share->error = errno;
        return NULL;
    }
    // An older kernel. The memory is new: writing its zeros changes nothing.
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    for (size_t at = 0; at < share->bytes; at += page_bytes)
        ((volatile char *)share->address)[at] = 0;
    return NULL;
}

static unsigned threads_for(size_t bytes) {
    cpu_set_t processors;
    size_t threads = THREADS_MAX;
    if (sched_getaffinity(0, sizeof processors, &processors) == 0 && (size_t)CPU_COUNT(&processors) < threads)
        threads = (size_t)CPU_COUNT(&processors);
    if (bytes / SHARE_MIN_BYTES < threads)
        threads = bytes / SHARE_MIN_BYTES;
    return threads > 0 ? (unsigned)threads : 1;
}

int nvs_host_memory_fault_in(void *address, size_t bytes) {
    // Where the kernel has them. Not before: what is to stay without pages would get 2 MiB for each byte written.
    madvise(address, bytes, MADV_HUGEPAGE);
    unsigned count = threads_for(bytes);
    size_t share_bytes = bytes / count / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    struct share shares[THREADS_MAX];
    pthread_t threads[THREADS_MAX];
    bool started[THREADS_MAX] = {false};
    pthread_attr_t attributes;
    bool small_stack = pthread_attr_init(&attributes) == 0;
    if (small_stack)
        small_stack = pthread_attr_setstacksize(&attributes, STACK_BYTES) == 0;
    for (unsigned i = 0; i < count; i++) {
        char *start = (char *)address + i * share_bytes;
        shares[i] = (struct share){start, i + 1 < count ? share_bytes : bytes - i * share_bytes, 0};
        if (i + 1 < count)
            started[i] = pthread_create(&threads[i], small_stack ? &attributes : NULL, fault_in, &shares[i]) == 0;
    }
    int error = 0;
    for (unsigned i = count; i-- > 0;) { // its own share first
        if (started[i])
            pthread_join(threads[i], NULL);
        else
            fault_in(&shares[i]);
        if (shares[i].error != 0)
            error = shares[i].error;
    }
    pthread_attr_destroy(&attributes);
    return error;
}
