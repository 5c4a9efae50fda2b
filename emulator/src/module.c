/* Modules, libraries, functions and kernels as handles, and launches. */
#include <stdlib.h>
#include <string.h>

#include "capture.h"
#include "kernel.h"
#include "launch.h"
#include "managed.h"

#define FUNCTION_MAGIC 0x46554e31U
#define MAX_FUNCTIONS 8

/* A function and a library kernel are the same thing here: the driver lets a CUkernel be launched as a CUfunction. */
struct CUfunc_st {
    uint32_t magic;
    const struct emu_kernel *kernel;
    CUmodule module;
    CUlibrary library;
};

struct image {
    uint32_t magic;
    CUcontext context; /* NULL for a library, which belongs to none */
    struct CUfunc_st functions[MAX_FUNCTIONS];
    struct image *next;
};

static struct image *images;

static CUresult load(const void *bytes, CUcontext context, struct image **loaded) {
    if (bytes == NULL || strncmp(bytes, EMU_KERNEL_IMAGE, strlen(EMU_KERNEL_IMAGE)) != 0) {
        return CUDA_ERROR_INVALID_IMAGE;
    }
    struct image *image = calloc(1, sizeof *image);
    if (image == NULL) {
        return CUDA_ERROR_OUT_OF_MEMORY;
    }
    image->context = context;
    for (unsigned index = 0; index < emu_kernel_count; index++) {
        image->functions[index] = (struct CUfunc_st){.magic = FUNCTION_MAGIC,
                                                     .kernel = &emu_kernels[index],
                                                     .module = (CUmodule)image,
                                                     .library = (CUlibrary)image};
    }
    image->next = images;
    images = image;
    *loaded = image;
    return CUDA_SUCCESS;
}

static struct image **find_image(const void *handle) {
    struct image **link = &images;
    while (*link != NULL && (const void *)*link != handle) {
        link = &(*link)->next;
    }
    return link;
}

static CUresult unload(const void *handle) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct image **link = find_image(handle);
    if (*link == NULL) {
        return emu_leave(CUDA_ERROR_INVALID_HANDLE);
    }
    struct image *image = *link;
    *link = image->next;
    free(image);
    return emu_leave(CUDA_SUCCESS);
}

static CUresult find_function(const void *handle, const char *name, CUfunction *function) {
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    struct image *image = *find_image(handle);
    if (function == NULL || name == NULL || image == NULL) {
        return emu_leave(image == NULL ? CUDA_ERROR_INVALID_HANDLE : CUDA_ERROR_INVALID_VALUE);
    }
    for (unsigned index = 0; index < emu_kernel_count; index++) {
        if (strcmp(image->functions[index].kernel->name, name) == 0) {
            *function = &image->functions[index];
            return emu_leave(CUDA_SUCCESS);
        }
    }
    return emu_leave(CUDA_ERROR_NOT_FOUND);
}

