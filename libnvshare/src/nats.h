// The NATS client protocol without a socket: bytes in, events out; and the few lines that a client writes.
//
// Everything is bounded: a control line by 4 KiB, a payload (headers included) by 16 KiB. What is beyond, or is not the
// protocol, breaks the parser; the connection is then closed and made anew. However the bytes are split over calls, the
// events are the same. Protocol: https://docs.nats.io/reference/reference-protocols/nats-protocol
#ifndef NVS_NATS_H
#define NVS_NATS_H

#include "info.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_NATS_LINE_MAX_BYTES 4096u
#define NVS_NATS_PAYLOAD_MAX_BYTES 16384u
#define NVS_NATS_SUBJECT_MAX_BYTES 255u

enum nvs_nats_event_type {
    NVS_NATS_NONE, // the bytes ended before an event did: read more
    NVS_NATS_INFO, // info
    NVS_NATS_MSG,  // subject, payload (of MSG and HMSG; headers are skipped)
    NVS_NATS_PING, // answer with PONG
    NVS_NATS_PONG,
    NVS_NATS_OK,
    NVS_NATS_ERR,    // text
    NVS_NATS_BROKEN, // text says why; the parser yields nothing more until it is reset
};

// One event. The pointers lead into the parser and hold until its next call. Strings end with a NUL.
struct nvs_nats_event {
    enum nvs_nats_event_type type;
    struct nvs_nats_info info;
    const char *subject;
    const uint8_t *payload;
    size_t payload_bytes;
    const char *text;
};

struct nvs_nats_parser {
    enum { NVS_NATS_READS_LINE, NVS_NATS_READS_PAYLOAD, NVS_NATS_IS_BROKEN } state;
    char line[NVS_NATS_LINE_MAX_BYTES + 1];
    size_t line_bytes;
    char subject[NVS_NATS_SUBJECT_MAX_BYTES + 1];
    size_t header_bytes;
    size_t total_bytes;   // headers and payload
    size_t payload_bytes; // read so far, with the closing CR LF
    uint8_t payload[NVS_NATS_PAYLOAD_MAX_BYTES + 2];
};

// Makes the parser ready for a new connection.
void nvs_nats_parser_reset(struct nvs_nats_parser *parser);

// Reads bytes until one event is complete or they end. Returns how many bytes it took; *event is set in every case.
// Call again with the rest until the type is NVS_NATS_NONE.
size_t nvs_nats_parse(struct nvs_nats_parser *parser, const uint8_t *bytes, size_t length,
                      struct nvs_nats_event *event);

// Encoders. Each writes one frame to `buffer` and returns its length, or 0 if it does not fit.
size_t nvs_nats_connect(char *buffer, size_t capacity, const char *name, const char *version);
size_t nvs_nats_subscribe(char *buffer, size_t capacity, const char *subject, uint32_t subscription);
size_t nvs_nats_publish(char *buffer, size_t capacity, const char *subject, const uint8_t *payload,
                        size_t payload_bytes);
size_t nvs_nats_ping(char *buffer, size_t capacity);
size_t nvs_nats_pong(char *buffer, size_t capacity);

#endif
