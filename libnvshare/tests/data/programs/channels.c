// Channel groups and their slices against a kernel driver of the test's own: requests come in as lines, answers go out.
//
//   make CLIENT PARENT OBJECT ENGINE BYTES   a request for a channel group, of 32 or 48 bytes
//   fail CLIENT PARENT OBJECT                one that the kernel driver refuses
//   end CLIENT OBJECT                        frees an object
//   for ORDINAL                              what is made from now on is for this device; -1: unknown
//   close                                    the descriptor is another file's from now on
//   kernel well|deaf|lies                    it answers, knows no slices, or does not keep what it is told
//   forget                                   the kernel driver puts its own slices back
//   time MS                                  so much time passes
//   follow DEVICE US                         what the control thread does for a grant
#include "channel.h"
#include "ioctl.h"
#include "settings.h"
#include "slice.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define GROUPS 64
#define OWN_US 2048

static struct {
    uint32_t client, object;
    uint64_t slice_us;
} kernel_groups[GROUPS];
static unsigned kernel_count;
static char kernel_mood[16] = "well";
static bool kernel_fails;
static int sets;

// ---- What slice.c and channel.c ask of the rest of the library

struct nvs_device nvs_devices[NVS_DEVICES_MAX];
static struct nvs_settings settings = {.slices = true};

size_t nvs_device_count(void) {
    return 2;
}

const struct nvs_settings *nvs_settings_read(void) {
    return &settings;
}

static int kernel_answers(int descriptor, unsigned long request, ...);

static void *finds(void *handle, const char *symbol) {
    (void)handle;
    int (*function)(int, unsigned long, ...) = kernel_answers;
    void *address = NULL;
    if (strcmp(symbol, "ioctl") == 0)
        memcpy(&address, &function, sizeof(address));
    return address;
}

nvs_dlsym_function nvs_loader_dlsym(void) {
    return finds;
}

// ---- The kernel driver

static void kernel_control(uint32_t *words) {
    uint64_t *value;
    memcpy(&value, words + 4, sizeof(value));
    words[7] = 0x56; // not supported
    for (unsigned i = 0; i < kernel_count; i++) {
        if (kernel_groups[i].client != words[0] || kernel_groups[i].object != words[1] || kernel_mood[0] == 'd')
            continue;
        if (words[2] == 0xa06c0104)
            *value = kernel_groups[i].slice_us;
        else if (words[2] == 0xa06c0103 && ++sets > 0 && kernel_mood[0] != 'l')
            kernel_groups[i].slice_us = *value;
        words[7] = 0;
    }
}

static int kernel_answers(int descriptor, unsigned long request, ...) {
    (void)descriptor;
    va_list list;
    va_start(list, request);
    uint32_t *words = va_arg(list, uint32_t *);
    va_end(list);
    if (_IOC_NR(request) == 0x2b) {
        words[_IOC_SIZE(request) == 32 ? 7 : 10] = kernel_fails ? 0x1f : 0;
        if (!kernel_fails) {
            kernel_groups[kernel_count].client = words[0];
            kernel_groups[kernel_count].object = words[2];
            kernel_groups[kernel_count++].slice_us = OWN_US;
        }
    } else if (_IOC_NR(request) == 0x2a) {
        kernel_control(words);
    }
    return 0;
}

// ---- The program

static void make(int descriptor, uint32_t client, uint32_t parent, uint32_t object, uint32_t engine, unsigned bytes) {
    uint32_t parameters[8] = {0, 0, 0, engine};
    uint32_t words[12] = {client, parent, object, 0xa06c};
    uint32_t *pointer = parameters;
    memcpy(words + 4, &pointer, sizeof(pointer));
    (void)ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x2b, bytes), words);
}

static void show(int ordinal) {
    char failure[NVS_REASON_SIZE];
    uint32_t slice_us = nvs_slice_state(&nvs_devices[ordinal], failure);
    printf("{\"slice_us\": %u, \"failure\": \"%s\", \"sets\": %d, \"kernel\": {", slice_us, failure, sets);
    for (unsigned i = 0; i < kernel_count; i++)
        printf("%s\"%u\": %llu", i == 0 ? "" : ", ", kernel_groups[i].object,
               (unsigned long long)kernel_groups[i].slice_us);
    printf("}}\n");
    fflush(stdout);
}

int main(void) {
    int descriptor = open("/dev/null", O_RDWR);
    char line[256];
    uint64_t now_ns = 1;
    nvs_devices[1].ordinal = 1;
    while (descriptor >= 0 && fgets(line, sizeof(line), stdin) != NULL) {
        uint32_t a = 0, b = 0, c = 0, d = 0, e = 0;
        int ordinal = 0;
        if (sscanf(line, "make %u %u %u %u %u", &a, &b, &c, &d, &e) == 5) {
            make(descriptor, a, b, c, d, e);
        } else if (sscanf(line, "fail %u %u %u", &a, &b, &c) == 3) {
            kernel_fails = true;
            make(descriptor, a, b, c, 1, 48);
            kernel_fails = false;
        } else if (sscanf(line, "end %u %u", &a, &b) == 2) {
            uint32_t words[4] = {a, 0, b, 0};
            (void)ioctl(descriptor, _IOC(_IOC_READ | _IOC_WRITE, 'F', 0x29, 16), words);
        } else if (strncmp(line, "forget", 6) == 0) {
            for (unsigned i = 0; i < kernel_count; i++)
                kernel_groups[i].slice_us = OWN_US;
        } else if (sscanf(line, "time %u", &a) == 1) {
            now_ns += a * UINT64_C(1000000);
        } else if (sscanf(line, "for %d", &ordinal) == 1) {
            nvs_channel_making(ordinal);
        } else if (strncmp(line, "close", 5) == 0) {
            int other = open("/dev/zero", O_RDWR);
            (void)dup2(other, descriptor);
        } else if (sscanf(line, "kernel %15s", kernel_mood) != 1 && sscanf(line, "follow %d %u", &ordinal, &a) == 2) {
            nvs_slice_follow(&nvs_devices[ordinal], a, now_ns);
            show(ordinal);
        }
    }
    return descriptor < 0;
}
