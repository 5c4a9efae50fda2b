// What the environment says to the library (docs/protocol.md, "Environment of a program under nvshare").
#ifndef NVS_SETTINGS_H
#define NVS_SETTINGS_H

#include "log.h"

// What a client does when no plan reached it within without_relay_seconds.
enum nvs_without_relay {
    NVS_WITHOUT_RELAY_WAIT,      // goes on waiting
    NVS_WITHOUT_RELAY_UNMANAGED, // runs as if nvshare were not there
    NVS_WITHOUT_RELAY_FAIL,      // answers CUDA calls with an error
};

// Where the host memory comes from that memory of the card is moved to.
enum nvs_host_source {
    NVS_HOST_AUTO,   // the node arena where its socket is and the process's memory is limited, else its own memory
    NVS_HOST_OWN,    // the process's own memory, within what its cgroup and the host leave it
    NVS_HOST_ARENA,  // the node arena
    NVS_HOST_SPARSE, // own memory whose pages are not made ahead, as much as one likes: for emulated GPUs
};

struct nvs_settings {
    char socket_path[4096];               // NVSHARE_SOCKET
    enum nvs_without_relay without_relay; // NVSHARE_WITHOUT_RELAY
    unsigned without_relay_seconds;       // NVSHARE_WITHOUT_RELAY_SECONDS
    bool managed;                         // NVSHARE_MANAGED
    bool slices;                          // NVSHARE_SLICES
    enum nvs_log_level log_level;         // NVSHARE_LOG
    enum nvs_host_source host_source;     // NVSHARE_HOST_MEMORY
};

// The settings of this process, read from the environment at the first call and kept: a program that changes its
// environment later changes nothing. Sets the log level. A value that cannot be read is warned about and its default
// taken. A set-user-ID program gets the
// defaults. Safe from every thread.
const struct nvs_settings *nvs_settings_read(void);

#endif
