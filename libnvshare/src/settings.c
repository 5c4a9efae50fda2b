#include "settings.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_SOCKET "/run/nvshare/client/nvshare.sock"
#define DEFAULT_WITHOUT_RELAY_SECONDS 10u
#define WITHOUT_RELAY_SECONDS_MAX 86400u

// secure_getenv everywhere: /etc/ld.so.preload loads the library into set-user-ID programs too, whose environment is
// their caller's.
static struct nvs_settings settings;
static pthread_once_t read_once = PTHREAD_ONCE_INIT;

// The index of the variable's value among `choices`, or `otherwise` if it is unset, empty or none of them.
static unsigned read_choice(const char *variable, const char *const *choices, unsigned count, unsigned otherwise) {
    const char *value = secure_getenv(variable);
    if (value == NULL || *value == '\0')
        return otherwise;
    for (unsigned i = 0; i < count; i++)
        if (strcmp(value, choices[i]) == 0)
            return i;
    nvs_log(NVS_LOG_WARN, "%s=%s is not one of its values; taking %s (see docs/protocol.md)", variable, value,
            choices[otherwise]);
    return otherwise;
}

static unsigned read_seconds(const char *variable, unsigned otherwise) {
    const char *value = secure_getenv(variable);
    if (value == NULL || *value == '\0')
        return otherwise;
    char *end = NULL;
    errno = 0;
    unsigned long seconds = strtoul(value, &end, 10);
    if (errno == 0 && *value >= '0' && *value <= '9' && *end == '\0' && seconds <= WITHOUT_RELAY_SECONDS_MAX)
        return (unsigned)seconds;
    nvs_log(NVS_LOG_WARN, "%s=%s is not a number of seconds from 0 to %u; taking %u", variable, value,
            WITHOUT_RELAY_SECONDS_MAX, otherwise);
    return otherwise;
}

static void read_environment(void) {
    static const char *const levels[] = {"error", "warn", "info", "debug"};
    static const char *const switches[] = {"0", "1"};
    static const char *const policies[] = {"wait", "unmanaged", "fail"};
    static const char *const sources[] = {"auto", "own", "arena", "sparse"};

    settings.log_level = (enum nvs_log_level)read_choice("NVSHARE_LOG", levels, 4, NVS_LOG_WARN);
    nvs_log_set_level(settings.log_level);
    settings.without_relay =
        (enum nvs_without_relay)read_choice("NVSHARE_WITHOUT_RELAY", policies, 3, NVS_WITHOUT_RELAY_WAIT);
    settings.managed = read_choice("NVSHARE_MANAGED", switches, 2, 0) == 1;
    settings.slices = read_choice("NVSHARE_SLICES", switches, 2, 1) == 1;
    settings.host_source = (enum nvs_host_source)read_choice("NVSHARE_HOST_MEMORY", sources, 4, NVS_HOST_AUTO);
    settings.without_relay_seconds = read_seconds("NVSHARE_WITHOUT_RELAY_SECONDS", DEFAULT_WITHOUT_RELAY_SECONDS);

    const char *path = secure_getenv("NVSHARE_SOCKET");
    if (path == NULL || *path == '\0')
        path = DEFAULT_SOCKET;
    if (strlen(path) >= sizeof settings.socket_path) {
        nvs_log(NVS_LOG_WARN, "NVSHARE_SOCKET is too long for a path; taking %s", DEFAULT_SOCKET);
        path = DEFAULT_SOCKET;
    }
    strcpy(settings.socket_path, path);
}

const struct nvs_settings *nvs_settings_read(void) {
    pthread_once(&read_once, read_environment);
    return &settings;
}
