#include "pin.h"

#include <stdio.h>

static const struct nvs_pin_words {
    const char *one, *several;
} nvs_pin_words[NVS_PINS] = {
    [NVS_PIN_IPC] = {"block exported by cuIpcGetMemHandle", "blocks exported by cuIpcGetMemHandle"},
    [NVS_PIN_RANGE] = {"block with a dma-buf", "blocks with a dma-buf"},
    [NVS_PIN_RDMA] = {"block prepared for RDMA", "blocks prepared for RDMA"},
    [NVS_PIN_LINEAR] = {"block outside of the arena", "blocks outside of the arena"},
    [NVS_PIN_MANAGED] = {"managed allocation", "managed allocations"},
    [NVS_PIN_STREAM_ORDERED] = {"stream-ordered allocation", "stream-ordered allocations"},
    [NVS_PIN_ACCESS] = {"handle that more than devices may access", "handles that more than devices may access"},
    [NVS_PIN_BOUND] = {"handle bound to a multicast object", "handles bound to multicast objects"},
    [NVS_PIN_EXPORTED] = {"handle exported by cuMemExportToShareableHandle",
                          "handles exported by cuMemExportToShareableHandle"},
    [NVS_PIN_EXPORTABLE] = {"exportable handle of cuMemCreate", "exportable handles of cuMemCreate"},
    [NVS_PIN_HANDLE] = {"handle of cuMemCreate", "handles of cuMemCreate"},
    [NVS_PIN_ARRAY] = {"array", "arrays"},
};

void nvs_pin_text(const struct nvs_pins *pins, char *text, size_t size) {
    size_t length = 0;
    text[0] = '\0';
    for (int pin = 0; pin < NVS_PINS && length < size; pin++) {
        uint32_t count = atomic_load_explicit(&pins->counts[pin], memory_order_relaxed);
        if (count == 0)
            continue;
        int written = snprintf(text + length, size - length, "%s%u %s", length == 0 ? "" : ", ", count,
                               count == 1 ? nvs_pin_words[pin].one : nvs_pin_words[pin].several);
        if (written > 0)
            length += (size_t)written;
    }
}
