#define _GNU_SOURCE
#include "move.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "driver.h"

#define PAGE_BYTES 4096ULL
#define LOOK_PAGES 2048ULL /* of host memory in one question to the kernel */

static uint64_t minimum(uint64_t left, uint64_t right) {
    return left < right ? left : right;
}

/* ---- What is there
 * ------------------------------------------------------------------------------------------------------------- */

/* Where the bytes from an address on lie, within one range. */
struct backing {
    int descriptor; /* EMU_NO_BACKING: plain memory */
    uint64_t offset;
    uint64_t bytes;
};

static struct backing backing_of(uint64_t address, uint64_t bytes) {
    struct backing found = {.descriptor = EMU_NO_BACKING, .bytes = bytes};
    pthread_mutex_lock(&emu.lock);
    const struct emu_range *range = emu_range_find(address);
    if (range != NULL) {
        uint64_t within = address - range->start;
        found.descriptor = range->backing;
        found.offset = range->offset + within;
        found.bytes = minimum(range->bytes - within, bytes);
    }
    pthread_mutex_unlock(&emu.lock);
    return found;
}

static bool host_has_swap(void) {
    static int answer; /* 0: not looked yet; 1: no; 2: yes */
    if (__atomic_load_n(&answer, __ATOMIC_RELAXED) == 0) {
        FILE *file = fopen("/proc/swaps", "re");
        int lines = 0;
        for (int letter = 0; file != NULL && (letter = fgetc(file)) != EOF;) {
            lines += letter == '\n';
        }
        if (file != NULL) {
            fclose(file);
        }
        __atomic_store_n(&answer, lines == 1 ? 1 : 2, __ATOMIC_RELAXED);
    }
    return __atomic_load_n(&answer, __ATOMIC_RELAXED) == 2;
}

static bool is_zero(const char *bytes, uint64_t count) {
    return count == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, count - 1) == 0);
}

/* What the kernel said about a stretch of plain memory. */
struct look {
    uint64_t first;
    uint64_t pages;
    unsigned char present[LOOK_PAGES];
};

static void look_from(struct look *look, uint64_t address, uint64_t bytes) {
    look->first = address & ~(PAGE_BYTES - 1);
    look->pages = minimum((address + bytes - look->first + PAGE_BYTES - 1) / PAGE_BYTES, LOOK_PAGES);
    if (host_has_swap() || mincore((void *)(uintptr_t)look->first, look->pages * PAGE_BYTES, look->present) != 0) {
        memset(look->present, 1, sizeof look->present);
    }
}

/* How many bytes from the address on are alike, and whether they were never written: for plain memory. Begin with an
 * empty look. */
static uint64_t plain_run(struct look *look, uint64_t address, uint64_t bytes, bool *absent) {
    if (address < look->first || address - look->first >= look->pages * PAGE_BYTES) {
        look_from(look, address, bytes);
    }
    uint64_t page = (address - look->first) / PAGE_BYTES;
    *absent = (look->present[page] & 1) == 0;
    while (page < look->pages && ((look->present[page] & 1) == 0) == *absent) {
        page++;
    }
    return minimum(look->first + page * PAGE_BYTES - address, bytes);
}

/* The same for what a memfd holds. */
static uint64_t backed_run(const struct backing *backing, uint64_t done, uint64_t bytes, bool *absent) {
    off_t position = (off_t)(backing->offset + done);
    off_t data = lseek(backing->descriptor, position, SEEK_DATA);
    *absent = data < 0 || data > position;
    if (*absent) {
        return data < 0 ? bytes : minimum((uint64_t)(data - position), bytes);
    }
    off_t hole = lseek(backing->descriptor, position, SEEK_HOLE);
    return hole < 0 ? bytes : minimum((uint64_t)(hole - position), bytes);
}

/* ---- Zeros
 * ------------------------------------------------------------------------------------------------------------- */

/* Write zeros where something else stands. */
static void zero_plain(uint64_t destination, uint64_t bytes) {
    struct look look = {.pages = 0};
    for (uint64_t done = 0; done < bytes;) {
        bool absent = false;
        uint64_t run = plain_run(&look, destination + done, bytes - done, &absent);
        for (uint64_t end = done + run; done < end;) {
            char *part = (char *)(uintptr_t)(destination + done);
            uint64_t part_bytes = minimum(PAGE_BYTES - ((uintptr_t)part & (PAGE_BYTES - 1)), end - done);
            if (!absent && !is_zero(part, part_bytes)) {
                memset(part, 0, part_bytes);
            }
            done += absent ? end - done : part_bytes;
        }
    }
}

