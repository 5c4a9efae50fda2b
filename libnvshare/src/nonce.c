#include "nonce.h"

#include "clock.h"

#include <fcntl.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

// getrandom(2) by number, because glibc has the function only since 2.25; the file for kernels before 3.17.
static bool read_random(uint64_t *value) {
#ifdef SYS_getrandom
    const unsigned without_blocking = 1; // GRND_NONBLOCK
    if (syscall(SYS_getrandom, value, sizeof *value, without_blocking) == (long)sizeof *value)
        return true;
#endif
    int file = open("/dev/urandom", O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    ssize_t length = read(file, value, sizeof *value);
    close(file);
    return length == (ssize_t)sizeof *value;
}

uint64_t nvs_nonce(void) {
    uint64_t value;
    // Without any source of randomness, time and pid still tell the lives of processes apart.
    if (!read_random(&value))
        value = nvs_clock_ns() ^ ((uint64_t)getpid() << 44);
    return value != 0 ? value : 1;
}
