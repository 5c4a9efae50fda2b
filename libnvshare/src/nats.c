#include "nats.h"

#include <stdio.h>
#include <string.h>

void nvs_nats_parser_reset(struct nvs_nats_parser *parser) {
    parser->state = NVS_NATS_READS_LINE;
    parser->line_bytes = 0;
}

static void break_parser(struct nvs_nats_parser *parser, struct nvs_nats_event *event, const char *why) {
    parser->state = NVS_NATS_IS_BROKEN;
    *event = (struct nvs_nats_event){.type = NVS_NATS_BROKEN, .text = why};
}

// Cuts the next word out of the text at *at and puts a NUL behind it. NULL when there is none.
static char *next_word(char **at) {
    char *word = *at + strspn(*at, " \t");
    if (*word == '\0')
        return NULL;
    char *end = word + strcspn(word, " \t");
    *at = *end == '\0' ? end : end + 1;
    *end = '\0';
    return word;
}

static bool read_size(const char *word, size_t *size) {
    *size = 0;
    if (*word == '\0' || strlen(word) > 9)
        return false;
    for (; *word != '\0'; word++) {
        if (*word < '0' || *word > '9')
            return false;
        *size = *size * 10 + (size_t)(*word - '0');
    }
    return true;
}

// `MSG subject sid [reply] bytes`, or `HMSG subject sid [reply] header-bytes total-bytes`: sizes are the last words.
// The subscription's number and the reply address are not read: the subject says it all, and replies are never
// believed.
static bool read_message_line(struct nvs_nats_parser *parser, char *arguments, bool has_headers) {
    char *words[5];
    size_t count = 0;
    for (char *word; (word = next_word(&arguments)) != NULL;) {
        if (count == sizeof words / sizeof words[0])
            return false;
        words[count++] = word;
    }
    size_t sizes = has_headers ? 2 : 1;
    if (count != 2 + sizes && count != 3 + sizes)
        return false;
    if (strlen(words[0]) > NVS_NATS_SUBJECT_MAX_BYTES || !read_size(words[count - 1], &parser->total_bytes))
        return false;
    parser->header_bytes = 0;
    if (has_headers && !read_size(words[count - 2], &parser->header_bytes))
        return false;
    if (parser->total_bytes > NVS_NATS_PAYLOAD_MAX_BYTES || parser->header_bytes > parser->total_bytes)
        return false;
    strcpy(parser->subject, words[0]);
    parser->payload_bytes = 0;
    parser->state = NVS_NATS_READS_PAYLOAD;
    return true;
}

// The rest of the line if it begins with the word, otherwise NULL.
static char *after(char *line, const char *word) {
    size_t length = strlen(word);
    return strncmp(line, word, length) == 0 && (line[length] == ' ' || line[length] == '\t') ? line + length + 1 : NULL;
}

static void read_line(struct nvs_nats_parser *parser, struct nvs_nats_event *event) {
    char *line = parser->line;
    char *rest;
    if (strcmp(line, "PING") == 0) {
        event->type = NVS_NATS_PING;
    } else if (strcmp(line, "PONG") == 0) {
        event->type = NVS_NATS_PONG;
    } else if (strcmp(line, "+OK") == 0) {
        event->type = NVS_NATS_OK;
    } else if ((rest = after(line, "-ERR")) != NULL) {
        event->type = NVS_NATS_ERR;
        event->text = rest;
    } else if ((rest = after(line, "INFO")) != NULL) {
        if (nvs_info_parse(rest, strlen(rest), &event->info))
            event->type = NVS_NATS_INFO;
        else
            break_parser(parser, event, "an INFO line that cannot be read");
    } else if ((rest = after(line, "MSG")) != NULL) {
        if (!read_message_line(parser, rest, false))
            break_parser(parser, event, "a MSG line that cannot be read, or more than 16 KiB");
    } else if ((rest = after(line, "HMSG")) != NULL) {
        if (!read_message_line(parser, rest, true))
            break_parser(parser, event, "an HMSG line that cannot be read, or more than 16 KiB");
    } else {
        break_parser(parser, event, "a line that is not of the NATS protocol");
    }
}

