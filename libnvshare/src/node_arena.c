#include "node_arena.h"

#include "clock.h"
#include "log.h"
#include "nonce.h"
#include "settings.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define VERSION 1u
#define SEGMENTS_MAX 8192u // as many as the relay gives one process
#define ANSWER_MS 2000
#define SEGMENT_MS 60000 // others may be served first

enum kind { HELLO = 1, RESERVE, SEGMENT, GIVE, ADOPT };

// Packets, little-endian as the processors are that CUDA runs on.
struct request {
    uint32_t kind;
    int32_t numa_node;
    uint64_t value; // bytes, or VERSION
    uint64_t segment;
    uint64_t unused;
};

struct reply {
    uint32_t kind;
    uint32_t error;
    uint64_t kept_bytes;
    uint64_t free_bytes;
    uint64_t segment;
};

_Static_assert(sizeof(struct request) == 32 && sizeof(struct reply) == 32, "a packet has 32 bytes");

struct segment {
    int descriptor;
    size_t bytes;
    uint64_t id; // of the relay that runs; 0: it does not know it
};

static pthread_mutex_t descriptors = PTHREAD_MUTEX_INITIALIZER;
static int connection = -1;
static uint64_t nonce; // 0: not chosen yet
static struct segment segments[SEGMENTS_MAX];
static size_t segment_count;

static bool path_of(char *path, size_t size) {
    const char *socket_path = nvs_settings_read()->socket_path;
    const char *slash = strrchr(socket_path, '/');
    int folder_length = slash == NULL ? 0 : (int)(slash - socket_path) + 1;
    int length = snprintf(path, size, "%.*sarena.sock", folder_length, socket_path);
    return length >= 0 && (size_t)length < size;
}

bool nvs_arena_exists(void) {
    char path[sizeof((struct sockaddr_un *)0)->sun_path];
    struct stat status;
    return path_of(path, sizeof path) && stat(path, &status) == 0 && S_ISSOCK(status.st_mode);
}

// ---- One question, one answer

static void disconnect(void) {
    pthread_mutex_lock(&descriptors);
    if (connection >= 0)
        close(connection);
    connection = -1;
    pthread_mutex_unlock(&descriptors);
}

static int open_connection(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (!path_of(address.sun_path, sizeof address.sun_path))
        return ENAMETOOLONG;
    int error = 0;
    pthread_mutex_lock(&descriptors);
    connection = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (connection < 0 || connect(connection, (const struct sockaddr *)&address, sizeof address) != 0)
        error = errno;
    pthread_mutex_unlock(&descriptors);
    if (error != 0)
        disconnect();
    return error;
}

// Room for one descriptor, aligned as its header wants it.
union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
};

static int send_request(const struct request *request, int descriptor) {
    struct iovec data = {(void *)request, sizeof *request};
    union control control = {{0}};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof control.bytes;
        control.header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.header), &descriptor, sizeof descriptor);
    }
    return sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == (ssize_t)sizeof *request ? 0 : errno;
}

static int receive_reply(struct reply *reply, int *descriptor) {
    struct iovec data = {reply, sizeof *reply};
    union control control = {{0}};
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t length = recvmsg(connection, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    int error = length < 0 ? errno : length == 0 ? ECONNRESET : length != (ssize_t)sizeof *reply ? EPROTO : 0;
    const struct cmsghdr *header = length < 0 ? NULL : CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS)
        memcpy(descriptor, CMSG_DATA(header), sizeof *descriptor);
    return error;
}

static int wait_for_reply(int wait_ms) {
    struct pollfd source = {.fd = connection, .events = POLLIN};
    uint64_t until_ns = nvs_clock_ns() + (uint64_t)wait_ms * NVS_NS_PER_MS;
    int ready;
    do {
        uint64_t now_ns = nvs_clock_ns();
        ready = poll(&source, 1, now_ns < until_ns ? (int)((until_ns - now_ns) / NVS_NS_PER_MS) + 1 : 0);
    } while (ready < 0 && errno == EINTR);
    return ready > 0 ? 0 : ready == 0 ? ETIMEDOUT : errno;
}

// Asks over the open connection; `sent` goes with the request, `received` comes with the answer (-1: none does). When
// this fails the connection is closed. What the relay refuses is no failure: it is in the reply.
static int ask(const struct request *request, int sent, struct reply *reply, int *received) {
    int descriptor = -1;
    int error = send_request(request, sent);
    if (error == 0)
        error = wait_for_reply(request->kind == SEGMENT ? SEGMENT_MS : ANSWER_MS);
    if (error == 0) {
        pthread_mutex_lock(&descriptors);
        error = receive_reply(reply, &descriptor);
        if (error == 0 && reply->kind != request->kind)
            error = EPROTO;
        if (descriptor >= 0 && (error != 0 || received == NULL || segment_count >= SEGMENTS_MAX)) {
            close(descriptor);
            descriptor = -1;
        }
        if (received != NULL)
            *received = descriptor;
        if (descriptor >= 0) // from now on a child knows of it
            segments[segment_count++] = (struct segment){descriptor, (size_t)request->value, reply->segment};
        pthread_mutex_unlock(&descriptors);
    }
    if (error != 0)
        disconnect();
    return error;
}

