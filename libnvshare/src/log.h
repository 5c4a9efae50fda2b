// The library's voice: one line on stderr for each message, `nvshare[pid] level: text`.
//
// The library lives in somebody else's process, so it writes nothing else and nowhere else. A line is one write(2), so
// lines of several threads and processes do not mix. NVSHARE_LOG chooses the least important level that is written
// (default: warn). Safe from every thread, with no lock and no allocation.
#ifndef NVS_LOG_H
#define NVS_LOG_H

#include <stdatomic.h>
#include <stdbool.h>

enum nvs_log_level {
    NVS_LOG_ERROR,
    NVS_LOG_WARN,
    NVS_LOG_INFO,
    NVS_LOG_DEBUG,
};

// The least important level that is written. nvs_settings_read() calls it; until then it is NVS_LOG_WARN.
void nvs_log_set_level(enum nvs_log_level level);

// True if a message of this level is written: ask before computing something costly for a message.
bool nvs_log_enabled(enum nvs_log_level level);

// Writes one line. Control characters in the text become '?', and a line longer than 1 KiB is cut. Keeps errno.
void nvs_log(enum nvs_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The same, once in the life of the process for each place in the code that says so.
#define nvs_log_once(level, ...)                                                                                       \
    do {                                                                                                               \
        static atomic_flag nvs_log_said = ATOMIC_FLAG_INIT;                                                            \
        if (!atomic_flag_test_and_set_explicit(&nvs_log_said, memory_order_relaxed))                                   \
            nvs_log((level), __VA_ARGS__);                                                                             \
    } while (0)

#endif
