// Decodes messages and says what it read, member by member, and how it encodes that again.
// Request: kind (0 Grant, 1 Report), length, bytes. Answer: two frames, the text `result unknown\nname=value\n…` and
// the encoding.
#include "frames.h"
#include "wire.h"

#include <inttypes.h>
#include <string.h>

struct text {
    char characters[8192];
    size_t length;
};

static void print(struct text *text, const char *name, const char *value) {
    int count =
        snprintf(text->characters + text->length, sizeof text->characters - text->length, "%s=%s\n", name, value);
    text->length += (size_t)count;
}

static void print_number(struct text *text, const char *name, uint64_t value) {
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRIu64, value);
    print(text, name, digits);
}

static void print_enum(struct text *text, const char *name, int32_t value) {
    char digits[24];
    snprintf(digits, sizeof digits, "%" PRId32, value);
    print(text, name, digits);
}

// Strings travel as hexadecimal digits: they may hold anything.
static void print_string(struct text *text, const char *name, const char *value) {
    char digits[2 * NVS_ACTIVITY_SIZE + 1] = "";
    for (size_t i = 0; value[i] != '\0'; i++)
        snprintf(digits + 2 * i, 3, "%02x", (unsigned char)value[i]);
    print(text, name, digits);
}

#define NUMBER(message, member) print_number(text, #member, (message)->member)
#define ENUM(message, member) print_enum(text, #member, (message)->member)
#define STRING(message, member) print_string(text, #member, (message)->member)

static void print_grant(struct text *text, const nvs_grant *grant) {
    STRING(grant, gpu);
    STRING(grant, client);
    NUMBER(grant, generation);
    NUMBER(grant, epoch);
    NUMBER(grant, sequence);
    NUMBER(grant, may_launch);
    NUMBER(grant, resident_bytes);
    NUMBER(grant, headroom_bytes);
    NUMBER(grant, timeslice_us);
    NUMBER(grant, slot_start_us);
    NUMBER(grant, slot_length_us);
    NUMBER(grant, period_us);
    STRING(grant, traceparent);
    NUMBER(grant, limit_bytes);
    NUMBER(grant, window_us);
    ENUM(grant, wait);
    ENUM(grant, mode);
    STRING(grant, build);
    NUMBER(grant, protocol);
    NUMBER(grant, pool_bytes);
    ENUM(grant, limited_by);
    NUMBER(grant, paid_permille);
}

static void print_report(struct text *text, const nvs_report *report) {
    STRING(report, gpu);
    STRING(report, client);
    NUMBER(report, sequence);
    NUMBER(report, generation);
    NUMBER(report, epoch);
    ENUM(report, state);
    NUMBER(report, demand);
    NUMBER(report, footprint_bytes);
    NUMBER(report, resident_bytes);
    NUMBER(report, wanted_bytes);
    NUMBER(report, allocation_waits);
    NUMBER(report, busy_permille);
    NUMBER(report, drain_us);
    NUMBER(report, longest_work_us);
    NUMBER(report, window_us);
    NUMBER(report, launches);
    NUMBER(report, busy_us);
    NUMBER(report, gate_wait_us);
    NUMBER(report, allocation_wait_us);
    NUMBER(report, hand_overs);
    NUMBER(report, unknown_messages);
    NUMBER(report, malformed_messages);
    NUMBER(report, monotonic_ns);
    NUMBER(report, pid);
    STRING(report, name);
    STRING(report, version);
    STRING(report, build);
    NUMBER(report, protocol);
    NUMBER(report, leaving);
    NUMBER(report, external_bytes);
    NUMBER(report, needed_bytes);
    NUMBER(report, wanted_needed_bytes);
    NUMBER(report, pinned_bytes);
    STRING(report, pinned_reason);
    NUMBER(report, host_room_bytes);
    NUMBER(report, pool_bytes);
    NUMBER(report, swapped_out_bytes);
    NUMBER(report, swapped_in_bytes);
    NUMBER(report, swap_out_us);
    NUMBER(report, swap_in_us);
    NUMBER(report, swap_failures);
    STRING(report, swap_failure);
    NUMBER(report, gang);
    NUMBER(report, swaps);
    NUMBER(report, timeslice_us);
    STRING(report, timeslice_failure);
    STRING(report, activity);
    NUMBER(report, activity_end_ns);
}

int main(void) {
    uint32_t kind, length;
    while (read_number(&kind) && read_number(&length)) {
        uint8_t *bytes = read_bytes(length);
        if (bytes == NULL)
            return 1;
        static struct text text;
        uint8_t encoded[NVS_WIRE_MESSAGE_MAX_BYTES];
        size_t encoded_bytes = 0;
        nvs_grant grant;
        nvs_report report;
        uint32_t unknown;
        enum nvs_wire_result result = kind == 0 ? nvs_grant_decode(bytes, length, &grant, &unknown)
                                                : nvs_report_decode(bytes, length, &report, &unknown);
        free(bytes);
        text.length = (size_t)snprintf(text.characters, sizeof text.characters, "%s %u\n",
                                       result == NVS_WIRE_OK ? "ok" : "malformed", unknown);
        if (result == NVS_WIRE_OK && kind == 0) {
            print_grant(&text, &grant);
            encoded_bytes = nvs_grant_encode(&grant, encoded, sizeof encoded);
        } else if (result == NVS_WIRE_OK) {
            print_report(&text, &report);
            encoded_bytes = nvs_report_encode(&report, encoded, sizeof encoded);
        }
        if (!write_frame(text.characters, (uint32_t)text.length) || !write_frame(encoded, (uint32_t)encoded_bytes))
            return 1;
        fflush(stdout);
    }
    return 0;
}
