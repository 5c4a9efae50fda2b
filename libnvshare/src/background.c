#include "background.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

// The driver is called on this stack. It is address space; only pages that are touched cost memory.
#define STACK_BYTES (512u * 1024u)

static int make_thread(void *(*run)(void *), void *argument, bool small_stack) {
    pthread_attr_t attributes;
    int error = pthread_attr_init(&attributes);
    if (error != 0)
        return error;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (small_stack)
        pthread_attr_setstacksize(&attributes, STACK_BYTES);
    pthread_t thread;
    error = pthread_create(&thread, &attributes, run, argument);
    pthread_attr_destroy(&attributes);
    return error;
}

int nvs_background_start(void *(*run)(void *), void *argument) {
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    int error = make_thread(run, argument, true);
    if (error == EINVAL) // a program with large thread-local variables, which count against the stack
        error = make_thread(run, argument, false);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}
