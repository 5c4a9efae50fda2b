#include "value.h"

#include <stdlib.h>

#include "capture.h"

/* One write or wait; freed when it is done. */
struct value_op {
    CUcontext context;
    uint64_t address;
    uint64_t value;
    unsigned bytes;
    unsigned condition; /* of a wait */
};

static uint64_t load(const struct value_op *op) {
    return op->bytes == 8 ? __atomic_load_n((const uint64_t *)(uintptr_t)op->address, __ATOMIC_ACQUIRE)
                          : __atomic_load_n((const uint32_t *)(uintptr_t)op->address, __ATOMIC_ACQUIRE);
}

static bool is_met(const struct value_op *op) {
    uint64_t found = load(op);
    switch (op->condition) {
    case CU_STREAM_WAIT_VALUE_GEQ: /* cyclic: the difference, read as a signed number, is not negative */
        return op->bytes == 8 ? (int64_t)(found - op->value) >= 0
                              : (int32_t)((uint32_t)found - (uint32_t)op->value) >= 0;
    case CU_STREAM_WAIT_VALUE_EQ:
        return found == op->value;
    case CU_STREAM_WAIT_VALUE_AND:
        return (found & op->value) != 0;
    default: {
        uint64_t all = op->bytes == 8 ? UINT64_MAX : UINT32_MAX;
        return (~(found | op->value) & all) != 0; /* NOR */
    }
    }
}

/* Memory that went away under a pending operation is an error, as on a card. */
static bool still_there(const struct value_op *op) {
    if (emu_range_covers(op->address, op->bytes, op->context, EMU_TOUCH_WRITE)) {
        return true;
    }
    if (op->context->error == CUDA_SUCCESS) {
        op->context->error = CUDA_ERROR_ILLEGAL_ADDRESS;
    }
    return false;
}

static bool write_now(void *argument) {
    struct value_op *op = argument;
    if (still_there(op)) {
        if (op->bytes == 8) {
            __atomic_store_n((uint64_t *)(uintptr_t)op->address, op->value, __ATOMIC_RELEASE);
        } else {
            __atomic_store_n((uint32_t *)(uintptr_t)op->address, (uint32_t)op->value, __ATOMIC_RELEASE);
        }
    }
    free(op);
    return true;
}

static bool wait_now(void *argument) {
    struct value_op *op = argument;
    if (still_there(op) && !is_met(op)) {
        return false;
    }
    free(op);
    return true;
}

static CUresult append(CUstream handle, const struct value_op *described, bool (*call)(void *argument)) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    if (described->address % described->bytes != 0 ||
        !emu_range_covers(described->address, described->bytes, context, EMU_TOUCH_WRITE)) {
        return emu_leave(CUDA_ERROR_INVALID_VALUE);
    }
    result = stream->capture != NULL ? emu_capture_refuse(stream) : emu_capture_check_launch(stream);
    struct value_op *op = result == CUDA_SUCCESS ? malloc(sizeof *op) : NULL;
    if (op == NULL) {
        return emu_leave(result == CUDA_SUCCESS ? CUDA_ERROR_OUT_OF_MEMORY : result);
    }
    *op = *described;
    op->context = stream->context;
    return emu_leave(emu_stream_append_call(stream, call, op));
}

CUresult emu_value_write(CUstream handle, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags) {
    const struct value_op op = {.address = address, .value = value, .bytes = bytes};
    return (flags & ~(unsigned)CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER) != 0 ? CUDA_ERROR_INVALID_VALUE
                                                                             : append(handle, &op, write_now);
}

CUresult emu_value_wait(CUstream handle, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags) {
    const struct value_op op = {.address = address, .value = value, .bytes = bytes, .condition = flags & 3U};
    return (flags & ~(3U | CU_STREAM_WAIT_VALUE_FLUSH)) != 0 ? CUDA_ERROR_INVALID_VALUE : append(handle, &op, wait_now);
}
