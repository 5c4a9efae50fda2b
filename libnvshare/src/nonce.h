// A number that no other life of a process has.
#ifndef NVS_NONCE_H
#define NVS_NONCE_H

#include <stdint.h>

// Exec and fork keep the pid, or reuse it, but not this. Never 0. It is no secret.
uint64_t nvs_nonce(void);

#endif
