#include "ipc_serve.h"

#include "background.h"
#include "library.h"
#include "log.h"

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define NVS_IPC_PAUSE_MS 100 // while the process has no descriptor or memory left

enum nvs_export_state {
    NVS_EXPORT_ASKED,     // its handle has yet to come
    NVS_EXPORT_ANSWERING, // the answer is on its way
    NVS_EXPORT_HELD,      // the importer has the memory until it closes the connection
};

struct nvs_export {
    int connection;
    enum nvs_export_state state;
    uint64_t until_ns; // when it is dropped; UINT64_MAX: never
    struct nvs_ipc_handle handle;
    size_t received; // bytes of it
    struct nvs_ipc_answer answer;
    bool answered; // the answer is sent; then, for each extent, its bytes with its descriptor
    uint32_t sent;
    int *descriptors; // of extents; NULL: none
    uint64_t *extent_bytes;
};

// Only the thread itself. The oldest first.
static struct nvs_export nvs_exports[NVS_IPC_CONNECTIONS];
static size_t nvs_export_count;
static int nvs_export_listener;
static uint8_t nvs_export_secret[NVS_IPC_SECRET_BYTES];

static bool nvs_export_trusts(const struct nvs_export *export) {
    uint8_t differs = 0;
    for (size_t i = 0; i < NVS_IPC_SECRET_BYTES; i++)
        differs |= (uint8_t)(export->handle.secret[i] ^ nvs_export_secret[i]);
    bool trusted = export->handle.magic == NVS_IPC_MAGIC && differs == 0;
    if (!trusted)
        nvs_log_once(NVS_LOG_WARN, "refused a process that asked for exported memory without the right to it");
    return trusted;
}

static void nvs_export_close_descriptors(struct nvs_export *export) {
    for (uint32_t i = export->sent; export->descriptors != NULL && i < export->answer.extents; i++)
        close(export->descriptors[i]);
    free(export->descriptors);
    free(export->extent_bytes);
    export->descriptors = NULL;
    export->extent_bytes = NULL;
}

// The block's extents as descriptors, and the answer that says so. From then on it counts as imported. An answer
// without extents: no such block.
static void nvs_export_find(struct nvs_export *export) {
    const struct nvs_ipc_handle *handle = &export->handle;
    struct nvs_device *device = nvs_memory_device_of(handle->address);
    if (device == NULL)
        return;
    const struct nvs_arena *arena = &device->memory.arena;
    pthread_mutex_lock(&device->memory.lock);
    struct nvs_block *block = nvs_arena_find_block(arena, handle->address);
    if (block != NULL && block->address == handle->address && block->identity == handle->identity && !block->ending &&
        (block->pins >> NVS_PIN_IPC & 1) != 0) {
        size_t first = nvs_arena_extent_from(arena, block->address);
        size_t end = nvs_arena_extent_from(arena, block->address + block->bytes - 1) + 1;
        uint32_t count = 0;
        export->descriptors = calloc(end - first, sizeof(*export->descriptors));
        export->extent_bytes = calloc(end - first, sizeof(*export->extent_bytes));
        for (size_t i = first; export->descriptors != NULL && export->extent_bytes != NULL && i < end; i++) {
            if (nvs_real.cuMemExportToShareableHandle(&export->descriptors[count], arena->extents[i]->handle,
                                                      CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0) != CUDA_SUCCESS)
                break;
            export->extent_bytes[count++] = arena->extents[i]->bytes;
        }
        export->answer =
            (struct nvs_ipc_answer){block->address - arena->extents[first]->address, block->asked_bytes, count, 0};
        if (count < end - first) { // part of a block is of no use
            nvs_export_close_descriptors(export);
            export->answer.extents = 0;
        } else {
            block->imports++;
        }
    }
    pthread_mutex_unlock(&device->memory.lock);
}

// Sends all of the data with the descriptor (-1: none), or nothing. 0, or an errno: EAGAIN if it would have to wait.
static int nvs_export_send(int connection, const void *data, size_t size, int descriptor) {
    union {
        struct cmsghdr header;
        char room[CMSG_SPACE(sizeof(int))];
    } control;
    memset(&control, 0, sizeof(control));
    struct iovec part = {(void *)data, size};
    struct msghdr message = {.msg_iov = &part, .msg_iovlen = 1};
    if (descriptor >= 0) {
        message.msg_control = control.room;
        message.msg_controllen = sizeof(control.room);
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof(int));
        memcpy(CMSG_DATA(header), &descriptor, sizeof(int));
    }
    ssize_t sent = sendmsg(connection, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0)
        return errno == EWOULDBLOCK ? EAGAIN : errno;
    return sent == (ssize_t)size ? 0 : EPIPE; // so few bytes are never split
}

// ---- One connection. Each step: false if it is to be dropped.

static bool nvs_export_answer(struct nvs_export *export) {
    int error = 0;
    if (!export->answered) {
        error = nvs_export_send(export->connection, &export->answer, sizeof(export->answer), -1);
        export->answered = error == 0;
    }
    while (error == 0 && export->sent < export->answer.extents) {
        error = nvs_export_send(export->connection, &export->extent_bytes[export->sent], sizeof(uint64_t),
                                export->descriptors[export->sent]);
        if (error == 0)
            close(export->descriptors[export->sent++]);
    }
    if (error == EAGAIN)
        return true;
    nvs_export_close_descriptors(export);
    export->state = NVS_EXPORT_HELD;
    export->until_ns = UINT64_MAX;
    return error == 0 && export->answer.extents > 0;
}

