// How much more memory of its own this process could have.
//
// The answer is careful: who is told too much is killed by the kernel, with no way to say why. Of the host it counts
// what the kernel calls available, less an eighth of all; of each memory cgroup that it is in (v1 and v2, up to the
// root that it can see) the limit less what is in use, of which the inactive file cache counts half; and what is left
// under RLIMIT_AS and RLIMIT_DATA. The least of all these.
#ifndef NVS_HOST_ROOM_H
#define NVS_HOST_ROOM_H

#include <stdbool.h>
#include <stdint.h>

// The bytes; 0 where the host says nothing. `root` is the folder that proc and sys lie in: "" but in tests. Reads a
// handful of small files: ask once a second, not for each block.
uint64_t nvs_host_room_bytes(const char *root);

// Whether one of its memory cgroups has a limit, as a container's has.
bool nvs_host_is_limited(const char *root);

#endif
