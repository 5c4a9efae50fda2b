/* What work does to memory, once its time has passed. The lock is given up meanwhile. Small effects happen in the
 * thread that notices; large ones in threads of their own, so that data of several streams moves at once. */
#include "pipeline.h"

#define WORKERS 2

/* An effect under way; lives on its thread's stack. */
struct running {
    struct emu_span spans[EMU_SPANS];
    unsigned count;
    struct running *next;
};

static struct {
    struct emu_op *first, *last; /* posted to the workers */
    pthread_cond_t posted;
    unsigned workers;
    struct running *running;
} effects = {.posted = PTHREAD_COND_INITIALIZER};

static bool may_touch(CUcontext context, const struct emu_span *span) {
    return !span->on_device ||
           (span->start % span->alignment == 0 && emu_range_covers(span->start, span->bytes, context, span->how));
}

static CUresult run_unlocked(CUcontext context, const struct emu_work *work) {
    struct running entry = {.count = work->spans(work, entry.spans), .next = effects.running};
    for (unsigned index = 0; index < entry.count; index++) {
        if (!may_touch(context, &entry.spans[index])) {
            return CUDA_ERROR_ILLEGAL_ADDRESS;
        }
    }
    effects.running = &entry;
    pthread_mutex_unlock(&emu.lock);
    work->apply(work);
    pthread_mutex_lock(&emu.lock);
    struct running **link = &effects.running;
    while (*link != &entry) {
        link = &(*link)->next;
    }
    *link = entry.next;
    pthread_cond_broadcast(&emu.changed);
    return CUDA_SUCCESS;
}

void emu_effect_run(CUstream stream, struct emu_op *op) {
    CUcontext context = stream->context;
    stream->retiring = true;
    CUresult result = op->work.apply == NULL ? CUDA_SUCCESS : run_unlocked(context, &op->work);
    stream->retiring = false;
    op->applied = true;
    if (result != CUDA_SUCCESS && context->error == CUDA_SUCCESS) {
        context->error = result;
    }
}

static bool overlaps(const struct running *running, uint64_t start, uint64_t bytes) {
    for (unsigned index = 0; index < running->count; index++) {
        const struct emu_span *span = &running->spans[index];
        if (span->start < start + bytes && start < span->start + span->bytes) {
            return true;
        }
    }
    return false;
}

void emu_effects_wait(uint64_t start, uint64_t bytes) {
    const struct running *running = effects.running;
    while (running != NULL) {
        if (overlaps(running, start, bytes)) {
            pthread_cond_wait(&emu.changed, &emu.lock);
            running = effects.running;
        } else {
            running = running->next;
        }
    }
}

static void *run_worker(void *unused) {
    (void)unused;
    pthread_mutex_lock(&emu.lock);
    for (;;) {
        struct emu_op *op = effects.first;
        if (op == NULL) {
            pthread_cond_wait(&effects.posted, &emu.lock);
            continue;
        }
        effects.first = op->next_posted;
        effects.last = effects.first == NULL ? NULL : effects.last;
        emu_effect_run(op->stream, op);
        emu_progress();
    }
    return NULL;
}

bool emu_effect_post(CUstream stream, struct emu_op *op) {
    while (effects.workers < WORKERS && emu_thread_start(run_worker)) {
        effects.workers++;
    }
    if (effects.workers == 0) {
        return false;
    }
    stream->retiring = true;
    op->stream = stream;
    op->next_posted = NULL;
    if (effects.last == NULL) {
        effects.first = op;
    } else {
        effects.last->next_posted = op;
    }
    effects.last = op;
    pthread_cond_signal(&effects.posted);
    return true;
}
