// A library that looks behind itself in the order of the loader, as interposers do.
#include <dlfcn.h>

const char *which_library(void);
int cuInit(unsigned int flags);
void *behind_first(const char *symbol);

const char *which_library(void) {
    return "first";
}

// An interposer of the driver: given itself as what is behind it, it would call itself for ever.
int cuInit(unsigned int flags) {
    return 500 + (int)flags;
}

// Not inlined, and nothing after it: the loader judges by who called dlsym.
void *behind_first(const char *symbol) {
    void *volatile found = dlsym(RTLD_NEXT, symbol);
    return found;
}
