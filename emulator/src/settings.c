#include "settings.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* "16GiB", "512MiB", "4KiB" or plain bytes. */
static bool parse_number(const char *text, bool with_unit, uint64_t *value) {
    char *end = NULL;
    if (text[0] < '0' || text[0] > '9') {
        return false;
    }
    errno = 0;
    unsigned long long number = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (with_unit && *end != '\0') {
        static const struct {
            const char *name;
            unsigned shift;
        } units[] = {{"KiB", 10}, {"MiB", 20}, {"GiB", 30}, {"TiB", 40}};
        for (size_t index = 0; index < sizeof units / sizeof units[0]; index++) {
            if (strcmp(end, units[index].name) == 0) {
                shift = units[index].shift;
                end += 3;
                break;
            }
        }
    }
    if (errno != 0 || *end != '\0' || number > (UINT64_MAX >> shift)) {
        return false;
    }
    *value = (uint64_t)number << shift;
    return true;
}

static uint64_t read_number(const char *name, bool with_unit, uint64_t lowest, uint64_t highest, uint64_t otherwise) {
    const char *text = getenv(name);
    uint64_t value = 0;
    if (text == NULL || text[0] == '\0') {
        return otherwise;
    }
    if (!parse_number(text, with_unit, &value) || value < lowest || value > highest) {
        fprintf(stderr, "nvshare emulator: %s=%s is not a number from %llu to %llu; using %llu\n", name, text,
                (unsigned long long)lowest, (unsigned long long)highest, (unsigned long long)otherwise);
        return otherwise;
    }
    return value;
}

void emu_settings_read(struct emu_settings *settings) {
    const uint64_t second_us = 1000000;
    settings->card_count = (uint32_t)read_number("NVSHARE_EMULATOR_DEVICES", false, 1, EMU_MAX_CARDS, 1);
    settings->card_bytes =
        read_number("NVSHARE_EMULATOR_MEMORY", true, 256ULL << 20, 1ULL << 40, 16ULL << 30) & ~((2ULL << 20) - 1);
    settings->slice_ns = read_number("NVSHARE_EMULATOR_SLICE_US", false, 0, 100 * second_us, 2048) * 1000;
    settings->switch_ns = read_number("NVSHARE_EMULATOR_SWITCH_US", false, 0, second_us, 215) * 1000;
    settings->link_bytes_per_second =
        read_number("NVSHARE_EMULATOR_LINK_BYTES_PER_SECOND", false, 1000000, 1000000000000000ULL, 55300000000ULL);
    settings->link_kept_permille = read_number("NVSHARE_EMULATOR_LINK_KEPT_PERMILLE", false, 1, 1000, 920);
}

int emu_settings_folder(char *path, unsigned long size) {
    const char *given = getenv("NVSHARE_EMULATOR_DIR");
    int length;
    if (given != NULL && given[0] != '\0') {
        length = snprintf(path, size, "%s", given);
    } else {
        length = snprintf(path, size, "/tmp/nvshare-emulator-%u", (unsigned)getuid());
    }
    if (length < 0 || (unsigned long)length >= size) {
        return ENAMETOOLONG;
    }
    if (mkdir(path, 0777) == 0) {
        return chmod(path, 0777) == 0 ? 0 : errno; /* several users can share cards, whatever the umask */
    }
    return errno == EEXIST ? 0 : errno;
}
