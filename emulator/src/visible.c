#include "visible.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void emu_uuid_text(const uint8_t uuid[16], char text[EMU_UUID_TEXT_BYTES]) {
    size_t length = (size_t)snprintf(text, EMU_UUID_TEXT_BYTES, "GPU-");
    for (int index = 0; index < 16; index++) {
        bool dash = index == 4 || index == 6 || index == 8 || index == 10;
        length += (size_t)snprintf(text + length, EMU_UUID_TEXT_BYTES - length, "%s%02x", dash ? "-" : "", uuid[index]);
    }
}

static int find_card(const struct emu_cards *cards, const char *name, size_t length) {
    int count = (int)cards->settings.card_count;
    if (length > 4 && strncmp(name, "GPU-", 4) == 0) {
        int found = -1;
        for (int index = 0; index < count; index++) {
            char text[EMU_UUID_TEXT_BYTES];
            emu_uuid_text(cards->cards[index].uuid, text);
            if (length < sizeof text && strncmp(text, name, length) == 0) {
                if (found >= 0) {
                    return -1; /* the beginning of more than one */
                }
                found = index;
            }
        }
        return found;
    }
    char *end = NULL;
    long index = strtol(name, &end, 10);
    return end == name || (size_t)(end - name) != length || index < 0 || index >= count ? -1 : (int)index;
}

int emu_visible_cards(const struct emu_cards *cards, const char *setting, int order[EMU_MAX_CARDS]) {
    int count = 0;
    if (setting == NULL) {
        for (; count < (int)cards->settings.card_count; count++) {
            order[count] = count;
        }
        return count;
    }
    while (*setting != '\0' && count < EMU_MAX_CARDS) {
        size_t length = strcspn(setting, ",");
        int card = find_card(cards, setting, length);
        for (int index = 0; index < count; index++) {
            if (order[index] == card) {
                return 0; /* the driver refuses a list that names one twice */
            }
        }
        if (card < 0) {
            break;
        }
        order[count++] = card;
        setting += length;
        setting += *setting == ',' ? 1 : 0;
    }
    return count;
}

int emu_card_of_bus_id(const struct emu_cards *cards, const char *text) {
    char *end = NULL;
    unsigned long domain = strtoul(text, &end, 16);
    if (end == text || *end != ':' || domain != 0) {
        return -1;
    }
    const char *rest = end + 1;
    unsigned long bus = strtoul(rest, &end, 16);
    bool known = end != rest && bus >= 1 && bus <= cards->settings.card_count;
    return known ? (int)bus - 1 : -1;
}
