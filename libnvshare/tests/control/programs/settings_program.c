// Prints the settings: socket path, without relay, its seconds, log level, source of host memory, managed.
#include "settings.h"

#include <stdio.h>

int main(void) {
    const struct nvs_settings *settings = nvs_settings_read();
    printf("%s %d %u %d %d %d\n", settings->socket_path, (int)settings->without_relay, settings->without_relay_seconds,
           (int)settings->log_level, (int)settings->host_source, (int)settings->managed);
    return 0;
}
