/* NVML's events: which cards a set listens to, and what it has heard of each. */
#include <stdlib.h>

#include "nvml_library.h"

#define SUPPORTED_EVENTS nvmlEventTypeXidCriticalError
#define NO_INSTANCE 0xFFFFFFFFU

struct nvmlEventSet_st {
    uint32_t registered;           /* bit c: listens to card c */
    uint64_t heard[EMU_MAX_CARDS]; /* Xid errors of the card that were given out, or came before it was registered */
};

EMU_EXPORT nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set) {
    if (!emu_nvml_is_ready() || set == NULL) {
        return emu_nvml_is_ready() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    *set = calloc(1, sizeof **set);
    return *set == NULL ? NVML_ERROR_MEMORY : NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set) {
    if (!emu_nvml_is_ready()) {
        return NVML_ERROR_UNINITIALIZED;
    }
    free(set);
    return NVML_SUCCESS;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceGetSupportedEventTypes(nvmlDevice_t device, unsigned long long *types) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, types, &card);
    if (result == NVML_SUCCESS) {
        *types = SUPPORTED_EVENTS;
    }
    return result;
}

EMU_EXPORT nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long types, nvmlEventSet_t set) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = emu_nvml_card(device, set, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    if ((types & ~(unsigned long long)SUPPORTED_EVENTS) != 0) {
        return NVML_ERROR_NOT_SUPPORTED;
    }
    if (types != 0 && (set->registered >> device->index & 1) == 0) {
        emu_card_lock(card);
        set->heard[device->index] = card->failure.xid_count;
        emu_card_unlock(card);
        set->registered |= 1U << device->index;
    }
    return NVML_SUCCESS;
}

/* The oldest Xid error of the card that the set has not given out yet. Errors that were overwritten meanwhile are lost,
 * as the driver's queue loses them. */
static bool take_xid(struct emu_card *card, uint64_t *heard, uint32_t *xid) {
    emu_card_lock(card);
    const struct emu_failure *failure = &card->failure;
    if (failure->xid_count > *heard + EMU_XIDS) {
        *heard = failure->xid_count - EMU_XIDS;
    }
    bool found = *heard < failure->xid_count;
    if (found) {
        *xid = failure->xids[*heard % EMU_XIDS];
        (*heard)++;
    }
    emu_card_unlock(card);
    return found;
}

/* What the set has to say now: an event, a lost card, or (NVML_ERROR_TIMEOUT) nothing. */
static nvmlReturn_t look(nvmlEventSet_t set, nvmlEventData_t *data) {
    bool lost = false;
    for (unsigned index = 0; index < EMU_MAX_CARDS; index++) {
        uint32_t xid = 0;
        struct emu_card *card = &emu_nvml.cards->cards[index];
        if ((set->registered >> index & 1) == 0) {
            continue;
        }
        if (take_xid(card, &set->heard[index], &xid)) {
            *data = (nvmlEventData_t){.device = &emu_nvml.devices[index],
                                      .eventType = nvmlEventTypeXidCriticalError,
                                      .eventData = xid,
                                      .gpuInstanceId = NO_INSTANCE,
                                      .computeInstanceId = NO_INSTANCE};
            return NVML_SUCCESS;
        }
        lost = lost || emu_card_is_lost(card);
    }
    return lost ? NVML_ERROR_GPU_IS_LOST : NVML_ERROR_TIMEOUT;
}

EMU_EXPORT nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
    if (!emu_nvml_is_ready() || set == NULL || data == NULL) {
        return emu_nvml_is_ready() ? NVML_ERROR_INVALID_ARGUMENT : NVML_ERROR_UNINITIALIZED;
    }
    uint64_t deadline_ns = emu_now_ns() + timeout_ms * 1000000ULL;
    for (;;) {
        uint32_t seen = emu_cards_news(emu_nvml.cards); /* before the look: what comes after it ends the wait */
        nvmlReturn_t result = look(set, data);
        uint64_t now_ns = emu_now_ns();
        if (result != NVML_ERROR_TIMEOUT || now_ns >= deadline_ns) {
            return result;
        }
        emu_cards_await_news(emu_nvml.cards, seen, deadline_ns - now_ns);
    }
}

EMU_EXPORT nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned timeout_ms) {
    return nvmlEventSetWait_v2(set, data, timeout_ms);
}

/* Of all fields only the one that says what would repair the card. */
EMU_EXPORT nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    struct emu_card *card = NULL;
    nvmlReturn_t result = count < 0 ? NVML_ERROR_INVALID_ARGUMENT : emu_nvml_card(device, values, &card);
    if (result != NVML_SUCCESS) {
        return result;
    }
    emu_card_lock(card);
    uint32_t recovery = card->failure.recovery;
    emu_card_unlock(card);
    for (int index = 0; index < count; index++) {
        bool known = values[index].fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
        values[index].nvmlReturn = known ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
        values[index].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
        values[index].value.uiVal = recovery;
    }
    return NVML_SUCCESS;
}