static bool nvs_export_receive(struct nvs_export *export) {
    ssize_t received = recv(export->connection, (char *)&export->handle + export->received,
                            sizeof(export->handle) - export->received, MSG_DONTWAIT);
    if (received <= 0)
        return received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    export->received += (size_t)received;
    if (export->received < sizeof(export->handle))
        return true;
    if (!nvs_export_trusts(export))
        return false;
    nvs_export_find(export);
    export->state = NVS_EXPORT_ANSWERING;
    return nvs_export_answer(export);
}

static bool nvs_export_step(struct nvs_export *export) {
    char nothing;
    switch (export->state) {
    case NVS_EXPORT_ASKED:
        return nvs_export_receive(export);
    case NVS_EXPORT_ANSWERING:
        return nvs_export_answer(export);
    default: // an importer says nothing more: it closes
        return recv(export->connection, &nothing, sizeof(nothing), MSG_DONTWAIT) < 0 &&
               (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR);
    }
}

static void nvs_export_drop(size_t index) {
    struct nvs_export *export = &nvs_exports[index];
    close(export->connection);
    nvs_export_close_descriptors(export);
    if (export->answer.extents > 0)
        nvs_memory_import_ended(nvs_memory_device_of(export->handle.address), export->handle.address,
                                export->handle.identity);
    nvs_export_count--;
    memmove(export, export + 1, (nvs_export_count - index) * sizeof(*export));
}

// ---- All of them

// False: the socket is gone.
static bool nvs_export_accept(void) {
    int connection = accept4(nvs_export_listener, NULL, NULL, SOCK_CLOEXEC);
    if (connection < 0) {
        if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
            (void)poll(NULL, 0, NVS_IPC_PAUSE_MS);
        return errno != EBADF && errno != EINVAL && errno != ENOTSOCK;
    }
    if (!nvs_ipc_same_user(connection)) {
        nvs_log_once(NVS_LOG_WARN, "refused a process that asked for exported memory without the right to it");
        close(connection);
        return true;
    }
    if (nvs_export_count == NVS_IPC_CONNECTIONS) {
        nvs_log_once(NVS_LOG_WARN, "more than %u imports of this program's memory: the oldest are not followed",
                     NVS_IPC_CONNECTIONS);
        nvs_export_drop(0);
    }
    nvs_exports[nvs_export_count++] = (struct nvs_export){
        .connection = connection, .until_ns = nvs_clock_ns() + NVS_IPC_ANSWER_SECONDS * NVS_NS_PER_SECOND};
    return true;
}

// Waits until there is something to do. Returns how many of the sources, the listener before all connections, to look
// at.
static size_t nvs_export_wait(struct pollfd sources[NVS_IPC_CONNECTIONS + 1]) {
    uint64_t until_ns = UINT64_MAX, now_ns = nvs_clock_ns();
    sources[0] = (struct pollfd){.fd = nvs_export_listener, .events = POLLIN};
    for (size_t i = 0; i < nvs_export_count; i++) {
        bool answering = nvs_exports[i].state == NVS_EXPORT_ANSWERING;
        sources[i + 1] = (struct pollfd){.fd = nvs_exports[i].connection, .events = answering ? POLLOUT : POLLIN};
        until_ns = nvs_exports[i].until_ns < until_ns ? nvs_exports[i].until_ns : until_ns;
    }
    uint64_t wait_ms = until_ns <= now_ns ? 0 : (until_ns - now_ns) / NVS_NS_PER_MS + 1;
    int timeout_ms = until_ns == UINT64_MAX ? -1 : wait_ms > INT_MAX ? INT_MAX : (int)wait_ms;
    return poll(sources, (nfds_t)(nvs_export_count + 1), timeout_ms) < 0 ? 0 : nvs_export_count + 1;
}

static void *nvs_export_run(void *unused) {
    (void)unused;
    struct pollfd sources[NVS_IPC_CONNECTIONS + 1];
    bool listens = true;
    while (listens && !nvs_library_leaving()) {
        size_t count = nvs_export_wait(sources);
        uint64_t now_ns = nvs_clock_ns();
        for (size_t i = count; i > 1; i--) { // from the end: those behind who is dropped move up
            bool stays = sources[i - 1].revents == 0 || nvs_export_step(&nvs_exports[i - 2]);
            if (!stays || now_ns >= nvs_exports[i - 2].until_ns)
                nvs_export_drop(i - 2);
        }
        if (count > 0 && sources[0].revents != 0)
            listens = (sources[0].revents & POLLNVAL) == 0 && nvs_export_accept();
    }
    if (!listens)
        nvs_log(NVS_LOG_WARN, "the program closed the socket that its exported memory is handed over by");
    return NULL;
}

bool nvs_ipc_serve(int listener, const uint8_t secret[NVS_IPC_SECRET_BYTES]) {
    nvs_export_listener = listener;
    nvs_export_count = 0; // a parent's are its own
    memcpy(nvs_export_secret, secret, sizeof(nvs_export_secret));
    return nvs_background_start(nvs_export_run, NULL) == 0;
}