EMU_EXPORT CUresult CUDAAPI cuModuleLoadData(CUmodule *module, const void *bytes) {
    CUcontext context = NULL;
    struct image *image = NULL;
    CUresult result = emu_enter_context(&context);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = module == NULL ? CUDA_ERROR_INVALID_VALUE : load(bytes, context, &image);
    if (result == CUDA_SUCCESS) {
        *module = (CUmodule)image;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuModuleLoadDataEx(CUmodule *module, const void *bytes, unsigned count,
                                               CUjit_option *options, void **values) {
    (void)count;
    (void)options;
    (void)values;
    return cuModuleLoadData(module, bytes);
}

EMU_EXPORT CUresult CUDAAPI cuModuleLoadFatBinary(CUmodule *module, const void *bytes) {
    return cuModuleLoadData(module, bytes);
}

EMU_EXPORT CUresult CUDAAPI cuModuleUnload(CUmodule module) {
    return unload(module);
}

EMU_EXPORT CUresult CUDAAPI cuModuleGetFunction(CUfunction *function, CUmodule module, const char *name) {
    return find_function(module, name, function);
}

EMU_EXPORT CUresult CUDAAPI cuModuleGetFunctionCount(unsigned *count, CUmodule module) {
    (void)module;
    if (count == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *count = emu_kernel_count;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuModuleGetGlobal(CUdeviceptr *pointer, size_t *bytes, CUmodule module, const char *name) {
    (void)pointer;
    (void)bytes;
    (void)module;
    return name == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_NOT_FOUND;
}

EMU_EXPORT CUresult CUDAAPI cuModuleGetLoadingMode(CUmoduleLoadingMode *mode) {
    if (mode == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *mode = CU_MODULE_LAZY_LOADING;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuLibraryLoadData(CUlibrary *library, const void *code, CUjit_option *jit_options,
                                              void **jit_values, unsigned jit_count, CUlibraryOption *options,
                                              void **values, unsigned count) {
    struct image *image = NULL;
    (void)jit_options;
    (void)jit_values;
    (void)jit_count;
    (void)options;
    (void)values;
    (void)count;
    CUresult result = emu_enter();
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = library == NULL ? CUDA_ERROR_INVALID_VALUE : load(code, NULL, &image);
    if (result == CUDA_SUCCESS) {
        *library = (CUlibrary)image;
    }
    return emu_leave(result);
}

EMU_EXPORT CUresult CUDAAPI cuLibraryUnload(CUlibrary library) {
    return unload(library);
}

EMU_EXPORT CUresult CUDAAPI cuLibraryGetKernel(CUkernel *kernel, CUlibrary library, const char *name) {
    return find_function(library, name, (CUfunction *)kernel);
}

EMU_EXPORT CUresult CUDAAPI cuLibraryGetModule(CUmodule *module, CUlibrary library) {
    if (module == NULL) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *module = (CUmodule)library;
    return CUDA_SUCCESS;
}

static bool is_function(CUfunction function) {
    return function != NULL && function->magic == FUNCTION_MAGIC;
}

EMU_EXPORT CUresult CUDAAPI cuKernelGetFunction(CUfunction *function, CUkernel kernel) {
    if (function == NULL || !is_function((CUfunction)kernel)) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *function = (CUfunction)kernel;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuFuncGetModule(CUmodule *module, CUfunction function) {
    if (module == NULL || !is_function(function)) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *module = function->module;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuFuncGetName(const char **name, CUfunction function) {
    if (name == NULL || !is_function(function)) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    *name = function->kernel->name;
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuFuncGetParamInfo(CUfunction function, size_t index, size_t *offset, size_t *bytes) {
    if (!is_function(function) || offset == NULL || index >= function->kernel->parameter_count) {
        return is_function(function) ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
    }
    *offset = function->kernel->offset[index];
    if (bytes != NULL) {
        *bytes = function->kernel->bytes[index];
    }
    return CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuFuncGetAttribute(int *value, CUfunction_attribute attribute, CUfunction function) {
    if (value == NULL || !is_function(function)) {
        return value == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_ERROR_INVALID_HANDLE;
    }
    switch (attribute) {
    case CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK:
        *value = 1024;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_NUM_REGS:
        *value = 32;
        return CUDA_SUCCESS;
    case CU_FUNC_ATTRIBUTE_PTX_VERSION:
    case CU_FUNC_ATTRIBUTE_BINARY_VERSION:
        *value = 90;
        return CUDA_SUCCESS;
    default:
        *value = 0;
        return (unsigned)attribute < CU_FUNC_ATTRIBUTE_MAX ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
    }
}

EMU_EXPORT CUresult CUDAAPI cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    (void)value;
    return !is_function(function)                         ? CUDA_ERROR_INVALID_HANDLE
           : (unsigned)attribute >= CU_FUNC_ATTRIBUTE_MAX ? CUDA_ERROR_INVALID_VALUE
                                                          : CUDA_SUCCESS;
}

EMU_EXPORT CUresult CUDAAPI cuFuncSetCacheConfig(CUfunction function, CUfunc_cache config) {
    (void)config;
    return is_function(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

EMU_EXPORT CUresult CUDAAPI cuFuncLoad(CUfunction function) {
    return is_function(function) ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

EMU_EXPORT CUresult CUDAAPI cuFuncIsLoaded(CUfunctionLoadingState *state, CUfunction function) {
    if (state == NULL || !is_function(function)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *state = CU_FUNCTION_LOADING_STATE_LOADED;
    return CUDA_SUCCESS;
}

/* ---- Launches
 * ------------------------------------------------------------------------------------------------------------- */

static bool gather_parameters(const struct emu_kernel *kernel, void **parameters, void **extra, unsigned char *block) {
    if (parameters != NULL) {
        for (unsigned index = 0; index < kernel->parameter_count; index++) {
            if (parameters[index] == NULL) {
                return false;
            }
            memcpy(block + kernel->offset[index], parameters[index], kernel->bytes[index]);
        }
        return true;
    }
    const void *buffer = NULL;
    size_t bytes = 0;
    for (; extra != NULL && *extra != CU_LAUNCH_PARAM_END; extra += 2) {
        if (extra[0] == CU_LAUNCH_PARAM_BUFFER_POINTER) {
            buffer = extra[1];
        } else if (extra[0] == CU_LAUNCH_PARAM_BUFFER_SIZE) {
            bytes = *(const size_t *)extra[1];
        } else {
            return false;
        }
    }
    unsigned last = kernel->parameter_count - 1;
    size_t needed = (size_t)kernel->offset[last] + kernel->bytes[last];
    if (buffer == NULL || bytes < needed || bytes > EMU_PARAMETER_BYTES) {
        return false;
    }
    memcpy(block, buffer, bytes);
    return true;
}

CUresult emu_launch_work(CUfunction function, const unsigned shape[6], void **parameters, void **extra,
                         struct emu_work *work) {
    if (!is_function(function)) {
        return CUDA_ERROR_INVALID_HANDLE;
    }
    for (int index = 0; index < 6; index++) {
        if (shape[index] == 0) {
            return CUDA_ERROR_INVALID_VALUE;
        }
    }
    if ((uint64_t)shape[3] * shape[4] * shape[5] > 1024 || (parameters != NULL && extra != NULL)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    *work = (struct emu_work){.engine = EMU_COMPUTE,
                              .type = CU_GRAPH_NODE_TYPE_KERNEL,
                              .spans = function->kernel->spans,
                              .apply = function->kernel->apply};
    if (work->spans != NULL && emu_managed_exists()) {
        work->prepare = emu_managed_prepare;
    }
    work->launch.kernel = function->kernel;
    if (!gather_parameters(function->kernel, parameters, extra, work->launch.parameters.bytes)) {
        return CUDA_ERROR_INVALID_VALUE;
    }
    work->duration_ns = function->kernel->duration_ns(&work->launch.parameters);
    work->is_large = function->kernel->is_long != NULL && function->kernel->is_long(&work->launch.parameters);
    return CUDA_SUCCESS;
}

CUresult emu_launch_submit(CUfunction function, const unsigned shape[6], void **parameters, void **extra,
                           CUstream handle) {
    CUcontext context = NULL;
    CUstream stream = NULL;
    struct emu_work work;
    CUresult result = emu_enter_stream(handle, &context, &stream);
    if (result != CUDA_SUCCESS) {
        return result;
    }
    result = emu_launch_work(function, shape, parameters, extra, &work);
    return emu_leave(result != CUDA_SUCCESS ? result : emu_submit(stream, &work, false));
}
