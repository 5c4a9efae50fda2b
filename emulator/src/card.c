#define _GNU_SOURCE
#include "card.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "link.h"

#define CARDS_MAGIC 0x3130756d65756476ULL
#define COPY_SLICE_NS 500000ULL  /* how long one client's copies hold a link before another's turn */
#define PEAK_CHECK_NS 1000000ULL /* who died that long ago is no part of a peak */
#define ALIVE_BYTE 0
#define HELD_BYTE 1

static char folder[4000];

uint64_t emu_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

static uint64_t own_image(void) {
    uint64_t image;
    memcpy(&image, (const void *)getauxval(AT_RANDOM), sizeof image);
    return image;
}

static void read_boot_id(char *text, size_t size) {
    memset(text, 0, size);
    int descriptor = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (descriptor >= 0) {
        ssize_t length = read(descriptor, text, size - 1);
        text[length > 0 ? length : 0] = '\0';
        close(descriptor);
    }
}

static int client_file(uint64_t number, int flags) {
    char path[4096];
    snprintf(path, sizeof path, "%s/client-%llu", folder, (unsigned long long)number);
    return open(path, flags | O_CLOEXEC | O_NOFOLLOW, 0666);
}

static void remove_client_file(uint64_t number) {
    char path[4096];
    snprintf(path, sizeof path, "%s/client-%llu", folder, (unsigned long long)number);
    unlink(path);
}

/* Fill in what is not zero. */
static bool init_cards(struct emu_cards *cards) {
    emu_settings_read(&cards->settings);
    read_boot_id(cards->boot_id, sizeof cards->boot_id);
    for (uint32_t index = 0; index < cards->settings.card_count; index++) {
        struct emu_card *card = &cards->cards[index];
        pthread_mutexattr_t attributes;
        if (pthread_mutexattr_init(&attributes) != 0 ||
            pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED) != 0 ||
            pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST) != 0 ||
            pthread_mutex_init(&card->lock, &attributes) != 0) {
            return false;
        }
        pthread_mutexattr_destroy(&attributes);
        if (getrandom(card->uuid, sizeof card->uuid, 0) != (ssize_t)sizeof card->uuid) {
            return false;
        }
        card->uuid[6] = (uint8_t)((card->uuid[6] & 0x0f) | 0x40);
        card->uuid[8] = (uint8_t)((card->uuid[8] & 0x3f) | 0x80);
        card->total_bytes = cards->settings.card_bytes;
        card->link_kept_permille = cards->settings.link_kept_permille;
        for (int kind = 0; kind < EMU_ENGINES; kind++) {
            emu_engine_init(&card->engines[kind], kind == EMU_COMPUTE ? cards->settings.switch_ns : 0);
        }
    }
    cards->next_number = 1;
    cards->layout_bytes = sizeof *cards;
    cards->magic = CARDS_MAGIC;
    return true;
}

