// Does what its standard input says with the pool, one word and its numbers a line, and answers each with a line.
//
//   make I           makes context I current               -> ok
//   end I            destroys it as the wrappers do         -> ok
//   prepare I BYTES  (I: a context, or -1: none)            -> ok
//   take I COUNT     as the next group of slots             -> slots ADDRESS…, or: refused REASON
//   give GROUP                                              -> ok
//   fill GROUP BYTE, holds GROUP BYTE                       -> ok, or yes / no
//   pinned GROUP     every slot is registered               -> yes / no
//   present GROUP    every page is there                    -> yes / no
//   room, ready, reserve BYTES                              -> bytes
//   told             how often it was told that what is wished is ready -> times
//   limit BYTES      this process may have so much more     -> ok
//   refuse 0|1       the driver refuses to register         -> ok
//   fork             what the child says                    -> ready BYTES taken 0|1
//   leave                                                   -> ok
#include "driver_table.h"
#include "host_pool.h"
#include "settings.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define CONTEXTS 4
#define GROUPS 64
#define SLOTS 256

static CUcontext contexts[CONTEXTS];
static struct {
    size_t count;
    void *slots[SLOTS];
} groups[GROUPS];
static size_t group_count;

static CUcontext context_of(long index) {
    return index < 0 ? NULL : contexts[index];
}

static void end_context(long index) {
    nvs_pool_context_hold();
    CUresult result = cuCtxDestroy_v2(contexts[index]);
    nvs_pool_context_release(contexts[index], result == CUDA_SUCCESS);
    contexts[index] = NULL;
}

static void take(long context, size_t count) {
    char reason[NVS_POOL_REASON_SIZE] = "";
    if (!nvs_pool_take(context_of(context), count, groups[group_count].slots, reason)) {
        printf("refused %s\n", reason);
        return;
    }
    groups[group_count].count = count;
    printf("slots");
    for (size_t i = 0; i < count; i++)
        printf(" %" PRIuPTR, (uintptr_t)groups[group_count].slots[i]);
    printf("\n");
    group_count++;
}

static bool is_pinned(void *slot) {
    unsigned flags;
    return cuMemHostGetFlags(&flags, slot) == CUDA_SUCCESS &&
           cuMemHostGetFlags(&flags, (char *)slot + NVS_POOL_SLOT_BYTES - 1) == CUDA_SUCCESS;
}

static bool is_present(void *slot) {
    static unsigned char pages[NVS_POOL_SLOT_BYTES / 4096];
    if (mincore(slot, NVS_POOL_SLOT_BYTES, pages) != 0)
        return false;
    for (size_t i = 0; i < sizeof pages; i++)
        if ((pages[i] & 1) == 0)
            return false;
    return true;
}

static bool each(size_t group, bool (*holds)(void *slot)) {
    for (size_t i = 0; i < groups[group].count; i++)
        if (!holds(groups[group].slots[i]))
            return false;
    return true;
}

static atomic_int times_told;

static void count_told(void) {
    atomic_fetch_add(&times_told, 1);
}

static unsigned char wanted;

static bool holds_wanted(void *slot) {
    const unsigned char *bytes = slot;
    return bytes[0] == wanted && memcmp(bytes, bytes + 1, NVS_POOL_SLOT_BYTES - 1) == 0;
}

static bool fill_wanted(void *slot) {
    memset(slot, wanted, NVS_POOL_SLOT_BYTES);
    return true;
}

static void limit(uint64_t bytes) {
    struct rlimit data;
    unsigned long long now_kib = 0;
    char line[256];
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmData: %llu", &now_kib) == 1)
            break;
    fclose(status);
    getrlimit(RLIMIT_DATA, &data);
    data.rlim_cur = now_kib * 1024 + bytes;
    setrlimit(RLIMIT_DATA, &data);
}

static void ask_child(void) {
    int channel[2];
    if (pipe(channel) != 0)
        abort();
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        char reason[NVS_POOL_REASON_SIZE];
        void *slot = NULL;
        uint64_t ready_bytes = nvs_pool_ready_bytes();
        bool taken = nvs_pool_take(NULL, 1, &slot, reason);
        if (taken)
            memset(slot, 1, NVS_POOL_SLOT_BYTES);
        dprintf(channel[1], "ready %" PRIu64 " taken %d\n", ready_bytes, taken);
        _exit(0);
    }
    close(channel[1]);
    char answer[64];
    ssize_t length = read(channel[0], answer, sizeof answer - 1);
    close(channel[0]);
    waitpid(child, NULL, 0);
    printf("%.*s", length > 0 ? (int)length : 6, length > 0 ? answer : "died.\n");
}

static void obey(const char *word, long first, uint64_t second) {
    if (strcmp(word, "take") == 0) {
        take(first, (size_t)second);
    } else if (strcmp(word, "pinned") == 0) {
        printf("%s\n", each((size_t)first, is_pinned) ? "yes" : "no");
    } else if (strcmp(word, "present") == 0) {
        printf("%s\n", each((size_t)first, is_present) ? "yes" : "no");
    } else if (strcmp(word, "holds") == 0) {
        wanted = (unsigned char)second;
        printf("%s\n", each((size_t)first, holds_wanted) ? "yes" : "no");
    } else if (strcmp(word, "room") == 0) {
        printf("%" PRIu64 "\n", nvs_pool_room_bytes());
    } else if (strcmp(word, "ready") == 0) {
        printf("%" PRIu64 "\n", nvs_pool_ready_bytes());
    } else if (strcmp(word, "told") == 0) {
        printf("%d\n", atomic_load(&times_told));
    } else if (strcmp(word, "reserve") == 0) {
        printf("%" PRIu64 "\n", nvs_pool_reserve((uint64_t)first));
    } else if (strcmp(word, "fork") == 0) {
        ask_child();
    } else {
        if (strcmp(word, "make") == 0) {
            if (cuCtxCreate_v2(&contexts[first], 0, 0) != CUDA_SUCCESS)
                abort();
        } else if (strcmp(word, "end") == 0) {
            end_context(first);
        } else if (strcmp(word, "prepare") == 0) {
            nvs_pool_prepare(context_of(first), second);
        } else if (strcmp(word, "give") == 0) {
            nvs_pool_give(groups[first].count, groups[first].slots);
        } else if (strcmp(word, "fill") == 0) {
            wanted = (unsigned char)second;
            each((size_t)first, fill_wanted);
        } else if (strcmp(word, "limit") == 0) {
            limit((uint64_t)first);
        } else if (strcmp(word, "refuse") == 0) {
            register_is_refused = first != 0;
        } else if (strcmp(word, "leave") == 0) {
            nvs_pool_leave();
        } else {
            abort();
        }
        printf("ok\n");
    }
    fflush(stdout);
}

int main(void) {
    (void)nvs_settings_read();
    fill_driver_table();
    pthread_atfork(nvs_pool_atfork_prepare, nvs_pool_atfork_parent, nvs_pool_atfork_child);
    nvs_pool_start(count_told);
    char line[256], word[32];
    while (fgets(line, sizeof line, stdin) != NULL) {
        long first = 0;
        unsigned long long second = 0;
        if (sscanf(line, "%31s %ld %llu", word, &first, &second) >= 1)
            obey(word, first, second);
    }
    return 0;
}
