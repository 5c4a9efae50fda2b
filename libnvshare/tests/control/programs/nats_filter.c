// Parses NATS streams. Request: number of pieces, then for each its length and bytes. Answer: a frame of text, a line
// an event.
#include "events.h"
#include "frames.h"

int main(void) {
    static struct nvs_nats_parser parser;
    uint32_t pieces;
    while (read_number(&pieces)) {
        char *text = NULL;
        size_t text_bytes = 0;
        FILE *out = open_memstream(&text, &text_bytes);
        if (out == NULL)
            return 1;
        nvs_nats_parser_reset(&parser);
        for (; pieces > 0; pieces--) {
            uint32_t length;
            uint8_t *bytes = read_number(&length) ? read_bytes(length) : NULL;
            if (bytes == NULL)
                return 1;
            parse_piece(&parser, bytes, length, out);
            free(bytes);
        }
        fclose(out);
        bool written = write_frame(text, (uint32_t)text_bytes);
        free(text);
        if (!written)
            return 1;
        fflush(stdout);
    }
    return 0;
}
