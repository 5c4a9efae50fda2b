// The JSON of NATS' INFO line: what the relay says about who this process is.
#ifndef NVS_INFO_H
#define NVS_INFO_H

#include "wire.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The member `nvshare` of INFO on an allocation's socket (docs/protocol.md, "Joining the bus through the relay").
struct nvs_nats_info {
    bool has_identity; // the member is there; nats-server's own later INFO lines come without it
    char allocation[NVS_TOKEN_SIZE];
    char node[NVS_TOKEN_SIZE];
    uint32_t pid; // as the relay sees it
};

// Reads one JSON object. False if it is not JSON (RFC 8259), nests deeper than 16 levels, or its member `nvshare` lacks
// one of allocation, pid and node, has one twice, or has one that is not a token of a subject or not a pid.
bool nvs_info_parse(const char *json, size_t length, struct nvs_nats_info *info);

// True if the text is one to 64 characters of [A-Za-z0-9_-]: what may stand in a subject as one token.
bool nvs_is_token(const char *text);

#endif
