// The library behind next_first.c. It has a driver's name, too: what an interposer finds behind itself.
const char *which_library(void);
int cuInit(unsigned int flags);

const char *which_library(void) {
    return "second";
}

int cuInit(unsigned int flags) {
    return 1000 + (int)flags;
}
