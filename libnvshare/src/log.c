#include "log.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_MAX_BYTES 1024

static _Atomic int least_important = NVS_LOG_WARN;

static const char *const names[] = {"error", "warn", "info", "debug"};

void nvs_log_set_level(enum nvs_log_level level) {
    atomic_store_explicit(&least_important, (int)level, memory_order_relaxed);
}

bool nvs_log_enabled(enum nvs_log_level level) {
    return (int)level <= atomic_load_explicit(&least_important, memory_order_relaxed);
}

// One write(2) that never raises SIGPIPE: a reader of the program's stderr that went away must not kill the program for
// our sake.
static void write_line(const char *line, size_t length) {
    sigset_t pipe_signal, blocked_before, pending_before;
    sigemptyset(&pipe_signal);
    sigaddset(&pipe_signal, SIGPIPE);
    if (pthread_sigmask(SIG_BLOCK, &pipe_signal, &blocked_before) != 0)
        return;
    sigpending(&pending_before);
    if (write(STDERR_FILENO, line, length) < 0 && errno == EPIPE && !sigismember(&pending_before, SIGPIPE)) {
        const struct timespec at_once = {0, 0};
        sigtimedwait(&pipe_signal, NULL, &at_once);
    }
    pthread_sigmask(SIG_SETMASK, &blocked_before, NULL);
}

void nvs_log(enum nvs_log_level level, const char *format, ...) {
    if (!nvs_log_enabled(level))
        return;
    int errno_before = errno;
    char line[LINE_MAX_BYTES];
    int prefix = snprintf(line, sizeof line, "nvshare[%ld] %s: ", (long)getpid(), names[level]);
    size_t text = (size_t)prefix;
    va_list arguments;
    va_start(arguments, format);
    int wanted = vsnprintf(line + text, sizeof line - text, format, arguments);
    va_end(arguments);
    if (wanted >= 0) {
        size_t end = text + strnlen(line + text, sizeof line - text - 1);
        for (size_t i = text; i < end; i++)
            if ((unsigned char)line[i] < 0x20 || line[i] == 0x7f)
                line[i] = '?';
        line[end] = '\n';
        write_line(line, end + 1);
    }
    errno = errno_before;
}
