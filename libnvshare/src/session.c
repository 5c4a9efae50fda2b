#include "session.h"

#include "clock.h"
#include "log.h"
#include "plan.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEARTBEAT_NS NVS_NS_PER_SECOND
#define ANSWER_WITHIN_NS (2 * NVS_NS_PER_SECOND)
#define BACKOFF_MIN_NS (10 * NVS_NS_PER_MS)
#define BACKOFF_MAX_NS NVS_NS_PER_SECOND
// A connection that broke sooner than this was no success: the pause before the next goes on growing.
#define STEADY_AFTER_NS NVS_NS_PER_SECOND
// The relay closes a connection that passes 1,000 frames a second (docs/protocol.md). Reports are whole states, so one
// that waits loses nothing: a burst of 64, then 250 a second, keeps four storming processes of one allocation below the
// limit.
#define REPORT_INTERVAL_NS (4 * NVS_NS_PER_MS)
#define REPORT_BURST 64u
// Reads of one wake-up, so that a flood from the relay cannot keep the thread from its ticks.
#define RECEIVES_MAX 16u

void nvs_session_init(struct nvs_session *session, const struct nvs_control_hooks *hooks, const char *socket_path,
                      uint64_t now_ns) {
    memset(session, 0, sizeof *session);
    nvs_identity_nonce(session->nonce);
    nvs_identity_program(session->program);
    session->hooks = hooks;
    session->socket_path = socket_path;
    session->state = NVS_SESSION_AWAY;
    session->retry_ns = now_ns;
    session->backoff_ns = BACKOFF_MIN_NS;
    session->jitter = strtoull(session->nonce, NULL, 16) | 1;
}

// ---- Coming and going

// Half of the pause, and a random part of the other half: clients that lost one relay do not come back in step.
static uint64_t next_pause(struct nvs_session *session) {
    uint64_t pause_ns = session->backoff_ns;
    session->backoff_ns = pause_ns < BACKOFF_MAX_NS / 2 ? pause_ns * 2 : BACKOFF_MAX_NS;
    session->jitter ^= session->jitter << 13; // xorshift64, Marsaglia 2003
    session->jitter ^= session->jitter >> 7;
    session->jitter ^= session->jitter << 17;
    return pause_ns / 2 + session->jitter % (pause_ns / 2);
}

static void lose(struct nvs_session *session, uint64_t now_ns, const char *why) {
    bool was_connected = session->state == NVS_SESSION_CONNECTED;
    if (was_connected && now_ns - session->connected_ns >= STEADY_AFTER_NS) {
        session->backoff_ns = BACKOFF_MIN_NS;
        session->said = NVS_SESSION_SAID_NOTHING;
        session->refusal_said = false;
    }
    if (session->said == NVS_SESSION_SAID_NOTHING) {
        if (was_connected)
            nvs_log(NVS_LOG_WARN, "lost the relay (%s), going on under the last plan; reconnecting", why);
        else
            nvs_log(NVS_LOG_WARN, "no relay at %s (%s), trying on; does the node run? See `nvshare status`",
                    session->socket_path, why);
        session->said = NVS_SESSION_SAID_LOST;
    }
    nvs_connection_close(&session->connection);
    session->state = NVS_SESSION_AWAY;
    session->retry_ns = now_ns + next_pause(session);
}

static void lose_by_error(struct nvs_session *session, uint64_t now_ns, int error) {
    char text[128];
    lose(session, now_ns, strerror_r(error, text, sizeof text));
}

static void connect_now(struct nvs_session *session, uint64_t now_ns) {
    int error = nvs_connection_open(&session->connection, session->socket_path);
    if (error != 0) {
        lose_by_error(session, now_ns, error);
        return;
    }
    session->state = NVS_SESSION_AWAITS_INFO;
    session->answer_due_ns = now_ns + ANSWER_WITHIN_NS;
}

