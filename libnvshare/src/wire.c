#include "wire.h"

#include <string.h>

// Both messages are flat, so one table a message drives one encoder and one decoder. A field's kind follows from the
// type of its member: the two cannot disagree.
enum field_kind {
    KIND_UINT64,
    KIND_UINT32,
    KIND_BOOL,
    KIND_ENUM,
    KIND_STRING,
};

struct field {
    uint32_t number;
    enum field_kind kind;
    size_t offset;
    size_t size;
};

struct message_type {
    const struct field *fields; // in the order of their numbers
    size_t field_count;
    size_t size;
};

#define KIND_OF(member)                                                                                                \
    _Generic((member),                                                                                                 \
        uint64_t: KIND_UINT64,                                                                                         \
        uint32_t: KIND_UINT32,                                                                                         \
        bool: KIND_BOOL,                                                                                               \
        int32_t: KIND_ENUM,                                                                                            \
        char *: KIND_STRING)
#define FIELD(message, number, member)                                                                                 \
    {number, KIND_OF(((message *)0)->member), offsetof(message, member), sizeof(((message *)0)->member)}
#define MESSAGE(message, fields) {fields, sizeof(fields) / sizeof(fields)[0], sizeof(message)}

static const struct field grant_fields[] = {
    FIELD(nvs_grant, 1, gpu),
    FIELD(nvs_grant, 2, client),
    FIELD(nvs_grant, 3, generation),
    FIELD(nvs_grant, 4, epoch),
    FIELD(nvs_grant, 5, sequence),
    FIELD(nvs_grant, 6, may_launch),
    FIELD(nvs_grant, 7, resident_bytes),
    FIELD(nvs_grant, 8, headroom_bytes),
    FIELD(nvs_grant, 9, timeslice_us),
    FIELD(nvs_grant, 10, slot_start_us),
    FIELD(nvs_grant, 11, slot_length_us),
    FIELD(nvs_grant, 12, period_us),
    FIELD(nvs_grant, 13, traceparent),
    FIELD(nvs_grant, 14, limit_bytes),
    FIELD(nvs_grant, 15, window_us),
    FIELD(nvs_grant, 16, wait),
    FIELD(nvs_grant, 17, mode),
    FIELD(nvs_grant, 18, build),
    FIELD(nvs_grant, 19, protocol),
    FIELD(nvs_grant, 20, pool_bytes),
    FIELD(nvs_grant, 21, limited_by),
    FIELD(nvs_grant, 22, paid_permille),
};

static const struct field report_fields[] = {
    FIELD(nvs_report, 1, gpu),
    FIELD(nvs_report, 2, client),
    FIELD(nvs_report, 3, sequence),
    FIELD(nvs_report, 4, generation),
    FIELD(nvs_report, 5, epoch),
    FIELD(nvs_report, 6, state),
    FIELD(nvs_report, 7, demand),
    FIELD(nvs_report, 8, footprint_bytes),
    FIELD(nvs_report, 9, resident_bytes),
    FIELD(nvs_report, 10, wanted_bytes),
    FIELD(nvs_report, 11, allocation_waits),
    FIELD(nvs_report, 12, busy_permille),
    FIELD(nvs_report, 13, drain_us),
    FIELD(nvs_report, 14, longest_work_us),
    FIELD(nvs_report, 15, window_us),
    FIELD(nvs_report, 16, launches),
    FIELD(nvs_report, 17, busy_us),
    FIELD(nvs_report, 18, gate_wait_us),
    FIELD(nvs_report, 19, allocation_wait_us),
    FIELD(nvs_report, 20, hand_overs),
    FIELD(nvs_report, 21, unknown_messages),
    FIELD(nvs_report, 22, malformed_messages),
    FIELD(nvs_report, 23, monotonic_ns),
    FIELD(nvs_report, 24, pid),
    FIELD(nvs_report, 25, name),
    FIELD(nvs_report, 26, version),
    FIELD(nvs_report, 27, build),
    FIELD(nvs_report, 28, protocol),
    FIELD(nvs_report, 29, leaving),
    FIELD(nvs_report, 30, external_bytes),
    FIELD(nvs_report, 31, needed_bytes),
    FIELD(nvs_report, 32, wanted_needed_bytes),
    FIELD(nvs_report, 33, pinned_bytes),
    FIELD(nvs_report, 34, pinned_reason),
    FIELD(nvs_report, 35, host_room_bytes),
    FIELD(nvs_report, 36, pool_bytes),
    FIELD(nvs_report, 37, swapped_out_bytes),
    FIELD(nvs_report, 38, swapped_in_bytes),
    FIELD(nvs_report, 39, swap_out_us),
    FIELD(nvs_report, 40, swap_in_us),
    FIELD(nvs_report, 41, swap_failures),
    FIELD(nvs_report, 42, swap_failure),
    FIELD(nvs_report, 43, gang),
    FIELD(nvs_report, 44, swaps),
    FIELD(nvs_report, 45, timeslice_us),
    FIELD(nvs_report, 46, timeslice_failure),
    FIELD(nvs_report, 47, activity),
    FIELD(nvs_report, 48, activity_end_ns),
};

