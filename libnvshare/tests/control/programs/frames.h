// Length-prefixed frames on stdin and stdout, for the filters that tests drive over pipes. Numbers are little-endian
// uint32.
#ifndef TEST_FRAMES_H
#define TEST_FRAMES_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

static inline bool read_number(uint32_t *number) {
    return fread(number, sizeof *number, 1, stdin) == 1;
}

// Bytes of stdin in a block of just that size, so that AddressSanitizer sees a read beyond it. NULL: stdin ended.
static inline uint8_t *read_bytes(uint32_t length) {
    uint8_t *bytes = malloc(length == 0 ? 1 : length);
    if (bytes != NULL && fread(bytes, 1, length, stdin) != length) {
        free(bytes);
        return NULL;
    }
    return bytes;
}

static inline bool write_frame(const void *bytes, uint32_t length) {
    return fwrite(&length, sizeof length, 1, stdout) == 1 && fwrite(bytes, 1, length, stdout) == length;
}

#endif