static void register_client(struct nvs_session *session, uint64_t now_ns, const struct nvs_nats_info *info) {
    if (session->state != NVS_SESSION_AWAITS_INFO)
        return; // nats-server sends INFO again when something of its own changed
    if (!info->has_identity) {
        lose(session, now_ns, "its INFO does not say who we are: NVSHARE_SOCKET must be an allocation's socket");
        return;
    }
    strcpy(session->allocation, info->allocation);
    snprintf(session->client, sizeof session->client, "%" PRIu32 "-%s", info->pid, session->nonce);
    for (size_t i = 0; i < NVS_CONTROL_DEVICES_MAX; i++) {
        session->devices[i].gpu[0] = '\0'; // its subjects are made again: they hold the client and the allocation
        session->devices[i].subscribed = false;
    }
    size_t capacity;
    char *room = nvs_connection_room(&session->connection, &capacity);
    bool queued =
        nvs_connection_queue(&session->connection, nvs_nats_connect(room, capacity, session->nonce, NVS_VERSION));
    room = nvs_connection_room(&session->connection, &capacity);
    if (!queued || !nvs_connection_queue(&session->connection, nvs_nats_ping(room, capacity))) {
        lose(session, now_ns, "no room for the registration");
        return;
    }
    session->state = NVS_SESSION_AWAITS_PONG;
}

static void welcome(struct nvs_session *session, uint64_t now_ns) {
    if (session->state != NVS_SESSION_AWAITS_PONG)
        return;
    bool comes_back = session->said == NVS_SESSION_SAID_LOST;
    nvs_log(comes_back ? NVS_LOG_WARN : NVS_LOG_INFO, "connected to the relay as client %s of allocation %s",
            session->client, session->allocation);
    if (comes_back)
        session->said = NVS_SESSION_SAID_BACK;
    session->connected_ns = now_ns;
    session->state = NVS_SESSION_CONNECTED;
    nvs_session_mark_due(session, UINT64_MAX);
}

// ---- Grants

static void count_malformed(struct nvs_session *session, const char *what) {
    session->malformed_messages++;
    nvs_log_once(NVS_LOG_WARN, "dropped a message: %s (said once; `nvshare status` shows the count)", what);
}

static void handle_message(struct nvs_session *session, const struct nvs_nats_event *event) {
    size_t device = session->state == NVS_SESSION_CONNECTED ? 0 : NVS_CONTROL_DEVICES_MAX;
    while (device < NVS_CONTROL_DEVICES_MAX && !(session->devices[device].subscribed &&
                                                 strcmp(session->devices[device].grant_subject, event->subject) == 0))
        device++;
    if (device == NVS_CONTROL_DEVICES_MAX) {
        count_malformed(session, "its subject is none of ours");
        return;
    }
    nvs_grant grant;
    uint32_t unknown_fields;
    if (nvs_grant_decode(event->payload, event->payload_bytes, &grant, &unknown_fields) != NVS_WIRE_OK) {
        count_malformed(session, "it is no grant");
        return;
    }
    struct nvs_session_device *addressee = &session->devices[device];
    if (strcmp(grant.client, session->client) != 0 || strcmp(grant.gpu, addressee->gpu) != 0) {
        count_malformed(session, "a grant for somebody else");
        return;
    }
    if (unknown_fields > 0) {
        session->unknown_messages += unknown_fields;
        nvs_log_once(NVS_LOG_INFO,
                     "the scheduler (protocol %u, build %s) sends fields that this library (protocol %u) does not know",
                     grant.protocol, grant.build, NVS_PROTOCOL);
    }
    if (!nvs_grant_newer(&addressee->applied, &grant)) {
        nvs_log(NVS_LOG_DEBUG, "dropped a grant that is not newer than the last one");
        return;
    }
    addressee->applied = grant;
    session->hooks->apply_grant(device, &grant);
}

// ---- Receiving