static void zero_backed(uint64_t destination, const struct backing *target, uint64_t done, uint64_t bytes) {
    off_t start = (off_t)(target->offset + done);
    off_t data = lseek(target->descriptor, start, SEEK_DATA);
    if (data < 0 || (uint64_t)(data - start) >= bytes) {
        return;
    }
    /* Whole pages are dropped, the rest is overwritten by the kernel. */
    if (fallocate(target->descriptor, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, start, (off_t)bytes) != 0) {
        zero_plain(destination, bytes);
    }
}

static void zero_piece(uint64_t destination, const struct backing *target, uint64_t done, uint64_t bytes) {
    if (target->descriptor == EMU_NO_BACKING) {
        zero_plain(destination, bytes);
    } else {
        zero_backed(destination, target, done, bytes);
    }
}

void emu_move_zeros(uint64_t destination, uint64_t bytes) {
    while (bytes > 0) {
        struct backing target = backing_of(destination, bytes);
        zero_piece(destination, &target, 0, target.bytes);
        destination += target.bytes;
        bytes -= target.bytes;
    }
}

/* ---- Bytes
 * ------------------------------------------------------------------------------------------------------------- */

/* A copy into a memfd or out of one by a system call takes the pages as they come; by the mapping, each costs a fault.
 */
static void copy_data(uint64_t destination, const struct backing *to, uint64_t source, const struct backing *from,
                      uint64_t done, uint64_t bytes) {
    char *target = (char *)(uintptr_t)destination;
    const char *origin = (const char *)(uintptr_t)source;
    bool overlap = source < destination + bytes && destination < source + bytes;
    uint64_t copied = 0;
    while (copied < bytes && !overlap && bytes >= PAGE_BYTES) {
        ssize_t part = -1;
        if (to->descriptor != EMU_NO_BACKING) {
            part = pwrite(to->descriptor, origin + copied, bytes - copied, (off_t)(to->offset + done + copied));
        } else if (from->descriptor != EMU_NO_BACKING) {
            part = pread(from->descriptor, target + copied, bytes - copied, (off_t)(from->offset + done + copied));
        }
        if (part <= 0) {
            break;
        }
        copied += (uint64_t)part;
    }
    memmove(target + copied, origin + copied, bytes - copied);
}

/* Plain memory that is present and zero is no data either. */
static uint64_t data_run(const char *origin, uint64_t bytes, bool *zero) {
    uint64_t run = 0;
    while (run < bytes) {
        uint64_t part = minimum(PAGE_BYTES - ((uintptr_t)(origin + run) & (PAGE_BYTES - 1)), bytes - run);
        bool part_zero = is_zero(origin + run, part);
        if (run == 0) {
            *zero = part_zero;
        } else if (part_zero != *zero) {
            break;
        }
        run += part;
    }
    return run;
}

/* Copy within one range on each side. */
static void copy_piece(uint64_t destination, const struct backing *to, uint64_t source, const struct backing *from,
                       uint64_t bytes) {
    struct look look = {.pages = 0};
    for (uint64_t done = 0; done < bytes;) {
        bool absent = false;
        bool plain = from->descriptor == EMU_NO_BACKING;
        uint64_t run = plain ? plain_run(&look, source + done, bytes - done, &absent)
                             : backed_run(from, done, bytes - done, &absent);
        if (plain && !absent) {
            run = data_run((const char *)(uintptr_t)(source + done), run, &absent);
        }
        if (absent) {
            zero_piece(destination + done, to, done, run);
        } else {
            copy_data(destination + done, to, source + done, from, done, run);
        }
        done += run;
    }
}

void emu_move_bytes(uint64_t destination, uint64_t source, uint64_t bytes) {
    while (bytes > 0) {
        struct backing from = backing_of(source, bytes);
        struct backing to = backing_of(destination, from.bytes);
        if (to.bytes < PAGE_BYTES) {
            memmove((void *)(uintptr_t)destination, (const void *)(uintptr_t)source, to.bytes);
        } else {
            copy_piece(destination, &to, source, &from, to.bytes);
        }
        destination += to.bytes;
        source += to.bytes;
        bytes -= to.bytes;
    }
}
