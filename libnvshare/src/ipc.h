// Memory that processes of one user share by the handles of cuIpcGetMemHandle.
//
// The driver makes such handles for its own linear memory only, so those of the arena are ours: they name the process
// that exports, by a secret of its own, and the block. A thread of the exporter (ipc_serve.h), started at the first
// export, listens on an abstract unix socket and hands the descriptors of the block's extents to processes of the same
// user that know the secret; the importer maps them and answers questions about the addresses as the driver would, and
// keeps the connection until it has closed them. An exported block stays on the card until it is freed and nobody has
// it mapped. Imported bytes are the exporter's, and not counted again. Handles of others pass on to the driver.
#ifndef NVS_IPC_H
#define NVS_IPC_H

#include "device.h"

#define NVS_IPC_MAGIC UINT64_C(0x3143504952565350) // "PSVRIPC1"
#define NVS_IPC_SECRET_BYTES 16
#define NVS_IPC_EXTENTS_MAX 65536u
#define NVS_IPC_ANSWER_SECONDS 10

// What a handle of ours holds: it fills a CUipcMemHandle.
struct nvs_ipc_handle {
    uint64_t magic;
    uint64_t exporter; // names its socket
    uint8_t secret[NVS_IPC_SECRET_BYTES];
    uint64_t address, bytes, identity; // of the block
    uint32_t device;
    uint32_t reserved;
};
_Static_assert(sizeof(struct nvs_ipc_handle) == sizeof(CUipcMemHandle), "a handle has exactly this room");

// The exporter's answer to a handle; after it, for each extent, its bytes with its descriptor.
struct nvs_ipc_answer {
    uint64_t offset_bytes; // of the block in the first extent
    uint64_t bytes;        // of the block, as its program asked
    uint32_t extents;      // 0: there is no such block
    uint32_t reserved;
};

// The name of an exporter's socket; returns the length of the address.
struct sockaddr_un;
unsigned nvs_ipc_socket(uint64_t exporter, struct sockaddr_un *address);

// True if who is at the other end of the connection is of this process's user.
bool nvs_ipc_same_user(int connection);

// True if the exporter is this process.
bool nvs_ipc_is_own(uint64_t exporter);

// What is known of imported memory. False: the address is none. Quick while nothing is imported.
bool nvs_ipc_facts(CUdeviceptr address, struct nvs_device **device, struct nvs_block_facts *facts);

// A context has ended, and what was imported in it.
void nvs_ipc_context_ended(CUcontext context);

// After a fork: nothing is exported or imported.
void nvs_ipc_atfork_child(void);
void nvs_ipc_export_atfork_child(void);

#endif
