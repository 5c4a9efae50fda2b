#include "kernel.h"

#define LONG_ELEMENTS 1000000 /* that many take the host about a millisecond */

static uint64_t at_memory_rate(uint64_t given_ns, uint64_t n, uint64_t bytes_per_element) {
    return given_ns != 0 ? given_ns : emu_duration_ns(n * bytes_per_element, EMU_MEMORY_BYTES_PER_SECOND);
}

static uint64_t spin_duration(const union emu_parameters *parameters) {
    return parameters->spin.duration_ns;
}

static uint64_t fill_duration(const union emu_parameters *parameters) {
    return at_memory_rate(parameters->fill.duration_ns, parameters->fill.n, 4);
}

static uint64_t add_duration(const union emu_parameters *parameters) {
    return at_memory_rate(parameters->add.duration_ns, parameters->add.n, 12);
}

static uint64_t checksum_duration(const union emu_parameters *parameters) {
    return at_memory_rate(parameters->checksum.duration_ns, parameters->checksum.n, 4);
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
    const union emu_parameters *parameters = &work->launch.parameters;
    spans[0] = elements(parameters->fill.out, parameters->fill.n, 4, EMU_TOUCH_WRITE);
    return 1;
}

static bool fill_is_long(const union emu_parameters *parameters) {
    return is_long(parameters->fill.n, parameters->fill.stride);
}

static void apply_fill(const struct emu_work *work) {
    const union emu_parameters *parameters = &work->launch.parameters;
    uint32_t *out = (uint32_t *)(uintptr_t)parameters->fill.out;
    for (uint64_t index = 0; index < parameters->fill.n; index += step_of(parameters->fill.stride)) {
        out[index] = parameters->fill.value;
    }
}

static unsigned add_spans(const struct emu_work *work, struct emu_span *spans) {
    const union emu_parameters *parameters = &work->launch.parameters;
    spans[0] = elements(parameters->add.z, parameters->add.n, 4, EMU_TOUCH_WRITE);
    spans[1] = elements(parameters->add.x, parameters->add.n, 4, EMU_TOUCH_READ);
    spans[2] = elements(parameters->add.y, parameters->add.n, 4, EMU_TOUCH_READ);
    return 3;
}

static bool add_is_long(const union emu_parameters *parameters) {
    return is_long(parameters->add.n, parameters->add.stride);
}

static void apply_add(const struct emu_work *work) {
    const union emu_parameters *parameters = &work->launch.parameters;
    float *z = (float *)(uintptr_t)parameters->add.z;
    const float *x = (const float *)(uintptr_t)parameters->add.x;
    const float *y = (const float *)(uintptr_t)parameters->add.y;
    for (uint64_t index = 0; index < parameters->add.n; index += step_of(parameters->add.stride)) {
        z[index] = x[index] + y[index];
    }
}

static unsigned checksum_spans(const struct emu_work *work, struct emu_span *spans) {
    const union emu_parameters *parameters = &work->launch.parameters;
    spans[0] = elements(parameters->checksum.out, 1, 8, EMU_TOUCH_WRITE);
    spans[1] = elements(parameters->checksum.in, parameters->checksum.n, 4, EMU_TOUCH_READ);
    return 2;
}

static bool checksum_is_long(const union emu_parameters *parameters) {
    return is_long(parameters->checksum.n, parameters->checksum.stride);
}

static void apply_checksum(const struct emu_work *work) {
    const union emu_parameters *parameters = &work->launch.parameters;
    uint64_t sum = 0;
    const uint32_t *in = (const uint32_t *)(uintptr_t)parameters->checksum.in;
    for (uint64_t index = 0; index < parameters->checksum.n; index += step_of(parameters->checksum.stride)) {
        sum += in[index] * (index + 1);
    }
    *(uint64_t *)(uintptr_t)parameters->checksum.out = sum;
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
