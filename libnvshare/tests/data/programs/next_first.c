// A library that looks behind itself in the order of the loader, as interposers do.
#include <dlfcn.h>

const char *which_library(void);
void *behind_first(const char *symbol);

const char *which_library(void) {
    return "first";
}

// Not inlined, and nothing after it: the loader judges by who called dlsym.
void *behind_first(const char *symbol) {
    void *volatile found = dlsym(RTLD_NEXT, symbol);
    return found;
}
