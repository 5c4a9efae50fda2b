#include "kernel.h"

#include <string.h>

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

/* Whether n elements of element_bytes at the address may be touched. */
static bool may_touch(CUcontext context, uint64_t address, uint64_t n, uint64_t element_bytes, enum emu_touch how) {
    if (n > UINT64_MAX / element_bytes || address % element_bytes != 0) {
        return false;
    }
    pthread_mutex_lock(&emu.lock);
    bool covers = emu_range_covers(address, n * element_bytes, context, how);
    pthread_mutex_unlock(&emu.lock);
    return covers;
}

static uint64_t step_of(uint64_t stride) {
    return stride == 0 ? 1 : stride;
}

static CUresult apply_fill(CUcontext context, const struct emu_work *work) {
    struct fill fill;
    memcpy(&fill, work->launch.parameters, sizeof fill);
    if (!may_touch(context, fill.out, fill.n, 4, EMU_TOUCH_WRITE)) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    uint32_t *out = (uint32_t *)(uintptr_t)fill.out;
    for (uint64_t index = 0; index < fill.n; index += step_of(fill.stride)) {
        out[index] = fill.value;
    }
    return CUDA_SUCCESS;
}

static CUresult apply_add(CUcontext context, const struct emu_work *work) {
    struct add add;
    memcpy(&add, work->launch.parameters, sizeof add);
    if (!may_touch(context, add.z, add.n, 4, EMU_TOUCH_WRITE) || !may_touch(context, add.x, add.n, 4, EMU_TOUCH_READ) ||
        !may_touch(context, add.y, add.n, 4, EMU_TOUCH_READ)) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    float *z = (float *)(uintptr_t)add.z;
    const float *x = (const float *)(uintptr_t)add.x;
    const float *y = (const float *)(uintptr_t)add.y;
    for (uint64_t index = 0; index < add.n; index += step_of(add.stride)) {
        z[index] = x[index] + y[index];
    }
    return CUDA_SUCCESS;
}

static CUresult apply_checksum(CUcontext context, const struct emu_work *work) {
    struct checksum checksum;
    uint64_t sum = 0;
    memcpy(&checksum, work->launch.parameters, sizeof checksum);
    if (!may_touch(context, checksum.out, 1, 8, EMU_TOUCH_WRITE) ||
        !may_touch(context, checksum.in, checksum.n, 4, EMU_TOUCH_READ)) {
        return CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    const uint32_t *in = (const uint32_t *)(uintptr_t)checksum.in;
    for (uint64_t index = 0; index < checksum.n; index += step_of(checksum.stride)) {
        sum += in[index] * (index + 1);
    }
    *(uint64_t *)(uintptr_t)checksum.out = sum;
    return CUDA_SUCCESS;
}

const struct emu_kernel emu_kernels[] = {
    {.name = "spin", .parameter_count = 1, .offset = {0}, .bytes = {8}, .duration_ns = spin_duration},
    {.name = "fill",
     .parameter_count = 5,
     .offset = {0, 8, 16, 24, 32},
     .bytes = {8, 8, 8, 4, 8},
     .duration_ns = fill_duration,
     .apply = apply_fill},
    {.name = "add",
     .parameter_count = 6,
     .offset = {0, 8, 16, 24, 32, 40},
     .bytes = {8, 8, 8, 8, 8, 8},
     .duration_ns = add_duration,
     .apply = apply_add},
    {.name = "checksum",
     .parameter_count = 5,
     .offset = {0, 8, 16, 24, 32},
     .bytes = {8, 8, 8, 8, 8},
     .duration_ns = checksum_duration,
     .apply = apply_checksum},
};

const unsigned emu_kernel_count = sizeof emu_kernels / sizeof emu_kernels[0];
