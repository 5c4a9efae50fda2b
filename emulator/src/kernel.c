#include "kernel.h"

#include <string.h>

#define LONG_ELEMENTS 1000000 /* that many take the host about a millisecond */

/* Parameter blocks, laid out as the device code's would be. */
struct spin {
    uint64_t duration_ns;
};

struct fill {
    uint64_t out, n, stride;
    uint32_t value, padding;
    uint64_t duration_ns;
};

struct add {
    uint64_t z, x, y, n, stride, duration_ns;
};

struct checksum {
    uint64_t out, in, n, stride, duration_ns;
};

_Static_assert(sizeof(struct add) <= EMU_PARAMETER_BYTES, "parameters fit");

static uint64_t at_memory_rate(uint64_t given_ns, uint64_t n, uint64_t bytes_per_element) {
    return given_ns != 0 ? given_ns : emu_duration_ns(n * bytes_per_element, EMU_MEMORY_BYTES_PER_SECOND);
}

static uint64_t spin_duration(const unsigned char *parameters) {
    struct spin spin;
    memcpy(&spin, parameters, sizeof spin);
    return spin.duration_ns;
}

static uint64_t fill_duration(const unsigned char *parameters) {
    struct fill fill;
    memcpy(&fill, parameters, sizeof fill);
    return at_memory_rate(fill.duration_ns, fill.n, 4);
}

static uint64_t add_duration(const unsigned char *parameters) {
    struct add add;
    memcpy(&add, parameters, sizeof add);
    return at_memory_rate(add.duration_ns, add.n, 12);
}

static uint64_t checksum_duration(const unsigned char *parameters) {
    struct checksum checksum;
    memcpy(&checksum, parameters, sizeof checksum);
    return at_memory_rate(checksum.duration_ns, checksum.n, 4);
}

/* n elements of element_bytes at the address; too many to count is more than there is. */
static struct emu_span elements(uint64_t address, uint64_t n, uint64_t element_bytes, enum emu_touch how) {
    return (struct emu_span){.start = address,
                             .bytes = n > UINT64_MAX / element_bytes ? UINT64_MAX : n * element_bytes,
                             .alignment = element_bytes,
                             .how = how,
                             .on_device = true};
}

static uint64_t step_of(uint64_t stride) {
    return stride == 0 ? 1 : stride;
}

static bool is_long(uint64_t n, uint64_t stride) {
    return n / step_of(stride) > LONG_ELEMENTS;
}

static unsigned fill_spans(const struct emu_work *work, struct emu_span *spans) {
    struct fill fill;
    memcpy(&fill, work->launch.parameters, sizeof fill);
    spans[0] = elements(fill.out, fill.n, 4, EMU_TOUCH_WRITE);
    return 1;
}

static bool fill_is_long(const unsigned char *parameters) {
    struct fill fill;
    memcpy(&fill, parameters, sizeof fill);
    return is_long(fill.n, fill.stride);
}

static void apply_fill(const struct emu_work *work) {
    struct fill fill;
    memcpy(&fill, work->launch.parameters, sizeof fill);
    uint32_t *out = (uint32_t *)(uintptr_t)fill.out;
    for (uint64_t index = 0; index < fill.n; index += step_of(fill.stride)) {
        out[index] = fill.value;
    }
}

static unsigned add_spans(const struct emu_work *work, struct emu_span *spans) {
    struct add add;
    memcpy(&add, work->launch.parameters, sizeof add);
    spans[0] = elements(add.z, add.n, 4, EMU_TOUCH_WRITE);
    spans[1] = elements(add.x, add.n, 4, EMU_TOUCH_READ);
    spans[2] = elements(add.y, add.n, 4, EMU_TOUCH_READ);
    return 3;
}

static bool add_is_long(const unsigned char *parameters) {
    struct add add;
    memcpy(&add, parameters, sizeof add);
    return is_long(add.n, add.stride);
}

static void apply_add(const struct emu_work *work) {
    struct add add;
    memcpy(&add, work->launch.parameters, sizeof add);
    float *z = (float *)(uintptr_t)add.z;
    const float *x = (const float *)(uintptr_t)add.x;
    const float *y = (const float *)(uintptr_t)add.y;
    for (uint64_t index = 0; index < add.n; index += step_of(add.stride)) {
        z[index] = x[index] + y[index];
    }
}

static unsigned checksum_spans(const struct emu_work *work, struct emu_span *spans) {
    struct checksum checksum;
    memcpy(&checksum, work->launch.parameters, sizeof checksum);
    spans[0] = elements(checksum.out, 1, 8, EMU_TOUCH_WRITE);
    spans[1] = elements(checksum.in, checksum.n, 4, EMU_TOUCH_READ);
    return 2;
}

static bool checksum_is_long(const unsigned char *parameters) {
    struct checksum checksum;
    memcpy(&checksum, parameters, sizeof checksum);
    return is_long(checksum.n, checksum.stride);
}

static void apply_checksum(const struct emu_work *work) {
    struct checksum checksum;
    uint64_t sum = 0;
    memcpy(&checksum, work->launch.parameters, sizeof checksum);
    const uint32_t *in = (const uint32_t *)(uintptr_t)checksum.in;
    for (uint64_t index = 0; index < checksum.n; index += step_of(checksum.stride)) {
        sum += in[index] * (index + 1);
    }
    *(uint64_t *)(uintptr_t)checksum.out = sum;
}

const struct emu_kernel emu_kernels[] = {
    {.name = "spin", .parameter_count = 1, .offset = {0}, .bytes = {8}, .duration_ns = spin_duration},
    {.name = "fill",
     .parameter_count = 5,
     .offset = {0, 8, 16, 24, 32},
     .bytes = {8, 8, 8, 4, 8},
     .duration_ns = fill_duration,
     .is_long = fill_is_long,
     .spans = fill_spans,
     .apply = apply_fill},
    {.name = "add",
     .parameter_count = 6,
     .offset = {0, 8, 16, 24, 32, 40},
     .bytes = {8, 8, 8, 8, 8, 8},
     .duration_ns = add_duration,
     .is_long = add_is_long,
     .spans = add_spans,
     .apply = apply_add},
    {.name = "checksum",
     .parameter_count = 5,
     .offset = {0, 8, 16, 24, 32},
     .bytes = {8, 8, 8, 8, 8},
     .duration_ns = checksum_duration,
     .is_long = checksum_is_long,
     .spans = checksum_spans,
     .apply = apply_checksum},
};

const unsigned emu_kernel_count = sizeof emu_kernels / sizeof emu_kernels[0];
