#include "ioctl.h"

#include "channel.h"
#include "driver.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef int (*nvs_ioctl_function)(int descriptor, unsigned long request, ...);

// Where the loader finds none: a static libc behind a shared one.
static int nvs_ioctl_system(int descriptor, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *);
    va_end(list);
    return (int)syscall(SYS_ioctl, descriptor, request, argument);
}

int nvs_ioctl_next(int descriptor, unsigned long request, void *argument) {
    static _Atomic(nvs_ioctl_function) found;
    nvs_ioctl_function next = atomic_load_explicit(&found, memory_order_acquire);
    if (next == NULL) {
        void *address = nvs_loader_dlsym()(RTLD_NEXT, "ioctl");
        if (address == NULL)
            next = nvs_ioctl_system;
        else
            memcpy(&next, &address, sizeof(next));
        atomic_store_explicit(&found, next, memory_order_release);
    }
    return next(descriptor, request, argument);
}

NVS_EXPORT int ioctl(int descriptor, unsigned long request, ...) {
    va_list list;
    va_start(list, request);
    void *argument = va_arg(list, void *); // which requests without one leave undefined, and the kernel ignores
    va_end(list);
    int result = nvs_ioctl_next(descriptor, request, argument);
    if (result == 0) {
        int error = errno;
        nvs_channel_seen(descriptor, request, argument);
        errno = error;
    }
    return result;
}
