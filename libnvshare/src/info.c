#include "info.h"

#include <string.h>

#define DEPTH_MAX 16u

struct scanner {
    const char *at;
    const char *end;
};

// A JSON string without its quotes, as it stands there.
struct text {
    const char *start;
    size_t length;
    bool escaped;
};

bool nvs_is_token(const char *text) {
    size_t length = strnlen(text, NVS_TOKEN_SIZE);
    if (length == 0 || length == NVS_TOKEN_SIZE)
        return false;
    for (size_t i = 0; i < length; i++) {
        char c = text[i];
        if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '-' || c == '_'))
            return false;
    }
    return true;
}

static void skip_space(struct scanner *scanner) {
    while (scanner->at < scanner->end && memchr(" \t\r\n", *scanner->at, 4) != NULL)
        scanner->at++;
}

// The next character after white space, left where it is; NUL at the end.
static char peek(struct scanner *scanner) {
    skip_space(scanner);
    return scanner->at < scanner->end ? *scanner->at : '\0';
}

static bool take(struct scanner *scanner, char wanted) {
    if (peek(scanner) != wanted || scanner->at == scanner->end)
        return false;
    scanner->at++;
    return true;
}

static bool is_digit(char c) {
    return c >= '0' && c <= '9';
}

static bool is_hex_digit(char c) {
    return is_digit(c) || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

static bool scan_escape(struct scanner *scanner) {
    if (scanner->at == scanner->end)
        return false;
    char c = *scanner->at++;
    if (c != 'u')
        return c != '\0' && strchr("\"\\/bfnrt", c) != NULL;
    for (int i = 0; i < 4; i++) {
        if (scanner->at == scanner->end || !is_hex_digit(*scanner->at))
            return false;
        scanner->at++;
    }
    return true;
}

static bool scan_string(struct scanner *scanner, struct text *text) {
    if (!take(scanner, '"'))
        return false;
    *text = (struct text){.start = scanner->at};
    while (scanner->at < scanner->end) {
        char c = *scanner->at++;
        if (c == '"') {
            text->length = (size_t)(scanner->at - 1 - text->start);
            return true;
        }
        if ((unsigned char)c < 0x20)
            return false;
        if (c == '\\') {
            text->escaped = true;
            if (!scan_escape(scanner))
                return false;
        }
    }
    return false;
}

static bool scan_digits(struct scanner *scanner) {
    const char *start = scanner->at;
    while (scanner->at < scanner->end && is_digit(*scanner->at))
        scanner->at++;
    return scanner->at > start;
}

static bool scan_number(struct scanner *scanner) {
    if (*scanner->at == '-')
        scanner->at++;
    const char *whole = scanner->at;
    if (!scan_digits(scanner) || (*whole == '0' && scanner->at - whole > 1))
        return false;
    if (scanner->at < scanner->end && *scanner->at == '.') {
        scanner->at++;
        if (!scan_digits(scanner))
            return false;
    }
    if (scanner->at < scanner->end && (*scanner->at == 'e' || *scanner->at == 'E')) {
        scanner->at++;
        if (scanner->at < scanner->end && (*scanner->at == '+' || *scanner->at == '-'))
            scanner->at++;
        return scan_digits(scanner);
    }
    return true;
}

static bool scan_word(struct scanner *scanner, const char *word) {
    size_t length = strlen(word);
    if ((size_t)(scanner->end - scanner->at) < length || memcmp(scanner->at, word, length) != 0)
        return false;
    scanner->at += length;
    return true;
}

static bool scan_value(struct scanner *scanner, unsigned depth);

// What a reader of an object does with one member: it must take the whole value.
typedef bool member_reader(struct scanner *scanner, const struct text *name, unsigned depth, void *context);

static bool scan_object(struct scanner *scanner, unsigned depth, member_reader *read_member, void *context) {
    if (depth == DEPTH_MAX || !take(scanner, '{'))
        return false;
    if (take(scanner, '}'))
        return true;
    do {
        struct text name;
        if (!scan_string(scanner, &name) || !take(scanner, ':') || !read_member(scanner, &name, depth + 1, context))
            return false;
    } while (take(scanner, ','));
    return take(scanner, '}');
}

static bool scan_array(struct scanner *scanner, unsigned depth) {
    if (depth == DEPTH_MAX || !take(scanner, '['))
        return false;
    if (take(scanner, ']'))
        return true;
    do {
        if (!scan_value(scanner, depth + 1))
            return false;
    } while (take(scanner, ','));
    return take(scanner, ']');
}

static bool skip_member(struct scanner *scanner, const struct text *name, unsigned depth, void *context) {
    (void)name;
    (void)context;
    return scan_value(scanner, depth);
}

static bool scan_value(struct scanner *scanner, unsigned depth) {
    struct text text;
    switch (peek(scanner)) {
    case '{':
        return scan_object(scanner, depth, skip_member, NULL);
    case '[':
        return scan_array(scanner, depth);
    case '"':
        return scan_string(scanner, &text);
    case 't':
        return scan_word(scanner, "true");
    case 'f':
        return scan_word(scanner, "false");
    case 'n':
        return scan_word(scanner, "null");
    case '\0':
        return false;
    default:
        return scan_number(scanner);
    }
}

static bool is_named(const struct text *name, const char *wanted) {
    return !name->escaped && name->length == strlen(wanted) && memcmp(name->start, wanted, name->length) == 0;
}

static bool read_token(struct scanner *scanner, char token[NVS_TOKEN_SIZE]) {
    struct text text;
    if (token[0] != '\0' || !scan_string(scanner, &text) || text.length >= NVS_TOKEN_SIZE)
        return false;
    memcpy(token, text.start, text.length);
    token[text.length] = '\0';
    return nvs_is_token(token);
}

static bool read_pid(struct scanner *scanner, uint32_t *pid) {
    uint64_t value = 0;
    if (*pid != 0 || !is_digit(peek(scanner)) || *scanner->at == '0')
        return false;
    while (scanner->at < scanner->end && is_digit(*scanner->at)) {
        value = value * 10 + (uint64_t)(*scanner->at++ - '0');
        if (value > INT32_MAX)
            return false;
    }
    *pid = (uint32_t)value;
    return true;
}

static bool read_identity_member(struct scanner *scanner, const struct text *name, unsigned depth, void *context) {
    struct nvs_nats_info *info = context;
    if (is_named(name, "allocation"))
        return read_token(scanner, info->allocation);
    if (is_named(name, "node"))
        return read_token(scanner, info->node);
    if (is_named(name, "pid"))
        return read_pid(scanner, &info->pid);
    return scan_value(scanner, depth);
}

static bool read_info_member(struct scanner *scanner, const struct text *name, unsigned depth, void *context) {
    struct nvs_nats_info *info = context;
    if (!is_named(name, "nvshare"))
        return scan_value(scanner, depth);
    if (info->has_identity || !scan_object(scanner, depth, read_identity_member, info))
        return false;
    info->has_identity = true;
    return info->allocation[0] != '\0' && info->node[0] != '\0' && info->pid != 0;
}

bool nvs_info_parse(const char *json, size_t length, struct nvs_nats_info *info) {
    struct scanner scanner = {.at = json, .end = json + length};
    memset(info, 0, sizeof *info);
    if (!scan_object(&scanner, 0, read_info_member, info))
        return false;
    skip_space(&scanner);
    return scanner.at == scanner.end;
}