static struct emu_cards *map_cards(int descriptor) {
    char boot_id[sizeof((struct emu_cards *)0)->boot_id];
    struct stat before;
    if (fstat(descriptor, &before) != 0) {
        return NULL;
    }
    bool was_used = before.st_size > 0;
    fchmod(descriptor, 0666); /* users share cards; only the owner of the file may and need do this */
    if (ftruncate(descriptor, sizeof(struct emu_cards)) != 0) {
        return NULL;
    }
    void *mapped = mmap(NULL, sizeof(struct emu_cards), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    if (mapped == MAP_FAILED) {
        return NULL;
    }
    struct emu_cards *cards = mapped;
    read_boot_id(boot_id, sizeof boot_id);
    bool usable = cards->magic == CARDS_MAGIC && cards->layout_bytes == sizeof *cards &&
                  memcmp(cards->boot_id, boot_id, sizeof boot_id) == 0;
    if (!usable && was_used) {
        memset(cards, 0, sizeof *cards);
    }
    if (!usable && !init_cards(cards)) {
        munmap(mapped, sizeof(struct emu_cards));
        return NULL;
    }
    return cards;
}

struct emu_cards *emu_cards_open(void) {
    char path[4096];
    int error = emu_settings_folder(folder, sizeof folder);
    int descriptor = -1;
    struct emu_cards *cards = NULL;
    if (error == 0) {
        snprintf(path, sizeof path, "%s/cards", folder);
        descriptor = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
        if (descriptor >= 0 && flock(descriptor, LOCK_EX) == 0) {
            cards = map_cards(descriptor);
            error = errno;
            flock(descriptor, LOCK_UN); /* the mapping keeps the open file, and with it the lock, beyond the close */
        } else {
            error = errno;
        }
    }
    if (descriptor >= 0) {
        close(descriptor);
    }
    if (cards == NULL) {
        fprintf(stderr,
                "nvshare emulator: cannot use the folder %s: %s; set NVSHARE_EMULATOR_DIR to a writable folder\n",
                folder, strerror(error));
    }
    return cards;
}

void emu_card_lock(struct emu_card *card) {
    if (pthread_mutex_lock(&card->lock) == EOWNERDEAD) {
        for (int kind = 0; kind < EMU_ENGINES; kind++) {
            emu_engine_repair(&card->engines[kind]);
        }
        pthread_mutex_consistent(&card->lock);
    }
}

void emu_card_unlock(struct emu_card *card) {
    pthread_mutex_unlock(&card->lock);
}

/* Take both locks on a new client's file. The descriptor stays open for the life of the process, and of its forked
 * children: it is what tells the others that the client's memory is held. */
static bool hold_client_file(uint64_t number) {
    int descriptor = client_file(number, O_RDWR | O_CREAT | O_EXCL);
    if (descriptor < 0) {
        return false;
    }
    struct flock alive = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = ALIVE_BYTE, .l_len = 1};
    struct flock held = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = HELD_BYTE, .l_len = 1};
    fchmod(descriptor, 0666); /* processes of other users look at it too */
    if (fcntl(descriptor, F_SETLK, &alive) != 0 || fcntl(descriptor, F_OFD_SETLK, &held) != 0) {
        close(descriptor);
        remove_client_file(number);
        return false;
    }
    return true;
}

int emu_card_join(struct emu_cards *cards, int index) {
    struct emu_card *card = &cards->cards[index];
    uint64_t number = __atomic_fetch_add(&cards->next_number, 1, __ATOMIC_RELAXED);
    if (!hold_client_file(number)) {
        return -1;
    }
    uint64_t now_ns = emu_now_ns();
    int slot = -1;
    emu_card_lock(card);
    emu_card_reap(card, now_ns, 0);
    for (int candidate = 0; candidate < EMU_MAX_CLIENTS && slot < 0; candidate++) {
        if (card->clients[candidate].state == EMU_CLIENT_FREE) {
            slot = candidate;
        }
    }
    if (slot >= 0) {
        card->clients[slot] = (struct emu_client){.pid = (int32_t)getpid(),
                                                  .image = own_image(),
                                                  .number = number,
                                                  .joined_ns = now_ns,
                                                  .timeslice_us = cards->settings.slice_ns / 1000};
        for (int kind = 0; kind < EMU_ENGINES; kind++) {
            uint64_t slice_ns = kind == EMU_COMPUTE ? cards->settings.slice_ns : COPY_SLICE_NS;
            emu_engine_reset_client(&card->engines[kind], slot, slice_ns, (uint64_t)getpid());
        }
        card->clients[slot].state = EMU_CLIENT_ALIVE;
    }
    emu_card_unlock(card);
    return slot;
}

static uint64_t maximum(uint64_t left, uint64_t right) {
    return left > right ? left : right;
}

void emu_card_charge(struct emu_card *card, int slot, enum emu_use use, uint64_t bytes) {
    struct emu_client *client = &card->clients[slot];
    client->used_bytes += bytes;
    client->use_bytes[use] += bytes;
    client->peak_bytes = maximum(client->peak_bytes, client->used_bytes);
    card->used_bytes += bytes;
    card->use_bytes[use] += bytes;
    card->peak_bytes = maximum(card->peak_bytes, card->used_bytes);
    card->peak_memory_bytes = maximum(card->peak_memory_bytes, card->used_bytes - card->use_bytes[EMU_USE_CONTEXTS]);
}

