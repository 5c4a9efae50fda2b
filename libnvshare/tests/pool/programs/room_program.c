// room_program ROOT: prints what nvs_host_room_bytes() says of the host under ROOT, and whether it is limited.
#include "host_room.h"

#include <stdio.h>

int main(int count, char **words) {
    const char *root = count > 1 ? words[1] : "";
    printf("%llu %d\n", (unsigned long long)nvs_host_room_bytes(root), nvs_host_is_limited(root));
    return 0;
}
