// The exporter's thread: it hands exported blocks over, and keeps them counted while others have them mapped.
//
// Each importer has a connection, which it closes when it has closed the memory. None is waited for: who says nothing
// for NVS_IPC_ANSWER_SECONDS is dropped. Beyond NVS_IPC_CONNECTIONS the oldest is dropped, and what it has mapped is
// counted no longer once it is freed here.
#ifndef NVS_IPC_SERVE_H
#define NVS_IPC_SERVE_H

#include "ipc.h"

#define NVS_IPC_CONNECTIONS 256u

// Starts the thread on a socket that listens, once in a process. Who knows the secret (copied) is answered. False: no
// thread can be had.
bool nvs_ipc_serve(int listener, const uint8_t secret[NVS_IPC_SECRET_BYTES]);

#endif
