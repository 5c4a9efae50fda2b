#include "host_room.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define TEXT_SIZE 8192 // memory.stat has about 4 KiB, /proc/self/cgroup a line for each hierarchy
#define PATH_SIZE 4352
#define KEEP_OF_HOST 8u   // a part of all memory that stays free for everybody else
#define KEEP_OF_LIMIT 16u // a part of a cgroup's limit that stays free for the program itself
#define UNIT_BYTES 1024u  // of /proc/meminfo
#define NO_LIMIT UINT64_MAX

struct files {
    const char *limits[2]; // the lower one counts; NULL: one only
    const char *usage;
    const char *cache; // line of memory.stat
};

static const struct files version_2 = {{"memory.max", "memory.high"}, "memory.current", "inactive_file "};
static const struct files version_1 = {
    {"memory.limit_in_bytes", NULL}, "memory.usage_in_bytes", "total_inactive_file "};

static bool read_text(const char *path, char text[TEXT_SIZE]) {
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    size_t length = 0;
    ssize_t count = 0;
    while (length < TEXT_SIZE - 1 && (count = read(file, text + length, TEXT_SIZE - 1 - length)) > 0)
        length += (size_t)count;
    close(file);
    text[length] = '\0';
    return count >= 0;
}

// The number that `text` starts with. "max", and what does not fit, is no limit.
static uint64_t number_of(const char *text) {
    while (*text == ' ')
        text++;
    if (*text < '0' || *text > '9')
        return NO_LIMIT;
    errno = 0;
    unsigned long long value = strtoull(text, NULL, 10);
    return errno == 0 ? value : NO_LIMIT;
}

// The number behind `name` at the start of a line; `otherwise` if there is none.
static uint64_t number_behind(const char *text, const char *name, uint64_t otherwise) {
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, name, strlen(name)) == 0)
            return number_of(line + strlen(name));
    }
    return otherwise;
}

static uint64_t less(uint64_t bytes, uint64_t taken_bytes) {
    return bytes > taken_bytes ? bytes - taken_bytes : 0;
}

static uint64_t least(uint64_t one, uint64_t other) {
    return one < other ? one : other;
}

static uint64_t read_number(const char *folder, const char *name, uint64_t otherwise) {
    char path[PATH_SIZE + 64], text[TEXT_SIZE];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return read_text(path, text) ? number_of(text) : otherwise;
}

static uint64_t room_of_cgroup(const char *folder, const struct files *files) {
    uint64_t limit_bytes = read_number(folder, files->limits[0], NO_LIMIT);
    if (files->limits[1] != NULL)
        limit_bytes = least(limit_bytes, read_number(folder, files->limits[1], NO_LIMIT));
    if (limit_bytes >= NO_LIMIT / 4) // version 1 writes "none" as a number of about 2^63
        return NO_LIMIT;
    char path[PATH_SIZE + 64], text[TEXT_SIZE];
    uint64_t usage_bytes = read_number(folder, files->usage, limit_bytes);
    snprintf(path, sizeof path, "%s/memory.stat", folder);
    uint64_t cache_bytes = read_text(path, text) ? number_behind(text, files->cache, 0) : 0;
    usage_bytes = less(usage_bytes, cache_bytes / 2);
    return less(limit_bytes - limit_bytes / KEEP_OF_LIMIT, usage_bytes);
}

// From the process's own cgroup up to the mount's root. In a container without a cgroup namespace the path is the
// host's and its lower part is not there; then the mount's root is the container's cgroup.
static uint64_t room_of_hierarchy(const char *mount, const char *path, size_t path_length, const struct files *files) {
    char folder[PATH_SIZE];
    int length = snprintf(folder, sizeof folder, "%s%.*s", mount, (int)path_length, path);
    if (length < 0 || (size_t)length >= sizeof folder)
        return NO_LIMIT;
    uint64_t room_bytes = NO_LIMIT;
    for (size_t root = strlen(mount);;) {
        room_bytes = least(room_bytes, room_of_cgroup(folder, files));
        char *slash = strrchr(folder + root, '/');
        if (slash == NULL)
            return room_bytes;
        *slash = '\0';
    }
}