// Takes bytes up to the end of the line and reads it when it is whole. Returns the bytes taken.
static size_t take_line(struct nvs_nats_parser *parser, const uint8_t *bytes, size_t length,
                        struct nvs_nats_event *event) {
    const uint8_t *newline = memchr(bytes, '\n', length);
    size_t taken = newline == NULL ? length : (size_t)(newline - bytes) + 1;
    if (taken > NVS_NATS_LINE_MAX_BYTES - parser->line_bytes) {
        break_parser(parser, event, "a line of more than 4 KiB");
        return length;
    }
    memcpy(parser->line + parser->line_bytes, bytes, taken);
    parser->line_bytes += taken;
    if (newline == NULL)
        return taken;

    size_t line_bytes = parser->line_bytes;
    parser->line_bytes = 0;
    if (line_bytes < 2 || parser->line[line_bytes - 2] != '\r' || memchr(parser->line, '\0', line_bytes) != NULL) {
        break_parser(parser, event, "a line without CR LF at its end, or with a NUL in it");
        return taken;
    }
    parser->line[line_bytes - 2] = '\0';
    read_line(parser, event);
    return taken;
}

static size_t take_payload(struct nvs_nats_parser *parser, const uint8_t *bytes, size_t length,
                           struct nvs_nats_event *event) {
    size_t missing = parser->total_bytes + 2 - parser->payload_bytes;
    size_t taken = length < missing ? length : missing;
    memcpy(parser->payload + parser->payload_bytes, bytes, taken);
    parser->payload_bytes += taken;
    if (taken < missing)
        return taken;

    parser->state = NVS_NATS_READS_LINE;
    if (memcmp(parser->payload + parser->total_bytes, "\r\n", 2) != 0) {
        break_parser(parser, event, "a payload without CR LF at its end");
        return taken;
    }
    event->type = NVS_NATS_MSG;
    event->subject = parser->subject;
    event->payload = parser->payload + parser->header_bytes;
    event->payload_bytes = parser->total_bytes - parser->header_bytes;
    return taken;
}

size_t nvs_nats_parse(struct nvs_nats_parser *parser, const uint8_t *bytes, size_t length,
                      struct nvs_nats_event *event) {
    size_t taken = 0;
    *event = (struct nvs_nats_event){.type = NVS_NATS_NONE};
    while (taken < length && event->type == NVS_NATS_NONE) {
        switch (parser->state) {
        case NVS_NATS_READS_LINE:
            taken += take_line(parser, bytes + taken, length - taken, event);
            break;
        case NVS_NATS_READS_PAYLOAD:
            taken += take_payload(parser, bytes + taken, length - taken, event);
            break;
        case NVS_NATS_IS_BROKEN:
            taken = length;
            break;
        }
    }
    return taken;
}

// snprintf's answer as a frame's length: 0 if it did not fit.
static size_t frame_length(int printed, size_t capacity) {
    return printed > 0 && (size_t)printed < capacity ? (size_t)printed : 0;
}

size_t nvs_nats_connect(char *buffer, size_t capacity, const char *name, const char *version) {
    return frame_length(
        snprintf(buffer, capacity,
                 "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":false,"
                 "\"protocol\":1,\"lang\":\"c\",\"version\":\"%s\",\"name\":\"%s\"}\r\n",
                 version, name),
        capacity);
}

size_t nvs_nats_subscribe(char *buffer, size_t capacity, const char *subject, uint32_t subscription) {
    return frame_length(snprintf(buffer, capacity, "SUB %s %u\r\n", subject, subscription), capacity);
}

size_t nvs_nats_publish(char *buffer, size_t capacity, const char *subject, const uint8_t *payload,
                        size_t payload_bytes) {
    size_t line = frame_length(snprintf(buffer, capacity, "PUB %s %zu\r\n", subject, payload_bytes), capacity);
    if (line == 0 || payload_bytes > NVS_NATS_PAYLOAD_MAX_BYTES || capacity - line < payload_bytes + 2)
        return 0;
    memcpy(buffer + line, payload, payload_bytes);
    memcpy(buffer + line + payload_bytes, "\r\n", 2);
    return line + payload_bytes + 2;
}

size_t nvs_nats_ping(char *buffer, size_t capacity) {
    return frame_length(snprintf(buffer, capacity, "PING\r\n"), capacity);
}

size_t nvs_nats_pong(char *buffer, size_t capacity) {
    return frame_length(snprintf(buffer, capacity, "PONG\r\n"), capacity);
}
