#include "control.h"

#include "background.h"
#include "clock.h"
#include "log.h"
#include "session.h"
#include "settings.h"

#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LEAVE_WITHIN_NS (50 * NVS_NS_PER_MS)

enum life {
    LIFE_NONE,    // no thread
    LIFE_RUNS,    // the thread runs
    LIFE_LEAVING, // it was asked to leave
    LIFE_LEFT,    // it is gone for good
};

// Changes from NONE and to LEAVING are made under `lifecycle`. A futex: nvs_control_leave() waits on it.
static pthread_mutex_t lifecycle = PTHREAD_MUTEX_INITIALIZER;
static atomic_uint life = LIFE_NONE;

// How other threads reach the control thread. `awake` is false only while it sleeps or is about to: the first poke then
// writes the eventfd, and all others leave it at their bit in `due`.
static _Atomic int wake_descriptor = -1;
static atomic_bool awake;
static _Atomic uint64_t due;
static atomic_bool look_due; // the same without a report

// What the control thread tells the others.
static atomic_bool connected;
static _Atomic uint64_t disconnected_since_ns;

static struct nvs_session session; // the control thread's own
static _Thread_local bool on_control_thread;

// ---- Waking and sleeping

static void wake(void) {
    int descriptor = atomic_load(&wake_descriptor);
    if (descriptor < 0 || atomic_exchange(&awake, true))
        return;
    int errno_before = errno; // a signal handler may poke
    const uint64_t one = 1;
    // It cannot fill up: the thread empties it before it lets anybody write again. A failure means that the program
    // closed the descriptor; the thread then finds out by itself.
    ssize_t ignored = write(descriptor, &one, sizeof one);
    (void)ignored;
    errno = errno_before;
}

static int open_wake_descriptor(void) {
    int descriptor = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (descriptor < 0)
        return errno;
    atomic_store(&wake_descriptor, descriptor);
    return 0;
}

// Sleeps until the socket or a poke has something, or until `until_ns`.
static void sleep_until(uint64_t until_ns) {
    struct pollfd sources[] = {nvs_session_poll(&session), {.fd = atomic_load(&wake_descriptor), .events = POLLIN}};
    atomic_store(&awake, false);
    uint64_t now_ns = nvs_clock_ns();
    bool at_once =
        until_ns <= now_ns || atomic_load(&due) != 0 || atomic_load(&look_due) || atomic_load(&life) != LIFE_RUNS;
    uint64_t pause_ns = at_once ? 0 : until_ns - now_ns;
    struct timespec pause = {.tv_sec = (time_t)(pause_ns / NVS_NS_PER_SECOND),
                             .tv_nsec = (long)(pause_ns % NVS_NS_PER_SECOND)};
    int ready = ppoll(sources, 2, until_ns == NVS_CONTROL_NEVER_NS && !at_once ? NULL : &pause, NULL);
    atomic_store(&awake, true);
    if (ready <= 0)
        return;
    if (sources[1].revents & POLLIN) {
        uint64_t count;
        ssize_t ignored = read(sources[1].fd, &count, sizeof count);
        (void)ignored;
    }
    if (sources[1].revents & POLLNVAL && open_wake_descriptor() != 0)
        atomic_store(&wake_descriptor, -1); // poll ignores it; the heartbeat still wakes us
}

// ---- The thread

static void notice_connection(void) {
    bool now_connected = session.state == NVS_SESSION_CONNECTED;
    if (now_connected == atomic_load(&connected))
        return;
    atomic_store(&disconnected_since_ns, now_connected ? 0 : nvs_clock_ns());
    atomic_store(&connected, now_connected);
    session.hooks->connection_changed(now_connected);
}

// Tells nvs_control_leave(), which may wait in another thread.
static void leave_now(void) {
    nvs_session_leave(&session, nvs_clock_ns());
    atomic_store(&connected, false);
    atomic_store(&life, LIFE_LEFT);
    syscall(SYS_futex, &life, FUTEX_WAKE_PRIVATE, INT32_MAX, NULL, NULL, 0);
}

