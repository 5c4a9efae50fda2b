/* cuGetProcAddress: from a base name, the newest version that the caller may use, and the default stream's kind, to a
 * pointer. */
#include "driver.h"

#include <cudaTypedefs.h>
#include <string.h>

#include "entry_points.h"

struct symbol {
    const char *name;
    int version;
    bool per_thread;
    void *pointer;
};

#define EMU_PLAIN false
#define EMU_PER_THREAD true
#define EMU_SYMBOL(base, version, function, per_thread, type) {base, version, per_thread, (void *)(type)function},
static const struct symbol symbols[] = {
#include "symbols.def"
};
#undef EMU_SYMBOL

static CUresult find(const char *name, int version, cuuint64_t flags, void **found,
                     CUdriverProcAddressQueryResult *status) {
    const bool per_thread = (flags & CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM) != 0;
    const struct symbol *best = NULL;
    bool known = false;
    for (size_t index = 0; index < sizeof symbols / sizeof symbols[0]; index++) {
        const struct symbol *symbol = &symbols[index];
        if (strcmp(symbol->name, name) != 0) {
            continue;
        }
        known = true;
        if (symbol->version > version || (symbol->per_thread && !per_thread)) {
            continue;
        }
        bool better = best == NULL || (symbol->per_thread && !best->per_thread) ||
                      (symbol->per_thread == best->per_thread && symbol->version > best->version);
        best = better ? symbol : best;
    }
    *found = best == NULL ? NULL : best->pointer;
    if (status != NULL) {
        *status = best != NULL ? CU_GET_PROC_ADDRESS_SUCCESS
                  : known      ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                               : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    }
    return best != NULL ? CUDA_SUCCESS : CUDA_ERROR_NOT_FOUND;
}

static bool are_valid(const char *name, void *const *found, cuuint64_t flags) {
    const cuuint64_t known = CU_GET_PROC_ADDRESS_LEGACY_STREAM | CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM;
    return name != NULL && found != NULL && (flags & ~known) == 0 && flags != known;
}

EMU_EXPORT CUresult CUDAAPI cuGetProcAddress_v2(const char *name, void **found, int version, cuuint64_t flags,
                                                CUdriverProcAddressQueryResult *status) {
    return are_valid(name, found, flags) ? find(name, version, flags, found, status) : CUDA_ERROR_INVALID_VALUE;
}

#undef cuGetProcAddress
EMU_EXPORT CUresult CUDAAPI cuGetProcAddress(const char *name, void **found, int version, cuuint64_t flags) {
    return are_valid(name, found, flags) ? find(name, version, flags, found, NULL) : CUDA_ERROR_INVALID_VALUE;
}

EMU_EXPORT CUresult CUDAAPI cuGetExportTable(const void **table, const CUuuid *id) {
    if (table == NULL || id == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *table = NULL;
    return CUDA_ERROR_NOT_FOUND; /* the private tables of the real driver are not emulated */
}
