// Why an allocation is refused, for people. Pure.
#ifndef NVS_REFUSAL_H
#define NVS_REFUSAL_H

#include "wire.h"

#include <stddef.h>

#define NVS_REFUSAL_SIZE 256

struct nvs_refusal {
    int32_t limited_by; // enum nvs_limit, of the grant in force
    uint64_t bytes;     // that were asked for
    uint64_t footprint_bytes;
    uint64_t limit_bytes;
    uint64_t host_room_bytes; // as last reported
};

// Writes one sentence without an end.
void nvs_refusal_say(const struct nvs_refusal *refusal, char text[NVS_REFUSAL_SIZE]);

#endif
