#include "refusal.h"

#include <inttypes.h>
#include <stdio.h>

void nvs_refusal_say(const struct nvs_refusal *refusal, char text[NVS_REFUSAL_SIZE]) {
    int length = snprintf(text, NVS_REFUSAL_SIZE,
                          "%" PRIu64 " bytes are refused, %" PRIu64 " are allocated, the limit is %" PRIu64,
                          refusal->bytes, refusal->footprint_bytes, refusal->limit_bytes);
    char *end = text + length;
    size_t room = NVS_REFUSAL_SIZE - (size_t)length;
    switch (refusal->limited_by) {
    case NVS_LIMIT_QUOTA:
        snprintf(end, room, ": the memory quota");
        break;
    case NVS_LIMIT_CARD:
        snprintf(end, room, ": no more fits on the card beside what must stay there");
        break;
    case NVS_LIMIT_HOST_ROOM:
        snprintf(end, room,
                 ": more could neither stay on the card for good nor be moved, %" PRIu64
                 " bytes of host memory are available to this process (a cgroup limit?)",
                 refusal->host_room_bytes);
        break;
    case NVS_LIMIT_OVERCOMMIT:
        snprintf(end, room, ": the GPU has promised as much as its overcommit ratio allows");
        break;
    default: // a scheduler that does not say why
        break;
    }
}
