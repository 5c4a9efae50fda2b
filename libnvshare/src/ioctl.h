// The program's ioctl(2), which libcuda speaks to the kernel driver with: it passes through, and requests that make or
// end channel groups are noted (channel.h).
#ifndef NVS_IOCTL_H
#define NVS_IOCTL_H

// The next one behind this library's: libc's, or that of another interposer.
int nvs_ioctl_next(int descriptor, unsigned long request, void *argument);

#endif