static bool names_memory(const char *controllers, const char *end) {
    static const char name[] = "memory";
    for (const char *word = controllers; word < end;) {
        const char *comma = memchr(word, ',', (size_t)(end - word));
        const char *word_end = comma != NULL ? comma : end;
        if ((size_t)(word_end - word) == sizeof name - 1 && memcmp(word, name, sizeof name - 1) == 0)
            return true;
        word = word_end + 1;
    }
    return false;
}

static uint64_t room_of_cgroups(const char *root) {
    char file[PATH_SIZE], text[TEXT_SIZE], mount[PATH_SIZE];
    snprintf(file, sizeof file, "%s/proc/self/cgroup", root);
    if (!read_text(file, text))
        return NO_LIMIT;
    uint64_t room_bytes = NO_LIMIT;
    // Lines are `number:controllers:path`; version 2 has number 0 and no controllers.
    for (char *line = text; line != NULL && *line != '\0';) {
        char *next = strchr(line, '\n');
        size_t length = next != NULL ? (size_t)(next - line) : strlen(line);
        const char *controllers = memchr(line, ':', length);
        const char *path =
            controllers == NULL ? NULL : memchr(controllers + 1, ':', length - (size_t)(controllers + 1 - line));
        if (path != NULL) {
            size_t path_length = length - (size_t)(path + 1 - line);
            if (path == controllers + 1) {
                snprintf(mount, sizeof mount, "%s/sys/fs/cgroup", root);
                room_bytes = least(room_bytes, room_of_hierarchy(mount, path + 1, path_length, &version_2));
                snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/unified", root);
                room_bytes = least(room_bytes, room_of_hierarchy(mount, path + 1, path_length, &version_2));
            } else if (names_memory(controllers + 1, path)) {
                snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/memory", root);
                room_bytes = least(room_bytes, room_of_hierarchy(mount, path + 1, path_length, &version_1));
            }
        }
        line = next != NULL ? next + 1 : NULL;
    }
    return room_bytes;
}

static uint64_t room_of_host(const char *root) {
    char file[PATH_SIZE], text[TEXT_SIZE];
    snprintf(file, sizeof file, "%s/proc/meminfo", root);
    if (!read_text(file, text))
        return 0;
    uint64_t total = number_behind(text, "MemTotal:", 0);
    uint64_t available = number_behind(text, "MemAvailable:", 0);
    return less(available, total / KEEP_OF_HOST) * UNIT_BYTES;
}

static uint64_t room_of_limits(const char *root) {
    struct rlimit space, data;
    if (getrlimit(RLIMIT_AS, &space) != 0 || getrlimit(RLIMIT_DATA, &data) != 0)
        return NO_LIMIT;
    if (space.rlim_cur == RLIM_INFINITY && data.rlim_cur == RLIM_INFINITY)
        return NO_LIMIT;
    char file[PATH_SIZE], text[TEXT_SIZE];
    snprintf(file, sizeof file, "%s/proc/self/status", root);
    if (!read_text(file, text))
        return 0;
    uint64_t room_bytes = NO_LIMIT;
    if (space.rlim_cur != RLIM_INFINITY)
        room_bytes = less(space.rlim_cur, number_behind(text, "VmSize:\t", 0) * UNIT_BYTES);
    if (data.rlim_cur != RLIM_INFINITY)
        room_bytes = least(room_bytes, less(data.rlim_cur, number_behind(text, "VmData:\t", 0) * UNIT_BYTES));
    return room_bytes;
}

uint64_t nvs_host_room_bytes(const char *root) {
    return least(least(room_of_host(root), room_of_cgroups(root)), room_of_limits(root));
}

bool nvs_host_is_limited(const char *root) {
    return room_of_cgroups(root) != NO_LIMIT;
}
