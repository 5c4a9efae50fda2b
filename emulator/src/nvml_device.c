/* NVML's devices: what they are, their memory, utilisation and processes, by versioned and unversioned names. */
#include <stdio.h>
#include <string.h>

#include "nvml_library.h"
#include "visible.h"

#define NO_INSTANCE 0xFFFFFFFFU

/* ---- What a device is
 * ---------------------------------------------------------------------------------------------------------- */

EMU_EXPORT nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned length) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, name, &card);
    return result != NVML_SUCCESS ? result : emu_nvml_put_text(name, length, "NVIDIA Emulated GPU");
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned length) {
    struct emu_card *card = NULL;
    char text[EMU_UUID_TEXT_BYTES];
    nvmlReturn_t result = emu_nvml_card(device, uuid, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    emu_uuid_text(card->uuid, text);
    return emu_nvml_put_text(uuid, length, text);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetIndex(nvmlDevice_t device, unsigned *index) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, index, &card);
    if (result == NVML_SUCCESS) {
        *index = device->index;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMinorNumber(nvmlDevice_t device, unsigned *number) {
    return nvmlDeviceGetIndex(device, number);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetBrand(nvmlDevice_t device, nvmlBrandType_t *brand) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, brand, &card);
    if (result == NVML_SUCCESS) {
        *brand = NVML_BRAND_NVIDIA;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = minor == NULL ? NVML_ERROR_INVALID_ARGUMENT : emu_nvml_card(device, major, &card);
    if (result == NVML_SUCCESS) {
        *major = 9;
        *minor = 0;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetComputeMode(nvmlDevice_t device, nvmlComputeMode_t *mode) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, mode, &card);
    if (result == NVML_SUCCESS) {
        *mode = NVML_COMPUTEMODE_DEFAULT;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v3(nvmlDevice_t device, nvmlPciInfo_t *info) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, info, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    memset(info, 0, sizeof *info);
    info->bus = device->index + 1;
    info->pciDeviceId = 0x233510DE; /* an H200's */
    snprintf(info->busId, sizeof info->busId, "00000000:%02X:00.0", info->bus);
    snprintf(info->busIdLegacy, sizeof info->busIdLegacy, "0000:%02X:00.0", info->bus);
    return NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetPciInfo_v2(nvmlDevice_t device, nvmlPciInfo_t *info) {
    return nvmlDeviceGetPciInfo_v3(device, info);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned *current, unsigned *pending) {
    (void)device;
    (void)current;
    (void)pending;
    return emu_nvml_is_ready() ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_UNINITIALIZED;
}

/* ---- What a device does
 * --------------------------------------------------------------------------------------------------------- */

static void read_memory(struct emu_card *card, unsigned long long *total, unsigned long long *used) {
    emu_card_lock(card);
    emu_card_reap(card, emu_now_ns(), 0);
    *total = card->total_bytes;
    *used = card->used_bytes;
    emu_card_unlock(card);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, memory, &card);
    if (result == NVML_SUCCESS) {
        read_memory(card, &memory->total, &memory->used);
        memory->free = memory->total - memory->used;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, memory, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    if (memory->version != nvmlMemory_v2) {
        return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
    }
    read_memory(card, &memory->total, &memory->used);
    memory->reserved = 0;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, utilization, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    emu_card_lock(card);
    uint64_t now_ns = emu_now_ns();
    emu_card_reap(card, now_ns, 0);
    emu_card_advance(card, now_ns);
    uint64_t busy_ns = emu_engine_busy_last_second(&card->engines[EMU_COMPUTE], now_ns);
    emu_card_unlock(card);
    utilization->gpu = (unsigned)((busy_ns + 5000000) / 10000000);
    utilization->memory = utilization->gpu; /* the emulated kernels are bound by memory */
    return NVML_SUCCESS;
}

struct process {
    unsigned pid;
    unsigned long long used_bytes;
};

/* The processes that have memory on the card: those that forked children hold it for as well. */
static nvmlReturn_t list_processes(nvmlDevice_t device, unsigned *count, struct process found[EMU_MAX_CLIENTS],
                                   unsigned *found_count) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, count, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    *found_count = 0;
    emu_card_lock(card);
    emu_card_reap(card, emu_now_ns(), 0);
    for (int slot = 0; slot < EMU_MAX_CLIENTS; slot++) {
        const struct emu_client *client = &card->clients[slot];
        if (client->state != EMU_CLIENT_FREE && client->used_bytes > 0) {
            found[(*found_count)++] = (struct process){.pid = (unsigned)client->pid, .used_bytes = client->used_bytes};
        }
    }
    emu_card_unlock(card);
    result = *count < *found_count ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS;
    *count = *found_count;
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned *count,
                                                             nvmlProcessInfo_v1_t *infos) {
    struct process found[EMU_MAX_CLIENTS];
    unsigned found_count = 0;
    nvmlReturn_t result = list_processes(device, count, found, &found_count);
    for (unsigned index = 0; result == NVML_SUCCESS && index < found_count; index++) {
        infos[index] = (nvmlProcessInfo_v1_t){.pid = found[index].pid, .usedGpuMemory = found[index].used_bytes};
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count,
                                                                nvmlProcessInfo_v2_t *infos) {
    struct process found[EMU_MAX_CLIENTS];
    unsigned found_count = 0;
    nvmlReturn_t result = list_processes(device, count, found, &found_count);
    for (unsigned index = 0; result == NVML_SUCCESS && index < found_count; index++) {
        infos[index] = (nvmlProcessInfo_v2_t){.pid = found[index].pid,
                                              .usedGpuMemory = found[index].used_bytes,
                                              .gpuInstanceId = NO_INSTANCE,
                                              .computeInstanceId = NO_INSTANCE};
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                                nvmlProcessInfo_t *infos) {
    return nvmlDeviceGetComputeRunningProcesses_v2(device, count, infos);
}

/* There are no graphics and no MPS clients. */
static nvmlReturn_t no_processes(nvmlDevice_t device, unsigned *count) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, count, &card);
    if (result == NVML_SUCCESS) {
        *count = 0;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned *count,
                                                              nvmlProcessInfo_v1_t *infos) {
    (void)infos;
    return no_processes(device, count);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned *count,
                                                                 nvmlProcessInfo_v2_t *infos) {
    (void)infos;
    return no_processes(device, count);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                                 nvmlProcessInfo_t *infos) {
    (void)infos;
    return no_processes(device, count);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned *count,
                                                                nvmlProcessInfo_v1_t *infos) {
    (void)infos;
    return no_processes(device, count);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned *count,
                                                                   nvmlProcessInfo_v2_t *infos) {
    (void)infos;
    return no_processes(device, count);
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned *count,
                                                                   nvmlProcessInfo_t *infos) {
    (void)infos;
    return no_processes(device, count);
}
