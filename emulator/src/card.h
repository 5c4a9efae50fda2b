/* The cards: state that all processes of one folder share, mapped from one file.
 *
 * A card has a table of clients (processes that have a context on it), its engines, and an account of what was done.
 * One robust process-shared mutex a card guards all of that; it is the innermost lock and no call waits while it is
 * held.
 *
 * Life and death. Each client holds two locks on a file of its own in the folder: a POSIX record lock, which ends with
 * the process, and an open-file-description lock, which ends when the last descriptor is closed, so that forked
 * children that inherited it keep the memory, as children that hold the real driver's files do. The kernel drops both,
 * whatever kills the process and whatever its PID namespace; nothing here trusts a PID.
 */
#ifndef EMU_CARD_H
#define EMU_CARD_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "engine.h"
#include "failure.h"
#include "settings.h"
#include "shared.h"

#define EMU_HISTORY 256
#define EMU_CONTEXT_BYTES (128ULL << 20) /* what a process's first context on a card takes */

enum emu_engine_kind { EMU_COMPUTE, EMU_COPY_IN, EMU_COPY_OUT, EMU_ENGINES };

/* What a client's bytes are: its contexts, linear memory (cuMemAlloc and pools), handles of cuMemCreate, managed memory
 * that is on the card. */
enum emu_use { EMU_USE_CONTEXTS, EMU_USE_LINEAR, EMU_USE_HANDLES, EMU_USE_MANAGED, EMU_USES };

enum emu_client_state { EMU_CLIENT_FREE, EMU_CLIENT_ALIVE, EMU_CLIENT_HELD /* dead; its memory is still held */ };

struct emu_client {
    uint32_t state;
    int32_t pid;
    uint64_t image;      /* the kernel's random bytes for this run of a program: tells an exec apart */
    uint64_t number;     /* unique in the folder; names the client's file */
    uint64_t used_bytes; /* for all uses */
    uint64_t use_bytes[EMU_USES];
    uint64_t peak_bytes;
    uint64_t launches;
    uint64_t joined_ns;
    uint64_t timeslice_us; /* of the compute engine, as it was asked for */
    uint64_t wakes;        /* of the compute engine: something came to it while it had nothing of the client */
};

/* What is known of a client that has left. */
struct emu_departed {
    int32_t pid;
    uint32_t reserved;
    uint64_t number;
    uint64_t peak_bytes;
    uint64_t launches;
    uint64_t wakes;
    uint64_t busy_ns;
    uint64_t copied_in_bytes;
    uint64_t copied_out_bytes;
    uint64_t joined_ns;
    uint64_t left_ns;
};

struct emu_card {
    pthread_mutex_t lock;
    uint8_t uuid[16];
    uint64_t total_bytes;
    uint64_t link_kept_permille; /* settings.h */
    uint64_t used_bytes;         /* of all clients, for all uses */
    uint64_t use_bytes[EMU_USES];
    uint64_t peak_bytes;        /* the most bytes ever in use */
    uint64_t peak_memory_bytes; /* the same without contexts */
    struct emu_failure failure;
    uint64_t checked_ns; /* when the clients' locks were last looked at */
    struct emu_client clients[EMU_MAX_CLIENTS];
    struct emu_engine engines[EMU_ENGINES];
    uint64_t departed_count;
    struct emu_departed departed[EMU_HISTORY];
    uint32_t shared_end; /* entries from here on were never used */
    struct emu_shared shared[EMU_SHARED_ENTRIES];
};

struct emu_cards {
    uint64_t magic;
    uint64_t layout_bytes;
    char boot_id[40];
    struct emu_settings settings;
    uint64_t next_number;
    uint32_t news; /* counts what was put into cards from outside; a futex (failure.h) */
    uint32_t reserved;
    struct emu_card cards[EMU_MAX_CARDS];
};

uint64_t emu_now_ns(void);

/* Map the folder's cards, making them first if need be. Returns NULL, after a line on standard error, if that fails. */
struct emu_cards *emu_cards_open(void);

void emu_card_lock(struct emu_card *card);
void emu_card_unlock(struct emu_card *card);

/* Make this process a client of the card. Returns its slot, or -1 when the table is full or the folder is not writable.
 */
int emu_card_join(struct emu_cards *cards, int index);

/* Bytes more or fewer for a client, under the card's lock; more fails when the card has no room, dead clients' memory
 * counted as free. */
bool emu_card_reserve(struct emu_card *card, int slot, enum emu_use use, uint64_t bytes);
void emu_card_release(struct emu_card *card, int slot, enum emu_use use, uint64_t bytes);
/* Bytes more for a client that another one gave up under the same lock: there is room. */
void emu_card_charge(struct emu_card *card, int slot, enum emu_use use, uint64_t bytes);

/* Under the card's lock: drop the work of dead clients, and the memory of those that nobody holds any more. Looks at
 * the locks only if that was not done in the last `interval_ns`. */
void emu_card_reap(struct emu_card *card, uint64_t now_ns, uint64_t interval_ns);

/* Under the card's lock: work or an event of the client comes to the compute engine at this time. */
void emu_card_count_wake(struct emu_card *card, int slot, uint64_t time_ns);

/* Under the card's lock: simulate all engines up to now_ns. */
void emu_card_advance(struct emu_card *card, uint64_t now_ns);

#endif
