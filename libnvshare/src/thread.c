#include "thread.h"

#include "log.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// From linux/membarrier.h, which the oldest glibc that we build for may lack.
#define NVS_MEMBARRIER_PRIVATE_EXPEDITED (1 << 3)
#define NVS_MEMBARRIER_REGISTER_PRIVATE_EXPEDITED (1 << 4)

__thread struct nvs_thread *nvs_thread_self;
struct nvs_hot nvs_hot = {.stream_epoch = 1};

static _Atomic(struct nvs_thread *) nvs_threads;
static pthread_key_t nvs_thread_key;

static void nvs_thread_leave(void *record) {
    struct nvs_thread *thread = record;
    nvs_thread_self = NULL;
    atomic_store_explicit(&thread->calls, 0,
                          memory_order_release); // a thread that was cancelled in the middle of a call
    atomic_store_explicit(&thread->used, false, memory_order_release);
}

void nvs_thread_prepare(void) {
#ifdef __SANITIZE_THREAD__
    nvs_hot.fences = true; // the sanitizer does not know membarrier
#else
    if (syscall(SYS_membarrier, NVS_MEMBARRIER_REGISTER_PRIVATE_EXPEDITED, 0) != 0) {
        nvs_hot.fences = true;
        nvs_log(NVS_LOG_INFO, "membarrier is refused (%s): each launch has a full fence", strerror(errno));
    }
#endif
    if (pthread_key_create(&nvs_thread_key, nvs_thread_leave) != 0)
        nvs_log(NVS_LOG_WARN, "no thread key left: the records of ended threads are not reused");
}

static struct nvs_thread *nvs_thread_reuse(void) {
    struct nvs_thread *thread = atomic_load_explicit(&nvs_threads, memory_order_acquire);
    for (; thread != NULL; thread = thread->next) {
        bool used = false;
        if (atomic_compare_exchange_strong_explicit(&thread->used, &used, true, memory_order_acq_rel,
                                                    memory_order_relaxed))
            return thread;
    }
    return NULL;
}

struct nvs_thread *nvs_thread_join(void) {
    if (nvs_thread_self != NULL)
        return nvs_thread_self;
    struct nvs_thread *thread = nvs_thread_reuse();
    if (thread == NULL) {
        thread = aligned_alloc(_Alignof(struct nvs_thread), sizeof(*thread));
        if (thread == NULL)
            return NULL;
        memset(thread, 0, sizeof(*thread));
        atomic_init(&thread->used, true);
        thread->next = atomic_load_explicit(&nvs_threads, memory_order_relaxed);
        while (!atomic_compare_exchange_weak_explicit(&nvs_threads, &thread->next, thread, memory_order_release,
                                                      memory_order_relaxed)) {
        }
    }
    thread->context = NULL;
    thread->device = -1;
    thread->allocates = false;
    memset(thread->streams, 0, sizeof(thread->streams));
    if (pthread_setspecific(nvs_thread_key, thread) != 0)
        nvs_log_once(NVS_LOG_WARN, "a thread's record is not reused when it ends: pthread_setspecific failed");
    nvs_thread_self = thread;
    return thread;
}

void nvs_thread_barrier(void) {
    atomic_thread_fence(memory_order_seq_cst);
    if (nvs_hot.fences)
        return;
    if (syscall(SYS_membarrier, NVS_MEMBARRIER_PRIVATE_EXPEDITED, 0) != 0)
        nvs_log_once(NVS_LOG_ERROR, "membarrier failed after it was accepted (%s)", strerror(errno));
}

bool nvs_thread_in_call(uint32_t calls) {
    struct nvs_thread *thread = atomic_load_explicit(&nvs_threads, memory_order_acquire);
    for (; thread != NULL; thread = thread->next)
        if ((atomic_load_explicit(&thread->calls, memory_order_acquire) & calls) != 0)
            return true;
    return false;
}

void nvs_thread_atfork_child(void) {
    struct nvs_thread *self = nvs_thread_self;
    struct nvs_thread *thread = atomic_load_explicit(&nvs_threads, memory_order_relaxed);
    for (; thread != NULL; thread = thread->next) {
        atomic_store_explicit(&thread->calls, 0, memory_order_relaxed);
        if (thread != self)
            atomic_store_explicit(&thread->used, false, memory_order_relaxed);
    }
}
