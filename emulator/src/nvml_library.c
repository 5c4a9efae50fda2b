/* NVML's library, system and handles. */
#include "nvml_library.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "visible.h"

#define DRIVER_VERSION "580.999.01"
#define NVML_VERSION "13.580.999.01"
#define CUDA_VERSION_REPORTED 13000

struct emu_nvml emu_nvml = {.lock = PTHREAD_MUTEX_INITIALIZER};

EMU_EXPORT nvmlReturn_t nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    pthread_mutex_lock(&emu_nvml.lock);
    if (emu_nvml.cards == NULL) {
        emu_nvml.cards = emu_cards_open();
        for (unsigned index = 0; index < EMU_MAX_CARDS; index++) {
            emu_nvml.devices[index].index = index;
        }
    }
    nvmlReturn_t result = emu_nvml.cards == NULL ? NVML_ERROR_DRIVER_NOT_LOADED : NVML_SUCCESS;
    emu_nvml.users += result == NVML_SUCCESS ? 1 : 0;
    pthread_mutex_unlock(&emu_nvml.lock);
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlInit(void) {
    return nvmlInitWithFlags(0);
}

EMU_EXPORT nvmlReturn_t nvmlInit_v2(void) {
    return nvmlInitWithFlags(0);
}

EMU_EXPORT nvmlReturn_t nvmlShutdown(void) {
    pthread_mutex_lock(&emu_nvml.lock);
    nvmlReturn_t result = emu_nvml.users == 0 ? NVML_ERROR_UNINITIALIZED : NVML_SUCCESS;
    emu_nvml.users -= emu_nvml.users == 0 ? 0 : 1;
    pthread_mutex_unlock(&emu_nvml.lock);
    return result;
}

EMU_EXPORT const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS:
        return "Success";
    case NVML_ERROR_UNINITIALIZED:
        return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT:
        return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED:
        return "Not Supported";
    case NVML_ERROR_NO_PERMISSION:
        return "Insufficient Permissions";
    case NVML_ERROR_NOT_FOUND:
        return "Not Found";
    case NVML_ERROR_INSUFFICIENT_SIZE:
        return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED:
        return "Driver Not Loaded";
    case NVML_ERROR_TIMEOUT:
        return "Timeout";
    case NVML_ERROR_GPU_IS_LOST:
        return "GPU is lost";
    case NVML_ERROR_FUNCTION_NOT_FOUND:
        return "Function Not Found";
    case NVML_ERROR_ARGUMENT_VERSION_MISMATCH:
        return "Argument version mismatch";
    default:
        return "Unknown Error";
    }
}

bool emu_nvml_is_ready(void) {
    return __atomic_load_n(&emu_nvml.users, __ATOMIC_ACQUIRE) > 0;
}

nvmlReturn_t emu_nvml_put_text(char *target, unsigned length, const char *text) {
    if (!emu_nvml_is_ready() || target == NULL) {
        return emu_nvml_is_ready() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    if (strlen(text) >= length) {
        return NVML_ERROR_INSUFFICIENT_SIZE;
    }
    strcpy(target, text);
    return NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned length) {
    return emu_nvml_put_text(version, length, DRIVER_VERSION);
}

EMU_EXPORT nvmlReturn_t nvmlSystemGetNVMLVersion(char *version, unsigned length) {
    return emu_nvml_put_text(version, length, NVML_VERSION);
}

EMU_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion(int *version) {
    if (version == NULL) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    *version = CUDA_VERSION_REPORTED;
    return NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlSystemGetCudaDriverVersion_v2(int *version) {
    return nvmlSystemGetCudaDriverVersion(version);
}

EMU_EXPORT nvmlReturn_t nvmlSystemGetProcessName(unsigned pid, char *name, unsigned length) {
    char path[64];
    char line[1024] = "";
    snprintf(path, sizeof path, "/proc/%u/cmdline", pid);
    FILE *file = fopen(path, "re");
    if (file == NULL) {
        return NVML_ERROR_NOT_FOUND;
    }
    size_t count = fread(line, 1, sizeof line - 1, file);
    fclose(file);
    line[count] = '\0';
    return emu_nvml_put_text(name, length, line);
}

/* ---- Handles
 * ---------------------------------------------------------------------------------------------------------------- */

nvmlReturn_t emu_nvml_card(nvmlDevice_t device, const void *target, struct emu_card **card) {
    if (!emu_nvml_is_ready()) {
        return NVML_ERROR_UNINITIALIZED;
    }
    if (target == NULL || device < emu_nvml.devices ||
        device >= emu_nvml.devices + emu_nvml.cards->settings.card_count) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    *card = &emu_nvml.cards->cards[device->index];
    return emu_card_is_lost(*card) ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetCount_v2(unsigned *count) {
    if (!emu_nvml_is_ready() || count == NULL) {
        return emu_nvml_is_ready() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    *count = emu_nvml.cards->settings.card_count;
    return NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetCount(unsigned *count) {
    return nvmlDeviceGetCount_v2(count);
}

static nvmlReturn_t give_handle(unsigned index, nvmlDevice_t *device) {
    *device = &emu_nvml.devices[index];
    return emu_card_is_lost(&emu_nvml.cards->cards[index]) ? NVML_ERROR_GPU_IS_LOST : NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned index, nvmlDevice_t *device) {
    if (!emu_nvml_is_ready()) {
        return NVML_ERROR_UNINITIALIZED;
    }
    if (device == NULL || index >= emu_nvml.cards->settings.card_count) {
        return NVML_ERROR_INVALID_ARGUMENT;
    }
    return give_handle(index, device);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetHandleByIndex(unsigned index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetHandleByUUID(const char *uuid, nvmlDevice_t *device) {
    if (!emu_nvml_is_ready() || uuid == NULL || device == NULL) {
        return emu_nvml_is_ready() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    for (unsigned index = 0; index < emu_nvml.cards->settings.card_count; index++) {
        char text[EMU_UUID_TEXT_BYTES];
        emu_uuid_text(emu_nvml.cards->cards[index].uuid, text);
        if (strcasecmp(text, uuid) == 0) {
            return give_handle(index, device);
        }
    }
    return NVML_ERROR_NOT_FOUND;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId_v2(const char *bus_id, nvmlDevice_t *device) {
    if (!emu_nvml_is_ready() || bus_id == NULL || device == NULL) {
        return emu_nvml_is_ready() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    int card = emu_card_of_bus_id(emu_nvml.cards, bus_id);
    if (card < 0) {
        return NVML_ERROR_NOT_FOUND;
    }
    return give_handle((unsigned)card, device);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetHandleByPciBusId(const char *bus_id, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByPciBusId_v2(bus_id, device);
}
