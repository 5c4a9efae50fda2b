// Says its first argument on stderr at each level, at the level of NVSHARE_LOG and twice from one place, then `alive`
// on stdout.
#include "settings.h"

#include <stdio.h>

int main(int argc, char **argv) {
    if (argc != 2)
        return 2;
    (void)nvs_settings_read();
    nvs_log(NVS_LOG_ERROR, "%s", argv[1]);
    nvs_log(NVS_LOG_WARN, "%s", argv[1]);
    nvs_log(NVS_LOG_INFO, "%s", argv[1]);
    nvs_log(NVS_LOG_DEBUG, "%s", argv[1]);
    for (int i = 0; i < 2; i++)
        nvs_log_once(NVS_LOG_ERROR, "once");
    printf("alive\n");
    return 0;
}
