// A deterministic generator for the fuzz drivers: the same seed gives the same cases everywhere. splitmix64, Steele
// 2014.
#ifndef TEST_RANDOM_H
#define TEST_RANDOM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

static inline size_t random_below(uint64_t *state, size_t bound) {
    return bound == 0 ? 0 : (size_t)(next_random(state) % bound);
}

// One to four mutations: a changed byte, a flipped bit, bytes removed, bytes put in, a piece copied elsewhere, a cut
// end. Returns the new length, at most `capacity`.
static inline size_t mutate(uint64_t *state, uint8_t *bytes, size_t length, size_t capacity) {
    for (size_t round = 1 + random_below(state, 4); round > 0; round--) {
        size_t at = random_below(state, length);
        size_t count = random_below(state, length - at < 12 ? length - at : 12);
        switch (random_below(state, 6)) {
        case 0:
            if (length > 0)
                bytes[at] = (uint8_t)next_random(state);
            break;
        case 1:
            if (length > 0)
                bytes[at] ^= (uint8_t)(1u << random_below(state, 8));
            break;
        case 2:
            memmove(bytes + at, bytes + at + count, length - at - count);
            length -= count;
            break;
        case 3:
            if (length + count > capacity)
                break;
            memmove(bytes + at + count, bytes + at, length - at);
            for (size_t i = 0; i < count; i++)
                bytes[at + i] = (uint8_t)next_random(state);
            length += count;
            break;
        case 4:
            memmove(bytes + random_below(state, length - count), bytes + at, count);
            break;
        case 5:
            length = at;
            break;
        }
    }
    return length;
}

#endif