bool emu_card_reserve(struct emu_card *card, int slot, enum emu_use use, uint64_t bytes) {
    /* Who died has nothing any more: look before the card seems full, or fuller than it ever was. */
    if (card->used_bytes + bytes > card->peak_bytes ||
        card->used_bytes - card->use_bytes[EMU_USE_CONTEXTS] + bytes > card->peak_memory_bytes) {
        emu_card_reap(card, emu_now_ns(), bytes > card->total_bytes - card->used_bytes ? 0 : PEAK_CHECK_NS);
    }
    if (bytes > card->total_bytes - card->used_bytes) {
        return false;
    }
    emu_card_charge(card, slot, use, bytes);
    return true;
}

void emu_card_release(struct emu_card *card, int slot, enum emu_use use, uint64_t bytes) {
    struct emu_client *client = &card->clients[slot];
    /* Less than was taken after its file was removed. */
    uint64_t freed_bytes = bytes < client->use_bytes[use] ? bytes : client->use_bytes[use];
    client->used_bytes -= freed_bytes;
    client->use_bytes[use] -= freed_bytes;
    card->used_bytes -= freed_bytes;
    card->use_bytes[use] -= freed_bytes;
}

/* Whether another process holds a lock on this byte of the file. */
static bool is_locked(int descriptor, off_t byte) {
    struct flock probe = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = byte, .l_len = 1};
    return fcntl(descriptor, F_OFD_GETLK, &probe) == 0 && probe.l_type != F_UNLCK;
}

static void bury(struct emu_card *card, int slot, uint64_t now_ns) {
    struct emu_client *client = &card->clients[slot];
    emu_shared_forget(card, slot);
    card->departed[card->departed_count % EMU_HISTORY] = (struct emu_departed){
        .pid = client->pid,
        .number = client->number,
        .peak_bytes = client->peak_bytes,
        .launches = client->launches,
        .wakes = client->wakes,
        .busy_ns = card->engines[EMU_COMPUTE].queues[slot].busy_ns,
        .copied_in_bytes = card->engines[EMU_COPY_IN].queues[slot].bytes,
        .copied_out_bytes = card->engines[EMU_COPY_OUT].queues[slot].bytes,
        .joined_ns = client->joined_ns,
        .left_ns = now_ns,
    };
    card->departed_count++;
    for (enum emu_use use = 0; use < EMU_USES; use++) {
        emu_card_release(card, slot, use, client->use_bytes[use]);
    }
    client->state = EMU_CLIENT_FREE;
    remove_client_file(client->number);
}

void emu_card_reap(struct emu_card *card, uint64_t now_ns, uint64_t interval_ns) {
    if (interval_ns != 0 && now_ns < card->checked_ns + interval_ns) {
        return;
    }
    card->checked_ns = now_ns;
    uint64_t image = own_image();
    int32_t pid = (int32_t)getpid();
    for (int slot = 0; slot < EMU_MAX_CLIENTS; slot++) {
        struct emu_client *client = &card->clients[slot];
        if (client->state == EMU_CLIENT_FREE) {
            continue;
        }
        if (client->state == EMU_CLIENT_ALIVE && client->pid == pid && client->image == image) {
            continue; /* Closing a second descriptor of its own file would drop this process's own lock. */
        }
        int descriptor = client_file(client->number, O_RDWR);
        bool alive = descriptor >= 0 && is_locked(descriptor, ALIVE_BYTE);
        bool held = descriptor >= 0 && is_locked(descriptor, HELD_BYTE);
        if (!alive && client->state == EMU_CLIENT_ALIVE) {
            client->state = EMU_CLIENT_HELD;
            for (int kind = 0; kind < EMU_ENGINES; kind++) {
                emu_engine_drop(&card->engines[kind], slot);
            }
        }
        if (!held && !alive) {
            bury(card, slot, now_ns);
        }
        if (descriptor >= 0) {
            close(descriptor);
        }
    }
}

void emu_card_count_wake(struct emu_card *card, int slot, uint64_t time_ns) {
    struct emu_engine *engine = &card->engines[EMU_COMPUTE];
    emu_engine_advance(engine, time_ns);
    if ((engine->pending_mask >> slot & 1) == 0) {
        card->clients[slot].wakes++;
    }
}

void emu_card_advance(struct emu_card *card, uint64_t now_ns) {
    emu_engine_advance(&card->engines[EMU_COMPUTE], now_ns);
    emu_link_advance(&card->engines[EMU_COPY_IN], &card->engines[EMU_COPY_OUT], now_ns, card->link_kept_permille);
}
