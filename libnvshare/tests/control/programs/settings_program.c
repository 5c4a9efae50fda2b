// Prints the settings: socket path, without relay, its seconds, log level.
#include "settings.h"

#include <stdio.h>

int main(void) {
    const struct nvs_settings *settings = nvs_settings_read();
    printf("%s %d %u %d\n", settings->socket_path, (int)settings->without_relay, settings->without_relay_seconds,
           (int)settings->log_level);
    return 0;
}
