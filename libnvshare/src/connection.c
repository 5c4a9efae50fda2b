#include "connection.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static pthread_mutex_t descriptors = PTHREAD_MUTEX_INITIALIZER;

static void forget_bytes(struct nvs_connection *connection) {
    nvs_nats_parser_reset(&connection->parser);
    connection->received_bytes = 0;
    connection->parsed_bytes = 0;
    connection->unsent_bytes = 0;
}

static int open_socket(struct nvs_connection *connection, const struct sockaddr_un *address) {
    int descriptor = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (descriptor < 0)
        return errno;
    if (connect(descriptor, (const struct sockaddr *)address, sizeof *address) != 0) {
        int error = errno;
        close(descriptor);
        return error;
    }
    connection->descriptor = descriptor;
    connection->is_open = true;
    return 0;
}

int nvs_connection_open(struct nvs_connection *connection, const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return ENAMETOOLONG;
    strcpy(address.sun_path, path);
    nvs_connection_close(connection);

    pthread_mutex_lock(&descriptors);
    int error = open_socket(connection, &address);
    pthread_mutex_unlock(&descriptors);
    return error;
}

void nvs_connection_close(struct nvs_connection *connection) {
    forget_bytes(connection);
    if (!connection->is_open)
        return;
    pthread_mutex_lock(&descriptors);
    close(connection->descriptor);
    connection->is_open = false;
    pthread_mutex_unlock(&descriptors);
}

char *nvs_connection_room(struct nvs_connection *connection, size_t *capacity) {
    *capacity = sizeof connection->unsent - connection->unsent_bytes;
    return connection->unsent + connection->unsent_bytes;
}

bool nvs_connection_queue(struct nvs_connection *connection, size_t frame_bytes) {
    connection->unsent_bytes += frame_bytes;
    return frame_bytes != 0;
}

int nvs_connection_flush(struct nvs_connection *connection) {
    size_t sent = 0;
    int error = 0;
    while (sent < connection->unsent_bytes && error == 0) {
        ssize_t count = send(connection->descriptor, connection->unsent + sent, connection->unsent_bytes - sent,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count >= 0)
            sent += (size_t)count;
        else if (errno != EINTR)
            error = errno;
    }
    connection->unsent_bytes -= sent;
    memmove(connection->unsent, connection->unsent + sent, connection->unsent_bytes);
    return error == EAGAIN || error == EWOULDBLOCK ? 0 : error;
}

int nvs_connection_receive(struct nvs_connection *connection) {
    ssize_t count;
    do
        count = recv(connection->descriptor, connection->received, sizeof connection->received, MSG_DONTWAIT);
    while (count < 0 && errno == EINTR);
    if (count < 0)
        return errno == EWOULDBLOCK ? EAGAIN : errno;
    connection->received_bytes = (size_t)count;
    connection->parsed_bytes = 0;
    return count == 0 ? ECONNRESET : 0;
}

bool nvs_connection_next(struct nvs_connection *connection, struct nvs_nats_event *event) {
    connection->parsed_bytes += nvs_nats_parse(&connection->parser, connection->received + connection->parsed_bytes,
                                               connection->received_bytes - connection->parsed_bytes, event);
    return event->type != NVS_NATS_NONE;
}

void nvs_connection_atfork_prepare(void) {
    pthread_mutex_lock(&descriptors);
}

void nvs_connection_atfork_parent(void) {
    pthread_mutex_unlock(&descriptors);
}

void nvs_connection_atfork_child(struct nvs_connection *connection) {
    if (connection->is_open)
        close(connection->descriptor);
    connection->is_open = false;
    pthread_mutex_unlock(&descriptors);
}