static const struct message_type grant_type = MESSAGE(nvs_grant, grant_fields);
static const struct message_type report_type = MESSAGE(nvs_report, report_fields);

enum wire_type {
    WIRE_VARINT = 0,
    WIRE_FIXED64 = 1,
    WIRE_LENGTH_DELIMITED = 2,
    WIRE_FIXED32 = 5, // 3 and 4 are groups, which are refused
};

static enum wire_type wire_type_of(enum field_kind kind) {
    return kind == KIND_STRING ? WIRE_LENGTH_DELIMITED : WIRE_VARINT;
}

// Well-formed UTF-8 of Unicode 15, table 3-7, without NUL.
static bool is_text(const uint8_t *bytes, size_t length) {
    size_t i = 0;
    while (i < length) {
        uint8_t lead = bytes[i++];
        if (lead >= 0x01 && lead <= 0x7f)
            continue;
        size_t followers;
        uint8_t low = 0x80, high = 0xbf; // bounds of the first follower
        if (lead >= 0xc2 && lead <= 0xdf) {
            followers = 1;
        } else if (lead >= 0xe0 && lead <= 0xef) {
            followers = 2;
            low = lead == 0xe0 ? 0xa0 : 0x80;
            high = lead == 0xed ? 0x9f : 0xbf;
        } else if (lead >= 0xf0 && lead <= 0xf4) {
            followers = 3;
            low = lead == 0xf0 ? 0x90 : 0x80;
            high = lead == 0xf4 ? 0x8f : 0xbf;
        } else {
            return false;
        }
        for (; followers > 0; followers--) {
            if (i == length || bytes[i] < low || bytes[i] > high)
                return false;
            i++;
            low = 0x80;
            high = 0xbf;
        }
    }
    return true;
}

// ---- Encoding

struct writer {
    uint8_t *bytes;
    size_t length;
    size_t capacity;
    bool failed;
};

static void write_varint(struct writer *writer, uint64_t value) {
    do {
        if (writer->length == writer->capacity) {
            writer->failed = true;
            return;
        }
        uint8_t more = value > 0x7f ? 0x80 : 0;
        writer->bytes[writer->length++] = (uint8_t)(value & 0x7f) | more;
        value >>= 7;
    } while (value != 0);
}

static void write_tag(struct writer *writer, const struct field *field) {
    write_varint(writer, (uint64_t)field->number << 3 | wire_type_of(field->kind));
}

static void write_string(struct writer *writer, const struct field *field, const char *text) {
    size_t length = strnlen(text, field->size);
    if (length == 0)
        return;
    if (length == field->size || !is_text((const uint8_t *)text, length)) {
        writer->failed = true;
        return;
    }
    write_tag(writer, field);
    write_varint(writer, length);
    if (writer->failed || length > writer->capacity - writer->length) {
        writer->failed = true;
        return;
    }
    memcpy(writer->bytes + writer->length, text, length);
    writer->length += length;
}

static uint64_t load_number(const struct field *field, const char *member) {
    uint64_t wide = 0;
    uint32_t narrow = 0;
    int32_t enumeration = 0;
    bool boolean = false;
    switch (field->kind) {
    case KIND_UINT64:
        memcpy(&wide, member, sizeof wide);
        return wide;
    case KIND_UINT32:
        memcpy(&narrow, member, sizeof narrow);
        return narrow;
    case KIND_ENUM: // a negative one is sign-extended to ten bytes, as for int32
        memcpy(&enumeration, member, sizeof enumeration);
        return (uint64_t)(int64_t)enumeration;
    case KIND_BOOL:
        memcpy(&boolean, member, sizeof boolean);
        return boolean;
    case KIND_STRING:
        break;
    }
    return 0;
}

static size_t encode(const struct message_type *type, const void *message, uint8_t *buffer, size_t capacity) {
    struct writer writer = {.bytes = buffer, .capacity = capacity};
    for (size_t i = 0; i < type->field_count && !writer.failed; i++) {
        const struct field *field = &type->fields[i];
        const char *member = (const char *)message + field->offset;
        if (field->kind == KIND_STRING) {
            write_string(&writer, field, member);
            continue;
        }
        uint64_t value = load_number(field, member);
        if (value != 0) {
            write_tag(&writer, field);
            write_varint(&writer, value);
        }
    }
    return writer.failed ? 0 : writer.length;
}

