/* The thread that follows the cards' virtual time: it sleeps until something completes that matters to somebody. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "pipeline.h"

#define VALUE_POLL_NS 500000ULL /* how often memory is read for a stream that waits for a value */

static struct {
    uint32_t wake_word; /* futex: changes when the executor must look again */
    uint64_t asleep_until_ns;
} executor;

static uint64_t minimum(uint64_t left, uint64_t right) {
    return left < right ? left : right;
}

void emu_executor_wake(void) {
    executor.asleep_until_ns = 0;
    __atomic_fetch_add(&executor.wake_word, 1, __ATOMIC_RELEASE);
    syscall(SYS_futex, &executor.wake_word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

uint64_t emu_executor_asleep_until_ns(void) {
    return executor.asleep_until_ns;
}

bool emu_thread_start(void *(*body)(void *)) {
    pthread_t thread;
    sigset_t all;
    sigset_t before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    bool started = pthread_create(&thread, NULL, body, NULL) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (started) {
        pthread_detach(thread);
    }
    return started;
}

/* ---- When to look again
 * ---------------------------------------------------------------------------------------------- */

struct concern {
    uint64_t number[EMU_MAX_CARDS][EMU_ENGINES]; /* the first item whose completion matters to somebody */
};

static void concern_marker(struct concern *concern, const struct emu_marker *marker) {
    if (!marker->complete && marker->engine != EMU_NO_ENGINE) {
        uint64_t *number = &concern->number[marker->device - emu.devices][marker->engine];
        *number = minimum(*number, marker->number);
    }
}

static void concern_stream(struct concern *concern, const struct CUstream_st *stream) {
    uint64_t *numbers = concern->number[stream->context->device - emu.devices];
    const struct emu_op *op = stream->issue;
    if (op == NULL) {
        return;
    }
    if (op->kind == EMU_OP_WAIT) {
        concern_marker(concern, op->marker);
    }
    if (op->kind == EMU_OP_WORK &&
        (stream->frontier_engine == EMU_NO_ENGINE || stream->frontier_engine == (int)op->work.engine)) {
        /* Held up by a full ring: look again when half of it is free. */
        const struct emu_channel *channel = &stream->context->device->channels[op->work.engine];
        numbers[op->work.engine] = minimum(numbers[op->work.engine], channel->seen + EMU_RING_ITEMS / 2);
    } else if (stream->frontier_engine != EMU_NO_ENGINE) {
        numbers[stream->frontier_engine] = minimum(numbers[stream->frontier_engine], stream->frontier_number);
    }
}

/* When item `number` completes, or somewhat earlier: a neighbour's death is noticed too. Under the card's lock. */
static uint64_t item_wake(const struct emu_device *device, int kind, uint64_t number, uint64_t now_ns) {
    const struct emu_engine *engine = &device->card->engines[kind];
    uint64_t wake_ns = emu_engine_forecast(engine, device->slot, number);
    bool is_shared = (engine->pending_mask & ~(1ULL << device->slot)) != 0;
    return is_shared ? minimum(wake_ns, now_ns + EMU_NEIGHBOUR_CHECK_NS) : wake_ns;
}

uint64_t emu_marker_wake(const struct emu_marker *marker) {
    if (marker->engine == EMU_NO_ENGINE || marker->number < marker->device->channels[marker->engine].seen) {
        return EMU_NEVER;
    }
    uint64_t now_ns = emu_now_ns();
    emu_card_lock(marker->device->card);
    uint64_t wake_ns = item_wake(marker->device, marker->engine, marker->number, now_ns);
    emu_card_unlock(marker->device->card);
    return wake_ns;
}

static uint64_t device_wake(const struct emu_device *device, const uint64_t *numbers, uint64_t now_ns) {
    uint64_t wake_ns = EMU_NEVER;
    emu_card_lock(device->card);
    for (int kind = 0; kind < EMU_ENGINES; kind++) {
        const struct emu_queue *queue = &device->card->engines[kind].queues[device->slot];
        if (queue->submitted > device->channels[kind].seen) {
            wake_ns = minimum(wake_ns, item_wake(device, kind, minimum(numbers[kind], queue->submitted - 1), now_ns));
        }
    }
    emu_card_unlock(device->card);
    return wake_ns;
}

/* A call at the head of a stream that returned false waits for a value in memory, which changes without notice. */
static bool must_poll(void) {
    for (CUcontext context = emu.contexts; context != NULL; context = context->next) {
        for (CUstream stream = context->streams; stream != NULL; stream = stream->next) {
            if (stream->head != NULL && stream->head->kind == EMU_OP_CALL) {
                return true;
            }
        }
    }
    return false;
}

static uint64_t next_wake(void) {
    struct concern concern;
    memset(&concern, 0xff, sizeof concern);
    for (CUcontext context = emu.contexts; context != NULL; context = context->next) {
        for (CUstream stream = context->streams; stream != NULL; stream = stream->next) {
            concern_stream(&concern, stream);
        }
    }
    uint64_t now_ns = emu_now_ns();
    uint64_t wake_ns = must_poll() ? now_ns + VALUE_POLL_NS : EMU_NEVER;
    for (int index = 0; index < emu.device_count; index++) {
        if (emu.devices[index].slot >= 0) {
            wake_ns = minimum(wake_ns, device_wake(&emu.devices[index], concern.number[index], now_ns));
        }
    }
    return wake_ns;
}

static void *run_executor(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "emu-executor");
    prctl(PR_SET_TIMERSLACK, 1UL);
    pthread_mutex_lock(&emu.lock);
    for (;;) {
        uint32_t seen_word = __atomic_load_n(&executor.wake_word, __ATOMIC_ACQUIRE);
        emu_progress();
        uint64_t wake_ns = next_wake();
        executor.asleep_until_ns = wake_ns;
        pthread_mutex_unlock(&emu.lock);
        struct timespec until = {.tv_sec = (time_t)(wake_ns / 1000000000ULL),
                                 .tv_nsec = (long)(wake_ns % 1000000000ULL)};
        syscall(SYS_futex, &executor.wake_word, FUTEX_WAIT_BITSET_PRIVATE, seen_word,
                wake_ns == EMU_NEVER ? NULL : &until, NULL, FUTEX_BITSET_MATCH_ANY);
        pthread_mutex_lock(&emu.lock);
        executor.asleep_until_ns = 0;
    }
    return NULL;
}

CUresult emu_executor_start(void) {
    return emu_thread_start(run_executor) ? CUDA_SUCCESS : CUDA_ERROR_OPERATING_SYSTEM;
}
