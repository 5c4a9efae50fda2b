#include "identity.h"

#include "nonce.h"

#include <errno.h>
#include <stdio.h>

void nvs_identity_nonce(char nonce[NVS_NONCE_SIZE]) {
    snprintf(nonce, NVS_NONCE_SIZE, "%016llx", (unsigned long long)nvs_nonce());
}

void nvs_identity_program(char name[NVS_NAME_SIZE]) {
    snprintf(name, NVS_NAME_SIZE, "%s", program_invocation_short_name);
    for (char *c = name; *c != '\0'; c++)
        if (*c < 0x20 || *c > 0x7e)
            *c = '?';
}
