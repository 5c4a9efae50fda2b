/* The emulator's own kernels. Their image is the text NVSHARE-EMULATOR-KERNELS-1; they take modelled time, and compute.
 *
 *   spin(u64 duration_ns)
 *   fill(u32 *out, u64 n, u64 stride, u32 value, u64 duration_ns)            out[i] = value
 *   add(float *z, const float *x, const float *y, u64 n, u64 stride, u64 duration_ns)     z[i] = x[i] + y[i]
 *   checksum(u64 *out, const u32 *in, u64 n, u64 stride, u64 duration_ns)    *out = sum of in[i] * (i + 1) modulo 2^64
 *
 * i runs over 0, stride, 2 * stride ... below n; the elements between are not touched, so that their backing stays
 * sparse. duration_ns = 0 derives the time from the bytes of all n elements at the card's memory rate.
 */
#ifndef EMU_KERNEL_H
#define EMU_KERNEL_H

#include "driver.h"

#define EMU_KERNEL_IMAGE "NVSHARE-EMULATOR-KERNELS-1"
#define EMU_KERNEL_PARAMETERS 6

struct emu_kernel {
    const char *name;
    unsigned parameter_count;
    uint8_t offset[EMU_KERNEL_PARAMETERS];
    uint8_t bytes[EMU_KERNEL_PARAMETERS];
    uint64_t (*duration_ns)(const union emu_parameters *parameters);
    /* NULL for a kernel without data: */
    bool (*is_long)(const union emu_parameters *parameters); /* for the host */
    unsigned (*spans)(const struct emu_work *work, struct emu_span *spans);
    void (*apply)(const struct emu_work *work);
};

extern const struct emu_kernel emu_kernels[];
extern const unsigned emu_kernel_count;

#endif
