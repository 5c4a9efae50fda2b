#include "value.h"

#include <stdlib.h>

#include "capture.h"

#define LONGEST_BATCH 256 /* as the driver documents */

/* One write or wait; freed when it is done. */
struct value_op {
    CUcontext context;
    uint64_t address;
    uint64_t value;
    unsigned bytes;
    bool is_wait;
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

static bool is_valid(const struct value_op *op, CUcontext context) {
    return op->address % op->bytes == 0 && emu_range_covers(op->address, op->bytes, context, EMU_TOUCH_WRITE);
}

static CUresult append(CUstream stream, const struct value_op *described) {
    struct value_op *op = malloc(sizeof *op);
    if (op == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    *op = *described;
    op->context = stream->context;
    return emu_stream_append_call(stream, op->is_wait ? wait_now : write_now, op);
}

static CUresult submit(CUstream handle, const struct value_op *ops, size_t count) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    for (size_t index = 0; index < count; index++) {
        if (!is_valid(&ops[index], context)) {
            return emu_leave(CUDA_ERROR_INVALID_VALUE);
        }
    }
    result = stream->capture != NULL ? emu_capture_refuse(stream) : emu_capture_check_launch(stream);
    for (size_t index = 0; index < count && result == CUDA_SUCCESS; index++) {
        result = append(stream, &ops[index]);
    }
    return emu_leave(result);
}

static bool describe_write(struct value_op *op, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags) {
    *op = (struct value_op){.address = address, .value = value, .bytes = bytes};
    return (flags & ~(unsigned)CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER) == 0;
}

static bool describe_wait(struct value_op *op, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags) {
    *op =
        (struct value_op){.address = address, .value = value, .bytes = bytes, .condition = flags & 3U, .is_wait = true};
    return (flags & ~(3U | CU_STREAM_WAIT_VALUE_FLUSH)) == 0;
}

CUresult emu_value_write(CUstream handle, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags) {
    struct value_op op;
    return describe_write(&op, address, value, bytes, flags) ? submit(handle, &op, 1) : CUDA_ERROR_INVALID_VALUE;
}

CUresult emu_value_wait(CUstream handle, CUdeviceptr address, uint64_t value, unsigned bytes, unsigned flags) {
    struct value_op op;
    return describe_wait(&op, address, value, bytes, flags) ? submit(handle, &op, 1) : CUDA_ERROR_INVALID_VALUE;
}

/* Barriers and flushes have nothing to do here: memory is in order. *is_value tells what is to be put into the stream.
 */
static bool describe(struct value_op *op, const CUstreamBatchMemOpParams *given, bool *is_value) {
    *is_value = true;
    switch (given->operation) {
    case CU_STREAM_MEM_OP_WAIT_VALUE_32:
        return describe_wait(op, given->waitValue.address, given->waitValue.value, 4, given->waitValue.flags);
    case CU_STREAM_MEM_OP_WAIT_VALUE_64:
        return describe_wait(op, given->waitValue.address, given->waitValue.value64, 8, given->waitValue.flags);
    case CU_STREAM_MEM_OP_WRITE_VALUE_32:
        return describe_write(op, given->writeValue.address, given->writeValue.value, 4, given->writeValue.flags);
    case CU_STREAM_MEM_OP_WRITE_VALUE_64:
        return describe_write(op, given->writeValue.address, given->writeValue.value64, 8, given->writeValue.flags);
    case CU_STREAM_MEM_OP_FLUSH_REMOTE_WRITES:
    case CU_STREAM_MEM_OP_BARRIER:
        *is_value = false;
        return true;
    default:
        return false;
    }
}

CUresult emu_value_batch(CUstream handle, const CUstreamBatchMemOpParams *operations, unsigned count) {
    struct value_op ops[LONGEST_BATCH];
    size_t described = 0;
    if (operations == NULL || count == 0 || count > LONGEST_BATCH) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    for (unsigned index = 0; index < count; index++) {
        bool is_value = false;
        if (!describe(&ops[described], &operations[index], &is_value)) {
            return CUDA_ERROR_INVALID_VALUE;
        }
        described += is_value ? 1 : 0;
    }
    return submit(handle, ops, described);
}
