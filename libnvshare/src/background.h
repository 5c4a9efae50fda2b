// Threads of the library's own.
#ifndef NVS_BACKGROUND_H
#define NVS_BACKGROUND_H

// Starts a detached thread on a small stack with all signals blocked: the program's handlers must not run on it.
// Returns 0 or an errno value.
int nvs_background_start(void *(*run)(void *), void *argument);

#endif