static void handle_event(struct nvs_session *session, uint64_t now_ns, const struct nvs_nats_event *event) {
    size_t capacity;
    char *room;
    switch (event->type) {
    case NVS_NATS_INFO:
        register_client(session, now_ns, &event->info);
        break;
    case NVS_NATS_MSG:
        handle_message(session, event);
        break;
    case NVS_NATS_PING:
        room = nvs_connection_room(&session->connection, &capacity);
        if (!nvs_connection_queue(&session->connection, nvs_nats_pong(room, capacity)))
            lose(session, now_ns, "it reads nothing");
        break;
    case NVS_NATS_PONG:
        welcome(session, now_ns);
        break;
    case NVS_NATS_ERR:
        if (!session->refusal_said)
            nvs_log(NVS_LOG_WARN, "the relay refuses: %s", event->text);
        session->refusal_said = true;
        break;
    case NVS_NATS_BROKEN:
        session->malformed_messages++;
        lose(session, now_ns, event->text);
        break;
    case NVS_NATS_OK:
    case NVS_NATS_NONE:
        break;
    }
}

void nvs_session_receive(struct nvs_session *session, uint64_t now_ns) {
    if (session->state == NVS_SESSION_AWAY) {
        if (now_ns < session->retry_ns)
            return;
        connect_now(session, now_ns);
    }
    for (unsigned i = 0; i < RECEIVES_MAX && session->state != NVS_SESSION_AWAY; i++) {
        int error = nvs_connection_receive(&session->connection);
        if (error == EAGAIN)
            break;
        if (error != 0) {
            lose_by_error(session, now_ns, error);
            break;
        }
        struct nvs_nats_event event;
        while (session->state != NVS_SESSION_AWAY && nvs_connection_next(&session->connection, &event))
            handle_event(session, now_ns, &event);
    }
    bool unanswered = session->state == NVS_SESSION_AWAITS_INFO || session->state == NVS_SESSION_AWAITS_PONG;
    if (unanswered && now_ns >= session->answer_due_ns)
        lose(session, now_ns, "it does not answer");
}

// ---- Reports

void nvs_session_mark_due(struct nvs_session *session, uint64_t devices) {
    for (size_t i = 0; i < NVS_CONTROL_DEVICES_MAX; i++)
        if (devices >> i & 1)
            session->devices[i].due = true;
}

// Makes the device's subjects and subscribes to its grants. Reports follow on the same connection, so no grant that
// answers one can come before the server knows the subscription. False if there is no room.
static bool subscribe(struct nvs_session *session, size_t index, const char *gpu) {
    struct nvs_session_device *device = &session->devices[index];
    strcpy(device->gpu, gpu);
    snprintf(device->report_subject, sizeof device->report_subject, "nvshare.v1.gpu.%s.alloc.%s.client.%s.report", gpu,
             session->allocation, session->client);
    snprintf(device->grant_subject, sizeof device->grant_subject, "nvshare.v1.gpu.%s.alloc.%s.client.%s.grant", gpu,
             session->allocation, session->client);
    size_t capacity;
    char *room = nvs_connection_room(&session->connection, &capacity);
    size_t frame_bytes = nvs_nats_subscribe(room, capacity, device->grant_subject, (uint32_t)index + 1);
    device->subscribed = nvs_connection_queue(&session->connection, frame_bytes);
    return device->subscribed;
}

// Adds what the control thread knows to what the data plane filled in.
static void complete_report(struct nvs_session *session, size_t index, uint64_t now_ns, nvs_report *report) {
    strcpy(report->client, session->client);
    report->sequence = ++session->devices[index].sequence;
    report->pid = (uint32_t)getpid();
    strcpy(report->name, session->program);
    snprintf(report->version, sizeof report->version, "%s", NVS_VERSION);
    snprintf(report->build, sizeof report->build, "%s", NVS_BUILD);
    report->protocol = NVS_PROTOCOL;
    report->monotonic_ns = now_ns;
    report->unknown_messages = session->unknown_messages;
    report->malformed_messages = session->malformed_messages;
}

