/* The thread that runs host functions and stream callbacks, so that one that takes long holds up its own stream alone.
 */
#define _GNU_SOURCE
#include <sys/prctl.h>

#include "pipeline.h"

static struct {
    pthread_cond_t posted;
    bool started;
    struct emu_op *head, *tail;
} callbacks = {.posted = PTHREAD_COND_INITIALIZER};

static void *run_callbacks(void *unused) {
    (void)unused;
    prctl(PR_SET_NAME, "emu-callback");
    pthread_mutex_lock(&emu.lock);
    for (;;) {
        struct emu_op *op = callbacks.head;
        if (op == NULL) {
            pthread_cond_wait(&callbacks.posted, &emu.lock);
            continue;
        }
        callbacks.head = op->next_callback;
        pthread_mutex_unlock(&emu.lock);
        if (op->callback != NULL) {
            op->callback(op->callback_stream, CUDA_SUCCESS, op->user_data);
        } else {
            op->host_function(op->user_data);
        }
        pthread_mutex_lock(&emu.lock);
        op->completed_ns = emu_now_ns();
        op->done = true;
        emu_executor_wake();
    }
    return NULL;
}

void emu_callback_post(struct emu_op *op) {
    if (!callbacks.started) {
        callbacks.started = emu_thread_start(run_callbacks);
        if (!callbacks.started) {
            return; /* tried again at the next look */
        }
    }
    op->posted = true;
    op->next_callback = NULL;
    if (callbacks.head == NULL) {
        callbacks.head = op;
    } else {
        callbacks.tail->next_callback = op;
    }
    callbacks.tail = op;
    pthread_cond_signal(&callbacks.posted);
}
