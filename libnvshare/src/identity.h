// Who this process is, as far as it knows itself.
#ifndef NVS_IDENTITY_H
#define NVS_IDENTITY_H

#include "wire.h"

#ifndef NVS_VERSION
#error "define NVS_VERSION and NVS_BUILD, strings: the library's version and the build of the tree it was made from"
#endif

#define NVS_NONCE_SIZE 17

// 16 lower-case hexadecimal digits that no other life of a process has: exec and fork keep the pid, or reuse it, but
// not these.
void nvs_identity_nonce(char nonce[NVS_NONCE_SIZE]);

// The program's name for people; what is not printable ASCII in it becomes '?'.
void nvs_identity_program(char name[NVS_NAME_SIZE]);

#endif
