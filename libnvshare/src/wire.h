// Grant and Report of proto/nvshare/v1/client.proto as C structs, and their protobuf encoding.
//
// Own encoder and decoder, no allocation. The decoder follows proto3: a field that comes twice counts as it came last,
// a field that is not known is skipped and counted. It is stricter than the standard where a message of ours never
// goes: a known field with another wire type, a string that is too long, not UTF-8 or holds a NUL, and a group make the
// message malformed. Encoding specification: https://protobuf.dev/programming-guides/encoding/
#ifndef NVS_WIRE_H
#define NVS_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The version of the contract that this library speaks (docs/protocol.md). Tests build libraries of the versions beside
// it.
#ifndef NVS_PROTOCOL
#define NVS_PROTOCOL 1u
#endif

// Enough for every Report and every Grant.
#define NVS_WIRE_MESSAGE_MAX_BYTES 2048u

// Sizes of the strings, with their NUL.
#define NVS_GPU_SIZE 48
#define NVS_TOKEN_SIZE 65
#define NVS_NAME_SIZE 64
#define NVS_VERSION_SIZE 32
#define NVS_BUILD_SIZE 48
#define NVS_TRACEPARENT_SIZE 64
#define NVS_REASON_SIZE 160
#define NVS_ACTIVITY_SIZE 193

// Enumerations travel as int32 and are open: a value that is not named here is kept as it came.
enum nvs_mode {
    NVS_MODE_UNSPECIFIED = 0,
    NVS_MODE_AUTO = 1,
    NVS_MODE_CONCURRENT = 2,
    NVS_MODE_SERIAL = 3,
    NVS_MODE_OFF = 4,
};

enum nvs_wait {
    NVS_WAIT_NONE = 0,
    NVS_WAIT_TURN = 1,
    NVS_WAIT_MEMORY = 2,
    NVS_WAIT_SCHEDULER = 3,
    NVS_WAIT_QUOTA = 4,
};

enum nvs_limit {
    NVS_LIMIT_UNSPECIFIED = 0,
    NVS_LIMIT_QUOTA = 1,
    NVS_LIMIT_CARD = 2,
    NVS_LIMIT_HOST_ROOM = 3,
    NVS_LIMIT_OVERCOMMIT = 4,
};

enum nvs_client_state {
    NVS_CLIENT_STATE_UNSPECIFIED = 0,
    NVS_CLIENT_STATE_WAITING = 1,
    NVS_CLIENT_STATE_RUNNING = 2,
    NVS_CLIENT_STATE_DRAINING = 3,
    NVS_CLIENT_STATE_STUCK = 4,
};

// Scheduler -> client. The fields' meanings stand in client.proto.
typedef struct nvs_grant {
    char gpu[NVS_GPU_SIZE];
    char client[NVS_TOKEN_SIZE];
    uint64_t generation;
    uint64_t epoch;
    uint64_t sequence;
    bool may_launch;
    uint64_t resident_bytes;
    uint64_t headroom_bytes;
    uint32_t timeslice_us;
    uint64_t slot_start_us;
    uint32_t slot_length_us;
    uint32_t period_us;
    char traceparent[NVS_TRACEPARENT_SIZE];
    uint64_t limit_bytes;
    uint32_t window_us;
    int32_t wait; // enum nvs_wait
    int32_t mode; // enum nvs_mode
    char build[NVS_BUILD_SIZE];
    uint32_t protocol;
    uint64_t pool_bytes;
    int32_t limited_by; // enum nvs_limit
    uint32_t paid_permille;
} nvs_grant;

// Client -> scheduler. The fields' meanings stand in client.proto.
typedef struct nvs_report {
    char gpu[NVS_GPU_SIZE];
    char client[NVS_TOKEN_SIZE];
    uint64_t sequence;
    uint64_t generation;
    uint64_t epoch;
    int32_t state; // enum nvs_client_state
    bool demand;
    uint64_t footprint_bytes;
    uint64_t resident_bytes;
    uint64_t wanted_bytes;
    bool allocation_waits;
    uint32_t busy_permille;
    uint32_t drain_us;
    uint32_t longest_work_us;
    uint32_t window_us;
    uint64_t launches;
    uint64_t busy_us;
    uint64_t gate_wait_us;
    uint64_t allocation_wait_us;
    uint64_t hand_overs;
    uint64_t unknown_messages;
    uint64_t malformed_messages;
    uint64_t monotonic_ns;
    uint32_t pid;
    char name[NVS_NAME_SIZE];
    char version[NVS_VERSION_SIZE];
    char build[NVS_BUILD_SIZE];
    uint32_t protocol;
    bool leaving;
    uint64_t external_bytes;
    uint64_t needed_bytes;
    uint64_t wanted_needed_bytes;
    uint64_t pinned_bytes;
    char pinned_reason[NVS_REASON_SIZE];
    uint64_t host_room_bytes;
    uint64_t pool_bytes;
    uint64_t swapped_out_bytes;
    uint64_t swapped_in_bytes;
    uint64_t swap_out_us;
    uint64_t swap_in_us;
    uint32_t swap_failures;
    char swap_failure[NVS_REASON_SIZE];
    bool gang;
    bool swaps;
    uint32_t timeslice_us;
    char timeslice_failure[NVS_REASON_SIZE];
    char activity[NVS_ACTIVITY_SIZE];
    uint64_t activity_end_ns;
} nvs_report;

enum nvs_wire_result {
    NVS_WIRE_OK,
    NVS_WIRE_MALFORMED,
};

// Writes the message and returns its length; 0 if it does not fit or a string of it is not UTF-8. Fields at their
// default are left out, the others stand in the order of their numbers, so the bytes equal those of Python's
// SerializeToString. (A message that is all defaults has length 0 too: ours always name a GPU.)
size_t nvs_report_encode(const nvs_report *report, uint8_t *buffer, size_t capacity);
size_t nvs_grant_encode(const nvs_grant *grant, uint8_t *buffer, size_t capacity);

// Reads a message of `length` bytes. *unknown_fields is set to the number of skipped fields (known numbers do not
// count). When the message is malformed, *grant or *report holds nothing that may be used.
enum nvs_wire_result nvs_grant_decode(const uint8_t *bytes, size_t length, nvs_grant *grant, uint32_t *unknown_fields);
enum nvs_wire_result nvs_report_decode(const uint8_t *bytes, size_t length, nvs_report *report,
                                       uint32_t *unknown_fields);

#endif
