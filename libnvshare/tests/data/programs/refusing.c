// The driver of the emulated GPU, on a host where no memory can be exported as a descriptor.
#include <cuda.h>
#include <dlfcn.h>
#include <string.h>

CUresult cuMemCreate(CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *properties,
                     unsigned long long flags) {
    CUresult (*create)(CUmemGenericAllocationHandle *, size_t, const CUmemAllocationProp *, unsigned long long);
    void *found = dlsym(dlopen(EMULATED, RTLD_LAZY), "cuMemCreate");
    memcpy(&create, &found, sizeof(create));
    return properties->requestedHandleTypes != CU_MEM_HANDLE_TYPE_NONE ? CUDA_ERROR_NOT_PERMITTED
                                                                       : create(handle, bytes, properties, flags);
}
