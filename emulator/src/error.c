/* Names and descriptions of error codes. */
#include "driver.h"

static const struct {
    CUresult code;
    const char *name;
    const char *description;
} errors[] = {
#define EMU_ERROR(code, description) {code, #code, description},
#include "errors.def"
#undef EMU_ERROR
};

static CUresult find(CUresult code, size_t *found) {
    for (size_t index = 0; index < sizeof errors / sizeof errors[0]; index++) {
        if (errors[index].code == code) {
            *found = index;
            return CUDA_SUCCESS;
        }
    }
    return CUDA_ERROR_INVALID_VALUE;
}

EMU_EXPORT CUresult CUDAAPI cuGetErrorName(CUresult code, const char **name) {
    size_t index = 0;
    CUresult result = name == NULL ? CUDA_ERROR_INVALID_VALUE : find(code, &index);
    if (name != NULL) {
        *name = result == CUDA_SUCCESS ? errors[index].name : NULL;
    }
    return result;
}

EMU_EXPORT CUresult CUDAAPI cuGetErrorString(CUresult code, const char **text) {
    size_t index = 0;
    CUresult result = text == NULL ? CUDA_ERROR_INVALID_VALUE : find(code, &index);
    if (text != NULL) {
        *text = result == CUDA_SUCCESS ? errors[index].description : NULL;
    }
    return result;
}