// ---- The connection

static int hand_in_segments(void) {
    for (size_t i = 0; i < segment_count; i++) {
        struct reply reply;
        const struct request request = {.kind = ADOPT, .value = segments[i].bytes};
        int error = ask(&request, segments[i].descriptor, &reply, NULL);
        if (error != 0)
            return error;
        segments[i].id = reply.error == 0 ? reply.segment : 0;
        if (reply.error != 0)
            nvs_log_once(NVS_LOG_WARN, "the relay does not take a segment of the node arena back: %s",
                         strerror((int)reply.error));
    }
    return 0;
}

static int join(void) {
    if (connection >= 0)
        return 0;
    if (nonce == 0)
        nonce = nvs_nonce();
    int error = open_connection();
    struct reply reply = {0};
    const struct request request = {.kind = HELLO, .value = VERSION, .segment = nonce};
    if (error == 0)
        error = ask(&request, -1, &reply, NULL);
    if (error == 0 && reply.error != 0) {
        disconnect();
        error = (int)reply.error;
    }
    return error == 0 ? hand_in_segments() : error;
}

// Asks, and once more over a new connection if the old one was lost.
static int ask_joined(const struct request *request, struct reply *reply, int *received) {
    bool was_joined = connection >= 0;
    int error = join();
    if (error == 0)
        error = ask(request, -1, reply, received);
    if (error != 0 && was_joined && error != ETIMEDOUT) {
        error = join();
        if (error == 0)
            error = ask(request, -1, reply, received);
    }
    return error;
}

static void take_sums(const struct reply *reply, struct nvs_arena_sums *sums) {
    *sums = (struct nvs_arena_sums){reply->kept_bytes, reply->free_bytes};
}

int nvs_arena_reserve(uint64_t bytes, struct nvs_arena_sums *sums) {
    struct reply reply;
    const struct request request = {.kind = RESERVE, .value = bytes};
    int error = ask_joined(&request, &reply, NULL);
    if (error == 0)
        take_sums(&reply, sums);
    return error == 0 ? (int)reply.error : error;
}

int nvs_arena_make(size_t bytes, int numa_node, int *descriptor, struct nvs_arena_sums *sums) {
    struct reply reply;
    struct stat status;
    const struct request request = {.kind = SEGMENT, .numa_node = numa_node, .value = bytes};
    if (segment_count == SEGMENTS_MAX)
        return ENOMEM;
    int error = ask_joined(&request, &reply, descriptor);
    if (error != 0)
        return error;
    take_sums(&reply, sums);
    if (reply.error != 0)
        return (int)reply.error;
    if (*descriptor < 0)
        return EPROTO;
    if (fstat(*descriptor, &status) != 0 || (size_t)status.st_size != bytes) { // its pages would not be there
        nvs_arena_give(*descriptor);
        return EPROTO;
    }
    return 0;
}

// Its number at the relay; 0: it has none.
static uint64_t forget_segment(int descriptor) {
    size_t at = 0;
    while (at < segment_count && segments[at].descriptor != descriptor)
        at++;
    if (at == segment_count)
        return 0;
    uint64_t id = segments[at].id;
    segment_count--;
    for (; at < segment_count; at++)
        segments[at] = segments[at + 1];
    return id;
}

void nvs_arena_give(int descriptor) {
    pthread_mutex_lock(&descriptors);
    uint64_t id = forget_segment(descriptor);
    close(descriptor);
    pthread_mutex_unlock(&descriptors);
    struct reply reply;
    const struct request request = {.kind = GIVE, .segment = id};
    // Without a connection it need not be told: the next one hands in what this process still has.
    if (connection >= 0 && id != 0)
        (void)ask(&request, -1, &reply, NULL);
}

// ---- Fork

void nvs_arena_atfork_prepare(void) {
    pthread_mutex_lock(&descriptors);
}

void nvs_arena_atfork_parent(void) {
    pthread_mutex_unlock(&descriptors);
}

void nvs_arena_atfork_child(void) {
    if (connection >= 0)
        close(connection);
    connection = -1;
    for (size_t i = 0; i < segment_count; i++)
        close(segments[i].descriptor);
    segment_count = 0;
    nonce = 0;
    pthread_mutex_init(&descriptors, NULL);
}
