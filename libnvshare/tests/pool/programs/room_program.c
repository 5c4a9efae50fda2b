// room_program ROOT: prints what nvs_host_room_bytes() says of the host under ROOT.
#include "host_room.h"

#include <stdio.h>

int main(int count, char **words) {
    printf("%llu\n", (unsigned long long)nvs_host_room_bytes(count > 1 ? words[1] : ""));
    return 0;
}
