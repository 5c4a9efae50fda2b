// A NATS connection over a unix socket that never blocks: bytes out through a bounded buffer, events in through the
// parser.
//
// It belongs to the control thread. One lock, `descriptors` in connection.c, is held while a socket is opened or
// closed: a fork waits for it, so that the child knows every socket that it inherited and can close it. (A socket that
// lived on in a child would hide the parent's disconnect from the relay.)
#ifndef NVS_CONNECTION_H
#define NVS_CONNECTION_H

#include "nats.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NVS_CONNECTION_UNSENT_MAX_BYTES 65536u
#define NVS_CONNECTION_RECEIVED_MAX_BYTES 16384u

struct nvs_connection {
    bool is_open; // false in zeroed memory
    int descriptor;
    struct nvs_nats_parser parser;
    uint8_t received[NVS_CONNECTION_RECEIVED_MAX_BYTES];
    size_t received_bytes;
    size_t parsed_bytes; // of them
    char unsent[NVS_CONNECTION_UNSENT_MAX_BYTES];
    size_t unsent_bytes;
};

// Connections are closed in zeroed memory: there is nothing else to initialise.

// Connects to the socket at `path`. Returns 0 or an errno value.
int nvs_connection_open(struct nvs_connection *connection, const char *path);

// Closes it, if it is open, and forgets what was not sent and not parsed.
void nvs_connection_close(struct nvs_connection *connection);

// The room behind what waits to be sent, for an encoder of nats.h. What the encoder wrote is then added with _queue.
char *nvs_connection_room(struct nvs_connection *connection, size_t *capacity);

// Adds `frame_bytes` of the room to what is to be sent. False, and nothing is added, if the encoder found no room (0).
bool nvs_connection_queue(struct nvs_connection *connection, size_t frame_bytes);

// Sends as much as the socket takes. Returns 0 (also when something is left), or an errno value: the connection is
// lost.
int nvs_connection_flush(struct nvs_connection *connection);

// Reads what has arrived, up to the buffer's size, once all that was read before is parsed. Returns 0, EAGAIN when
// nothing is there, or another errno value: the connection is lost (ECONNRESET: the other side closed it).
int nvs_connection_receive(struct nvs_connection *connection);

// The next event of what was received; false when there is none.
bool nvs_connection_next(struct nvs_connection *connection, struct nvs_nats_event *event);

// For pthread_atfork(). _child closes the socket without touching the parent's connection.
void nvs_connection_atfork_prepare(void);
void nvs_connection_atfork_parent(void);
void nvs_connection_atfork_child(struct nvs_connection *connection);

#endif
