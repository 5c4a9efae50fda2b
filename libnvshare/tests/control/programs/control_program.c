// A program with the control thread and a data plane of plain numbers, ruled by lines on stdin:
//   use GPU        device 0, 1, … comes into use and is poked      bytes DEVICE N   its footprint changes, and it is
//   poked poke DEVICE    no change                                        storm DEVICE N   N pokes tick MS        tick
//   asks to be called every MS ms from now on   leave            nvs_control_leave() fork           a child does `use`
//   again and rules itself by the rest of the lines; the parent waits for its end state          prints connected and
//   whether it has been without a connection
// It prints `grant DEVICE GENERATION EPOCH SEQUENCE`, `connected 0|1`, `ticked N`, and answers of the commands.
#include "clock.h"
#include "control.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define DEVICES_MAX 4

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; // guards the numbers below
static struct {
    char gpu[NVS_GPU_SIZE];
    uint64_t footprint_bytes;
    nvs_grant grant;
} devices[DEVICES_MAX];
static size_t used;
static uint64_t tick_every_ns;
static unsigned ticks;

static void say(const char *format, unsigned long long a, unsigned long long b, unsigned long long c,
                unsigned long long d) {
    char line[160];
    int length = snprintf(line, sizeof line, format, a, b, c, d);
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        _exit(3);
}

static size_t device_count(void) {
    return DEVICES_MAX;
}

static bool fill_report(size_t device, nvs_report *report) {
    pthread_mutex_lock(&lock);
    bool in_use = device < used;
    if (in_use) {
        memcpy(report->gpu, devices[device].gpu, sizeof report->gpu);
        report->generation = devices[device].grant.generation;
        report->epoch = devices[device].grant.epoch;
        report->footprint_bytes = devices[device].footprint_bytes;
        report->state = NVS_CLIENT_STATE_WAITING;
    }
    pthread_mutex_unlock(&lock);
    return in_use;
}

static void apply_grant(size_t device, const nvs_grant *grant) {
    pthread_mutex_lock(&lock);
    devices[device].grant = *grant;
    pthread_mutex_unlock(&lock);
    say("grant %llu %llu %llu %llu\n", device, grant->generation, grant->epoch, grant->sequence);
    nvs_control_poke(device);
}

static uint64_t tick(uint64_t now_ns) {
    pthread_mutex_lock(&lock);
    uint64_t every_ns = tick_every_ns;
    unsigned count = ++ticks;
    pthread_mutex_unlock(&lock);
    if (every_ns == 0)
        return NVS_CONTROL_NEVER_NS;
    say("ticked %llu\n", count, 0, 0, 0);
    return now_ns + every_ns;
}

static void connection_changed(bool connected) {
    say("connected %llu\n", connected, 0, 0, 0);
}

static const struct nvs_control_hooks hooks = {device_count, fill_report, apply_grant, tick, connection_changed};

static void use(const char *gpu) {
    pthread_mutex_lock(&lock);
    size_t device = used++;
    snprintf(devices[device].gpu, sizeof devices[device].gpu, "%s", gpu);
    pthread_mutex_unlock(&lock);
    if (nvs_control_start(&hooks) != 0)
        say("cannot start\n", 0, 0, 0, 0);
    nvs_control_poke(device);
}

static void fork_child(void) {
    pid_t child = fork();
    if (child != 0) {
        int status;
        waitpid(child, &status, 0);
        say("child ended %llu\n", (unsigned long long)status, 0, 0, 0);
        return;
    }
    say("child began\n", 0, 0, 0, 0);
    if (nvs_control_start(&hooks) != 0)
        say("cannot start\n", 0, 0, 0, 0);
}

// Reads without a buffer, so that after a fork the lines that nobody read yet go to whoever reads next.
static bool read_line(char *line, size_t size) {
    for (size_t i = 0; i + 1 < size; i++) {
        if (read(STDIN_FILENO, &line[i], 1) != 1)
            return false;
        if (line[i] == '\n') {
            line[i] = '\0';
            return true;
        }
    }
    return false;
}

int main(void) {
    if (pthread_atfork(nvs_control_atfork_prepare, nvs_control_atfork_parent, nvs_control_atfork_child) != 0)
        return 2;
    char line[128], gpu[NVS_GPU_SIZE];
    unsigned long long a, b;
    while (read_line(line, sizeof line)) {
        if (sscanf(line, "use %47s", gpu) == 1) {
            use(gpu);
        } else if (sscanf(line, "bytes %llu %llu", &a, &b) == 2) {
            pthread_mutex_lock(&lock);
            devices[a].footprint_bytes = b;
            pthread_mutex_unlock(&lock);
            nvs_control_poke(a);
        } else if (sscanf(line, "poke %llu", &a) == 1) {
            nvs_control_poke(a);
        } else if (sscanf(line, "storm %llu %llu", &a, &b) == 2) {
            for (; b > 0; b--)
                nvs_control_poke(a);
        } else if (sscanf(line, "tick %llu", &a) == 1) {
            pthread_mutex_lock(&lock);
            tick_every_ns = a * NVS_NS_PER_MS;
            pthread_mutex_unlock(&lock);
            nvs_control_poke(0);
        } else if (strcmp(line, "fork") == 0) {
            fork_child();
        } else if (strcmp(line, "leave") == 0) {
            uint64_t before_ns = nvs_clock_ns();
            nvs_control_leave();
            say("left %llu\n", (nvs_clock_ns() - before_ns) / NVS_NS_PER_MS, 0, 0, 0);
        } else if (strcmp(line, "start") == 0) {
            say("start %llu\n", (unsigned long long)nvs_control_start(&hooks), 0, 0, 0);
        } else if (strcmp(line, "state") == 0) {
            say("state %llu %llu\n", nvs_control_connected(), nvs_control_disconnected_since_ns() != 0, 0, 0);
        } else {
            return 2;
        }
    }
    return 0;
}