// ---- Decoding

struct reader {
    const uint8_t *at;
    const uint8_t *end;
};

static bool read_varint(struct reader *reader, uint64_t *value) {
    *value = 0;
    for (unsigned shift = 0; shift < 70; shift += 7) {
        if (reader->at == reader->end)
            return false;
        uint8_t byte = *reader->at++;
        if (shift == 63 && byte > 1) // beyond 64 bits, or an eleventh byte
            return false;
        *value |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0)
            return true;
    }
    return false;
}

static bool skip_bytes(struct reader *reader, uint64_t count) {
    if (count > (uint64_t)(reader->end - reader->at))
        return false;
    reader->at += count;
    return true;
}

static bool skip_value(struct reader *reader, unsigned wire_type) {
    uint64_t value;
    switch (wire_type) {
    case WIRE_VARINT:
        return read_varint(reader, &value);
    case WIRE_FIXED64:
        return skip_bytes(reader, 8);
    case WIRE_FIXED32:
        return skip_bytes(reader, 4);
    case WIRE_LENGTH_DELIMITED:
        return read_varint(reader, &value) && skip_bytes(reader, value);
    default:
        return false;
    }
}

static bool read_string(struct reader *reader, const struct field *field, char *member) {
    uint64_t length;
    if (!read_varint(reader, &length) || length > (uint64_t)(reader->end - reader->at) || length >= field->size)
        return false;
    if (!is_text(reader->at, (size_t)length))
        return false;
    memcpy(member, reader->at, (size_t)length);
    memset(member + length, 0, field->size - (size_t)length);
    reader->at += length;
    return true;
}

// Numbers are cut to the width of their type, as every protobuf reader does.
static void store_number(const struct field *field, char *member, uint64_t value) {
    uint32_t narrow = (uint32_t)value;
    bool boolean = value != 0;
    switch (field->kind) {
    case KIND_UINT64:
        memcpy(member, &value, sizeof value);
        break;
    case KIND_UINT32:
    case KIND_ENUM:
        memcpy(member, &narrow, sizeof narrow);
        break;
    case KIND_BOOL:
        memcpy(member, &boolean, sizeof boolean);
        break;
    case KIND_STRING:
        break;
    }
}

static const struct field *find_field(const struct message_type *type, uint64_t number) {
    for (size_t i = 0; i < type->field_count; i++)
        if (type->fields[i].number == number)
            return &type->fields[i];
    return NULL;
}

static enum nvs_wire_result decode(const struct message_type *type, const uint8_t *bytes, size_t length, void *message,
                                   uint32_t *unknown_fields) {
    struct reader reader = {.at = bytes, .end = bytes + length};
    memset(message, 0, type->size);
    *unknown_fields = 0;
    while (reader.at < reader.end) {
        uint64_t tag;
        if (!read_varint(&reader, &tag) || tag > UINT32_MAX || tag >> 3 == 0)
            return NVS_WIRE_MALFORMED;
        unsigned wire_type = tag & 7;
        const struct field *field = find_field(type, tag >> 3);
        if (field == NULL) {
            if (!skip_value(&reader, wire_type))
                return NVS_WIRE_MALFORMED;
            ++*unknown_fields;
            continue;
        }
        if (wire_type != wire_type_of(field->kind))
            return NVS_WIRE_MALFORMED;
        char *member = (char *)message + field->offset;
        if (field->kind == KIND_STRING) {
            if (!read_string(&reader, field, member))
                return NVS_WIRE_MALFORMED;
            continue;
        }
        uint64_t value;
        if (!read_varint(&reader, &value))
            return NVS_WIRE_MALFORMED;
        store_number(field, member, value);
    }
    return NVS_WIRE_OK;
}

size_t nvs_report_encode(const nvs_report *report, uint8_t *buffer, size_t capacity) {
    return encode(&report_type, report, buffer, capacity);
}

size_t nvs_grant_encode(const nvs_grant *grant, uint8_t *buffer, size_t capacity) {
    return encode(&grant_type, grant, buffer, capacity);
}

enum nvs_wire_result nvs_grant_decode(const uint8_t *bytes, size_t length, nvs_grant *grant, uint32_t *unknown_fields) {
    return decode(&grant_type, bytes, length, grant, unknown_fields);
}

enum nvs_wire_result nvs_report_decode(const uint8_t *bytes, size_t length, nvs_report *report,
                                       uint32_t *unknown_fields) {
    return decode(&report_type, bytes, length, report, unknown_fields);
}
