// What the client and the scheduler say to each other over the connection: registration, reports, grants, and coming
// back.
//
// It belongs to the control thread and never blocks; time comes in as CLOCK_MONOTONIC nanoseconds.
//   AWAY --connect--> AWAITS_INFO --INFO: CONNECT, PING--> AWAITS_PONG --PONG--> CONNECTED
// and back to AWAY on any fault, from where it tries again for ever, with pauses from 10 ms to 1 s. What was granted
// stays in force meanwhile, and is kept over the connections.
#ifndef NVS_SESSION_H
#define NVS_SESSION_H

#include "connection.h"
#include "control.h"
#include "identity.h"

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct nvs_session_device {
    char gpu[NVS_GPU_SIZE]; // empty: not in use yet
    char report_subject[NVS_NATS_SUBJECT_MAX_BYTES + 1];
    char grant_subject[NVS_NATS_SUBJECT_MAX_BYTES + 1];
    bool subscribed; // on this connection
    bool due;
    uint64_t heartbeat_ns; // when a report is due at the latest
    uint64_t sequence;     // of the last report
    nvs_grant applied;     // all zero: none yet
};

struct nvs_session {
    const struct nvs_control_hooks *hooks;
    const char *socket_path;
    enum { NVS_SESSION_AWAY, NVS_SESSION_AWAITS_INFO, NVS_SESSION_AWAITS_PONG, NVS_SESSION_CONNECTED } state;
    struct nvs_connection connection;

    uint64_t retry_ns;      // AWAY: when to connect
    uint64_t answer_due_ns; // AWAITS_…: when to give up
    uint64_t connected_ns;  // CONNECTED: since when
    uint64_t backoff_ns;    // the next pause
    uint64_t jitter;        // state of the generator that spreads the pauses
    // What the log has of this outage. A connection that breaks soon after it was made is part of the same outage.
    enum { NVS_SESSION_SAID_NOTHING, NVS_SESSION_SAID_LOST, NVS_SESSION_SAID_BACK } said;
    bool refusal_said;   // an -ERR stands in the log
    uint64_t paced_ns;   // when the reports that were sent would end at the steady rate
    size_t first_device; // whose turn it is when reports are paced

    char nonce[NVS_NONCE_SIZE];
    char program[NVS_NAME_SIZE];
    char allocation[NVS_TOKEN_SIZE];
    char client[NVS_TOKEN_SIZE]; // <pid as the relay sees it>-<nonce>
    uint64_t unknown_messages;
    uint64_t malformed_messages;
    struct nvs_session_device devices[NVS_CONTROL_DEVICES_MAX];
};

// Begins a session with a new nonce. `socket_path` must outlive it.
void nvs_session_init(struct nvs_session *session, const struct nvs_control_hooks *hooks, const char *socket_path,
                      uint64_t now_ns);

// Connects if it is time to, and handles all that has arrived.
void nvs_session_receive(struct nvs_session *session, uint64_t now_ns);

// Marks reports as due; bit i stands for device i.
void nvs_session_mark_due(struct nvs_session *session, uint64_t devices);

// Sends what is due. Returns the moment at which the session wants to be called again at the latest.
uint64_t nvs_session_send(struct nvs_session *session, uint64_t now_ns);

// What to wait for on the socket; its descriptor is -1 while there is none.
struct pollfd nvs_session_poll(const struct nvs_session *session);

// Sends a last report, `leaving`, for each device in use, as far as the socket takes them at once, and closes the
// connection.
void nvs_session_leave(struct nvs_session *session, uint64_t now_ns);

#endif