static void *run(void *unused) {
    (void)unused;
    on_control_thread = true;
    prctl(PR_SET_NAME, "nvshare");
    prctl(PR_SET_TIMERSLACK, 1UL); // ns: slots begin when they begin; this thread alone
    uint64_t until_ns = 0;
    while (atomic_load(&life) == LIFE_RUNS) {
        sleep_until(until_ns);
        atomic_store(&look_due, false);
        // Taken before the tick: who pokes during it is heard in the next round, by a tick of its own.
        nvs_session_mark_due(&session, atomic_exchange(&due, 0));
        nvs_session_receive(&session, nvs_clock_ns());
        notice_connection();
        uint64_t tick_ns = session.hooks->tick(nvs_clock_ns());
        uint64_t session_ns = nvs_session_send(&session, nvs_clock_ns());
        notice_connection();
        until_ns = tick_ns < session_ns ? tick_ns : session_ns;
    }
    leave_now();
    return NULL;
}

static int start_thread(const struct nvs_control_hooks *hooks) {
    int error = atomic_load(&wake_descriptor) < 0 ? open_wake_descriptor() : 0;
    if (error != 0)
        return error;
    uint64_t now_ns = nvs_clock_ns();
    nvs_session_init(&session, hooks, nvs_settings_read()->socket_path, now_ns);
    atomic_store(&disconnected_since_ns, now_ns);
    atomic_store(&awake, true);
    atomic_store(&life, LIFE_RUNS);
    error = nvs_background_start(run, NULL);
    if (error != 0)
        atomic_store(&life, LIFE_NONE);
    return error;
}

int nvs_control_start(const struct nvs_control_hooks *hooks) {
    if (atomic_load_explicit(&life, memory_order_relaxed) == LIFE_RUNS)
        return 0;
    pthread_mutex_lock(&lifecycle);
    int error = 0;
    switch (atomic_load(&life)) {
    case LIFE_NONE:
        error = start_thread(hooks);
        break;
    case LIFE_LEAVING:
    case LIFE_LEFT:
        error = ESHUTDOWN;
        break;
    }
    pthread_mutex_unlock(&lifecycle);
    return error;
}

// ---- What other threads call

void nvs_control_poke(size_t device) {
    if (device >= NVS_CONTROL_DEVICES_MAX)
        return;
    if (on_control_thread) {
        nvs_session_mark_due(&session, UINT64_C(1) << device);
        return;
    }
    atomic_fetch_or(&due, UINT64_C(1) << device);
    wake();
}

void nvs_control_wake(void) {
    atomic_store(&look_due, true);
    wake();
}

bool nvs_control_connected(void) {
    return atomic_load(&connected);
}

uint64_t nvs_control_disconnected_since_ns(void) {
    return atomic_load(&disconnected_since_ns);
}

void nvs_control_leave(void) {
    pthread_mutex_lock(&lifecycle);
    unsigned expected = LIFE_RUNS;
    if (atomic_compare_exchange_strong(&life, &expected, LIFE_LEAVING)) {
        wake();
        uint64_t deadline_ns = nvs_clock_ns() + LEAVE_WITHIN_NS;
        for (uint64_t now_ns; atomic_load(&life) == LIFE_LEAVING && (now_ns = nvs_clock_ns()) < deadline_ns;) {
            const struct timespec left = {.tv_nsec = (long)(deadline_ns - now_ns)};
            syscall(SYS_futex, &life, FUTEX_WAIT_PRIVATE, LIFE_LEAVING, &left, NULL, 0);
        }
    } else if (expected == LIFE_NONE) {
        atomic_store(&life, LIFE_LEFT);
    }
    pthread_mutex_unlock(&lifecycle);
}

// ---- Fork

void nvs_control_atfork_prepare(void) {
    pthread_mutex_lock(&lifecycle);
    nvs_connection_atfork_prepare();
}

void nvs_control_atfork_parent(void) {
    nvs_connection_atfork_parent();
    pthread_mutex_unlock(&lifecycle);
}

void nvs_control_atfork_child(void) {
    nvs_connection_atfork_child(&session.connection);
    int descriptor = atomic_exchange(&wake_descriptor, -1);
    if (descriptor >= 0)
        close(descriptor);
    atomic_store(&due, 0);
    atomic_store(&look_due, false);
    atomic_store(&connected, false);
    atomic_store(&disconnected_since_ns, 0);
    atomic_store(&life, LIFE_NONE);
    pthread_mutex_unlock(&lifecycle);
}
