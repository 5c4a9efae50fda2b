// Decodes mutated messages: `wire_fuzz SEED CASES`. The sanitizers watch the memory; besides, whatever is accepted must
// survive a round trip, and an encoder must refuse every buffer that is too small. Prints how many messages were
// accepted and refused.
#include "random.h"
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "case %zu: %s\n", number, #condition);                                                     \
            return 1;                                                                                                  \
        }                                                                                                              \
    } while (0)

static void fill_string(uint64_t *state, char *text, size_t size) {
    size_t length = random_below(state, size);
    for (size_t i = 0; i < length; i++)
        text[i] = (char)(0x20 + random_below(state, 0x5f));
}

static uint64_t random_number(uint64_t *state) {
    return next_random(state) >> random_below(state, 64);
}

static nvs_grant random_grant(uint64_t *state) {
    nvs_grant grant = {
        .generation = random_number(state),
        .epoch = random_number(state),
        .sequence = random_number(state),
        .may_launch = random_below(state, 2),
        .resident_bytes = random_number(state),
        .timeslice_us = (uint32_t)random_number(state),
        .slot_start_us = random_number(state),
        .period_us = (uint32_t)random_number(state),
        .wait = (int32_t)random_number(state),
        .mode = (int32_t)random_number(state),
    };
    fill_string(state, grant.gpu, sizeof grant.gpu);
    fill_string(state, grant.client, sizeof grant.client);
    fill_string(state, grant.traceparent, sizeof grant.traceparent);
    fill_string(state, grant.build, sizeof grant.build);
    return grant;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    uint64_t state = strtoull(argv[1], NULL, 10);
    size_t cases = strtoul(argv[2], NULL, 10);
    size_t accepted = 0;
    for (size_t number = 0; number < cases; number++) {
        nvs_grant grant = random_grant(&state);
        uint8_t message[2 * NVS_WIRE_MESSAGE_MAX_BYTES];
        size_t length = nvs_grant_encode(&grant, message, NVS_WIRE_MESSAGE_MAX_BYTES);
        if (length > 0 && number % 64 == 0) {
            size_t too_small = random_below(&state, length);
            uint8_t *exact = malloc(too_small + 1);
            CHECK(exact != NULL && nvs_grant_encode(&grant, exact, too_small) == 0);
            free(exact);
        }
        length = mutate(&state, message, length, sizeof message);

        uint8_t *exact = malloc(length + 1); // one more: malloc(0) may be NULL
        CHECK(exact != NULL);
        memcpy(exact + 1, message, length);
        uint32_t unknown;
        nvs_report report;
        (void)nvs_report_decode(exact + 1, length, &report, &unknown);
        nvs_grant first, second;
        if (nvs_grant_decode(exact + 1, length, &first, &unknown) == NVS_WIRE_OK) {
            accepted++;
            uint8_t again[NVS_WIRE_MESSAGE_MAX_BYTES];
            size_t again_bytes = nvs_grant_encode(&first, again, sizeof again);
            CHECK(nvs_grant_decode(again, again_bytes, &second, &unknown) == NVS_WIRE_OK);
            CHECK(unknown == 0);
            uint8_t third[NVS_WIRE_MESSAGE_MAX_BYTES];
            CHECK(nvs_grant_encode(&second, third, sizeof third) == again_bytes &&
                  memcmp(again, third, again_bytes) == 0);
        }
        free(exact);
    }
    printf("%zu accepted, %zu refused\n", accepted, cases - accepted);
    return 0;
}
