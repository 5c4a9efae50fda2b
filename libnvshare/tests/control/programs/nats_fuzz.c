// Parses mutated NATS streams: `nats_fuzz SEED CASES`. The sanitizers watch the memory; besides, a stream must give the
// same events in one piece and in random pieces. Prints how many streams broke the parser and how many did not.
#include "events.h"
#include "random.h"

static const char *const frames[] = {
    "INFO "
    "{\"server_id\":\"N\",\"nvshare\":{\"allocation\":\"run-1\",\"pid\":42,\"node\":\"n1\"},\"x\":[1,2.5e3,null]}\r\n",
    "PING\r\n",
    "PONG\r\n",
    "+OK\r\n",
    "-ERR 'Permissions Violation'\r\n",
    "MSG nvshare.v1.gpu.GPU-1.alloc.a.client.c.grant 1 5\r\nhello\r\n",
    "MSG a.b 1 reply.to 0\r\n\r\n",
    "HMSG a.b 7 12 15\r\nNATS/1.0\r\n\r\nabc\r\n",
};

static char *parse(const uint8_t *bytes, size_t length, uint64_t *state) {
    static struct nvs_nats_parser parser;
    char *text = NULL;
    size_t text_bytes = 0;
    FILE *out = open_memstream(&text, &text_bytes);
    if (out == NULL)
        abort();
    nvs_nats_parser_reset(&parser);
    for (size_t at = 0; at < length;) {
        size_t piece = state == NULL ? length : 1 + random_below(state, length - at);
        parse_piece(&parser, bytes + at, piece, out);
        at += piece;
    }
    fclose(out);
    return text;
}

int main(int argc, char **argv) {
    if (argc != 3)
        return 2;
    uint64_t state = strtoull(argv[1], NULL, 10);
    size_t cases = strtoul(argv[2], NULL, 10);
    size_t broken = 0;
    for (size_t number = 0; number < cases; number++) {
        uint8_t stream[4096];
        size_t length = 0;
        for (size_t count = 1 + random_below(&state, 6); count > 0; count--) {
            const char *frame = frames[random_below(&state, sizeof frames / sizeof frames[0])];
            memcpy(stream + length, frame, strlen(frame));
            length += strlen(frame);
        }
        length = mutate(&state, stream, length, sizeof stream);
        char *whole = parse(stream, length, NULL);
        char *pieces = parse(stream, length, &state);
        if (strcmp(whole, pieces) != 0) {
            fprintf(stderr, "case %zu: pieces change the events:\n%s---\n%s", number, whole, pieces);
            return 1;
        }
        broken += strstr(whole, "BROKEN") != NULL;
        free(whole);
        free(pieces);
    }
    printf("%zu broken, %zu whole\n", broken, cases - broken);
    return 0;
}
