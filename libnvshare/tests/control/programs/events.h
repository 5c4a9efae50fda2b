// One line of text for each event of the NATS parser.
#ifndef TEST_EVENTS_H
#define TEST_EVENTS_H

#include "nats.h"

#include <stdio.h>
#include <stdlib.h>

// Feeds one piece, in a block of just its size, and writes a line for each event.
static inline void parse_piece(struct nvs_nats_parser *parser, const uint8_t *bytes, size_t length, FILE *out) {
    uint8_t *exact = malloc(length == 0 ? 1 : length);
    if (exact == NULL)
        abort();
    for (size_t i = 0; i < length; i++)
        exact[i] = bytes[i];
    struct nvs_nats_event event;
    for (size_t taken = 0;;) {
        taken += nvs_nats_parse(parser, exact + taken, length - taken, &event);
        switch (event.type) {
        case NVS_NATS_NONE:
            free(exact);
            return;
        case NVS_NATS_INFO:
            if (event.info.has_identity)
                fprintf(out, "INFO %s %u %s\n", event.info.allocation, event.info.pid, event.info.node);
            else
                fprintf(out, "INFO\n");
            break;
        case NVS_NATS_MSG:
            fprintf(out, "MSG %s ", event.subject);
            for (size_t i = 0; i < event.payload_bytes; i++)
                fprintf(out, "%02x", event.payload[i]);
            fprintf(out, "\n");
            break;
        case NVS_NATS_PING:
            fprintf(out, "PING\n");
            break;
        case NVS_NATS_PONG:
            fprintf(out, "PONG\n");
            break;
        case NVS_NATS_OK:
            fprintf(out, "OK\n");
            break;
        case NVS_NATS_ERR:
            fprintf(out, "ERR %s\n", event.text);
            break;
        case NVS_NATS_BROKEN:
            fprintf(out, "BROKEN %s\n", event.text);
            break;
        }
    }
}

#endif