// Queues the device's report, if it is in use. False if there is no room: to be tried again.
static bool queue_report(struct nvs_session *session, size_t index, uint64_t now_ns, bool leaving) {
    struct nvs_session_device *device = &session->devices[index];
    nvs_report report = {0};
    if (!session->hooks->fill_report(index, &report))
        return true;
    if (!nvs_is_token(report.gpu)) {
        nvs_log_once(NVS_LOG_ERROR, "the UUID of GPU %zu is no token of a subject: it cannot be shared", index);
        return true;
    }
    if (!device->subscribed && !subscribe(session, index, report.gpu))
        return false;
    complete_report(session, index, now_ns, &report);
    report.leaving |= leaving;

    uint8_t payload[NVS_WIRE_MESSAGE_MAX_BYTES];
    size_t payload_bytes = nvs_report_encode(&report, payload, sizeof payload);
    if (payload_bytes == 0) {
        nvs_log_once(NVS_LOG_ERROR, "the report of GPU %zu cannot be encoded", index);
        return true;
    }
    size_t capacity;
    char *room = nvs_connection_room(&session->connection, &capacity);
    size_t frame_bytes = nvs_nats_publish(room, capacity, device->report_subject, payload, payload_bytes);
    if (!nvs_connection_queue(&session->connection, frame_bytes))
        return false;
    session->paced_ns = (session->paced_ns > now_ns ? session->paced_ns : now_ns) + REPORT_INTERVAL_NS;
    return true;
}

static size_t device_count(const struct nvs_session *session) {
    size_t count = session->hooks->device_count();
    return count < NVS_CONTROL_DEVICES_MAX ? count : NVS_CONTROL_DEVICES_MAX;
}

// When the pace (a generic cell rate algorithm, ITU-T I.371) allows the next report.
static uint64_t report_allowed_ns(const struct nvs_session *session) {
    const uint64_t tolerance_ns = (REPORT_BURST - 1) * REPORT_INTERVAL_NS;
    return session->paced_ns > tolerance_ns ? session->paced_ns - tolerance_ns : 0;
}

// Queues the reports that are due, as far as room and pace allow. Returns when the next is due.
static uint64_t queue_due_reports(struct nvs_session *session, uint64_t now_ns) {
    size_t count = device_count(session);
    size_t first = session->first_device;
    uint64_t next_ns = now_ns + HEARTBEAT_NS;
    for (size_t i = 0; i < count; i++) {
        size_t index = (first + i) % count;
        struct nvs_session_device *device = &session->devices[index];
        if (device->due || now_ns >= device->heartbeat_ns) {
            session->first_device = index;
            if (now_ns < report_allowed_ns(session))
                return report_allowed_ns(session);
            if (!queue_report(session, index, now_ns, false))
                return next_ns; // the socket takes nothing: it will say when it does
            device->due = false;
            device->heartbeat_ns = now_ns + HEARTBEAT_NS;
        } else if (device->heartbeat_ns < next_ns) {
            next_ns = device->heartbeat_ns;
        }
    }
    return next_ns;
}

uint64_t nvs_session_send(struct nvs_session *session, uint64_t now_ns) {
    uint64_t next_ns = session->answer_due_ns;
    int error = session->state == NVS_SESSION_AWAY ? 0 : nvs_connection_flush(&session->connection);
    if (error == 0 && session->state == NVS_SESSION_CONNECTED) {
        next_ns = now_ns + HEARTBEAT_NS;
        if (session->connection.unsent_bytes == 0) { // otherwise reports would grow old in the queue
            next_ns = queue_due_reports(session, now_ns);
            error = nvs_connection_flush(&session->connection);
        }
    }
    if (error != 0)
        lose_by_error(session, now_ns, error);
    return session->state == NVS_SESSION_AWAY ? session->retry_ns : next_ns;
}

struct pollfd nvs_session_poll(const struct nvs_session *session) {
    const struct nvs_connection *connection = &session->connection;
    return (struct pollfd){
        .fd = connection->is_open ? connection->descriptor : -1,
        .events = connection->unsent_bytes > 0 ? POLLIN | POLLOUT : POLLIN,
    };
}

void nvs_session_leave(struct nvs_session *session, uint64_t now_ns) {
    if (session->state == NVS_SESSION_CONNECTED) {
        for (size_t i = 0; i < device_count(session); i++)
            if (!queue_report(session, i, now_ns, true))
                break;
        nvs_connection_flush(&session->connection);
    }
    nvs_connection_close(&session->connection);
    session->state = NVS_SESSION_AWAY;
}
