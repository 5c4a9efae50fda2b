#include "engine.h"

#include <string.h>

#define FORECAST_STEPS 512

static uint64_t minimum(uint64_t left, uint64_t right) {
    return left < right ? left : right;
}

static const struct emu_item *head_of(const struct emu_queue *queue) {
    return &queue->items[queue->completed % EMU_RING_ITEMS];
}

static bool is_pending(const struct emu_engine *engine, int client) {
    return (engine->pending_mask >> client) & 1;
}

void emu_engine_init(struct emu_engine *engine, uint64_t switch_ns) {
    memset(engine, 0, sizeof *engine);
    engine->switch_ns = switch_ns;
    engine->current = -1;
}

void emu_engine_reset_client(struct emu_engine *engine, int client, uint64_t slice_ns, uint64_t owner) {
    struct emu_queue *queue = &engine->queues[client];
    engine->pending_mask &= ~(1ULL << client);
    queue->submitted = 0;
    queue->completed = 0;
    queue->busy_ns = 0;
    queue->bytes = 0;
    queue->owner = owner;
    emu_engine_set_slice(engine, client, slice_ns);
}

void emu_engine_drop(struct emu_engine *engine, int client) {
    engine->pending_mask &= ~(1ULL << client);
    engine->queues[client].submitted = engine->queues[client].completed;
}

void emu_engine_repair(struct emu_engine *engine) {
    engine->pending_mask = 0;
    for (int client = 0; client < EMU_MAX_CLIENTS; client++) {
        struct emu_queue *queue = &engine->queues[client];
        if (queue->completed > queue->submitted || queue->submitted - queue->completed > EMU_RING_ITEMS) {
            queue->completed = queue->submitted;
        }
        if (queue->completed != queue->submitted) {
            engine->pending_mask |= 1ULL << client;
        }
        if (queue->slice_ns < EMU_SLICE_FLOOR_NS) {
            queue->slice_ns = EMU_SLICE_FLOOR_NS;
        }
    }
}

void emu_engine_set_slice(struct emu_engine *engine, int client, uint64_t slice_ns) {
    uint64_t floored_ns = slice_ns < EMU_SLICE_FLOOR_NS ? EMU_SLICE_FLOOR_NS : slice_ns;
    engine->queues[client].slice_ns = floored_ns;
    if (engine->current == client) {
        engine->slice_left_ns = minimum(engine->slice_left_ns, floored_ns);
    }
}

bool emu_engine_submit(struct emu_engine *engine, int client, uint64_t ready_ns, uint64_t duration_ns, uint64_t bytes,
                       uint64_t *number) {
    struct emu_queue *queue = &engine->queues[client];
    if (queue->submitted - queue->completed >= EMU_RING_ITEMS) {
        return false;
    }
    struct emu_item *item = &queue->items[queue->submitted % EMU_RING_ITEMS];
    *item =
        (struct emu_item){.ready_ns = ready_ns, .remaining_ns = minimum(duration_ns, EMU_LONGEST_NS), .bytes = bytes};
    *number = queue->submitted;
    queue->submitted++;
    engine->pending_mask |= 1ULL << client;
    return true;
}

/* The earliest time at which any pending client but `except` may start; EMU_NEVER without one. */
static uint64_t earliest_ready(const struct emu_engine *engine, int except) {
    uint64_t earliest_ns = EMU_NEVER;
    uint64_t mask = engine->pending_mask;
    if (except >= 0) {
        mask &= ~(1ULL << except);
    }
    while (mask != 0) {
        int client = __builtin_ctzll(mask);
        mask &= mask - 1;
        earliest_ns = minimum(earliest_ns, head_of(&engine->queues[client])->ready_ns);
    }
    return earliest_ns;
}

/* The next client in turn, after the current one, that may start now; the current one comes last. -1 without one. */
static int next_in_turn(const struct emu_engine *engine) {
    for (int step = 1; step <= EMU_MAX_CLIENTS; step++) {
        int client = (engine->current + step) % EMU_MAX_CLIENTS;
        if (is_pending(engine, client) && head_of(&engine->queues[client])->ready_ns <= engine->clock_ns) {
            return client;
        }
    }
    return -1;
}

static void count_busy(struct emu_engine *engine, uint64_t duration_ns) {
    uint64_t time_ns = engine->clock_ns;
    engine->busy_ns += duration_ns;
    while (duration_ns > 0) {
        uint64_t number = time_ns / EMU_BUSY_BUCKET_NS;
        uint64_t part_ns = minimum(duration_ns, (number + 1) * EMU_BUSY_BUCKET_NS - time_ns);
        uint64_t slot = number % EMU_BUSY_BUCKETS;
        if (engine->bucket_number[slot] != number) {
            engine->bucket_number[slot] = number;
            engine->bucket_busy_ns[slot] = 0;
        }
        engine->bucket_busy_ns[slot] += part_ns;
        time_ns += part_ns;
        duration_ns -= part_ns;
    }
}

static void count_turn(struct emu_engine *engine, uint64_t owner, uint64_t duration_ns) {
    struct emu_turn *last = &engine->turns[(engine->turn_count - 1) % EMU_TURNS];
    if (engine->turn_count > 0 && last->owner == owner && last->end_ns == engine->clock_ns) {
        last->end_ns += duration_ns;
        return;
    }
    engine->turns[engine->turn_count % EMU_TURNS] =
        (struct emu_turn){.owner = owner, .start_ns = engine->clock_ns, .end_ns = engine->clock_ns + duration_ns};
    engine->turn_count++;
}

static void count_transfer(struct emu_engine *engine, struct emu_queue *queue, const struct emu_item *item) {
    engine->transfers[engine->transfer_count % EMU_TRANSFERS] = (struct emu_transfer){
        .owner = queue->owner, .bytes = item->bytes, .start_ns = item->started_ns, .end_ns = item->completed_ns};
    engine->transfer_count++;
    engine->bytes += item->bytes;
    queue->bytes += item->bytes;
}

/* Run the current client for duration_ns, within its head item. A slice that ends while nobody else waits starts anew.
 */
static void run_current(struct emu_engine *engine, uint64_t duration_ns) {
    struct emu_queue *queue = &engine->queues[engine->current];
    struct emu_item *head = &queue->items[queue->completed % EMU_RING_ITEMS];
    head->started_ns = head->started_ns == 0 ? engine->clock_ns : head->started_ns;
    count_busy(engine, duration_ns);
    count_turn(engine, queue->owner, duration_ns);
    queue->busy_ns += duration_ns;
    head->remaining_ns -= duration_ns;
    engine->clock_ns += duration_ns;
    engine->idle_ns = 0;
    if (duration_ns <= engine->slice_left_ns) {
        engine->slice_left_ns -= duration_ns;
    } else {
        engine->slice_left_ns = queue->slice_ns - (duration_ns - engine->slice_left_ns) % queue->slice_ns;
    }
    if (head->remaining_ns == 0) {
        head->completed_ns = engine->clock_ns;
        if (head->bytes > 0) {
            count_transfer(engine, queue, head);
        }
        queue->completed++;
        if (queue->completed == queue->submitted) {
            engine->pending_mask &= ~(1ULL << engine->current);
        }
    }
}

/* Make `client` the current one, with a fresh slice. */
static void hand_over(struct emu_engine *engine, int client) {
    if (client != engine->current) {
        /* The driver saves an idle context in the background, so idle time before the hand-over counts towards it. */
        bool first = engine->current < 0;
        engine->switch_left_ns = first ? 0 : engine->switch_ns - minimum(engine->switch_ns, engine->idle_ns);
        engine->switches += first ? 0 : 1;
        engine->current = client;
    }
    engine->slice_left_ns = engine->queues[client].slice_ns;
}

void emu_engine_advance(struct emu_engine *engine, uint64_t now_ns) {
    while (engine->pending_mask != 0) {
        int current = engine->current;
        bool may_run = current >= 0 && is_pending(engine, current) &&
                       head_of(&engine->queues[current])->ready_ns <= engine->clock_ns;
        if (!may_run || engine->slice_left_ns == 0) {
            int chosen = next_in_turn(engine);
            if (chosen < 0) {
                uint64_t start_ns = earliest_ready(engine, -1);
                if (start_ns > now_ns) {
                    return;
                }
                engine->idle_ns += start_ns - engine->clock_ns;
                engine->clock_ns = start_ns;
                continue;
            }
            hand_over(engine, chosen);
            current = chosen;
        }
        struct emu_item *head = &engine->queues[current].items[engine->queues[current].completed % EMU_RING_ITEMS];
        head->remaining_ns += head->remaining_ns > 0 ? engine->delay_ns : 0;
        engine->delay_ns = 0;
        uint64_t room_ns = now_ns > engine->clock_ns ? now_ns - engine->clock_ns : 0;
        if (room_ns == 0 && (engine->switch_left_ns > 0 || head->remaining_ns > 0)) {
            return;
        }
        if (engine->switch_left_ns > 0) {
            uint64_t spent_ns = minimum(engine->switch_left_ns, room_ns);
            engine->clock_ns += spent_ns;
            engine->switch_left_ns -= spent_ns;
            continue;
        }
        uint64_t run_ns = minimum(head->remaining_ns, room_ns);
        uint64_t other_ns = earliest_ready(engine, current);
        if (other_ns <= engine->clock_ns) {
            run_ns = minimum(run_ns, engine->slice_left_ns);
        } else if (other_ns != EMU_NEVER) {
            run_ns = minimum(run_ns, other_ns - engine->clock_ns);
        }
        run_current(engine, run_ns);
    }
}

uint64_t emu_engine_next_start(const struct emu_engine *engine) {
    uint64_t ready_ns = earliest_ready(engine, -1);
    return ready_ns > engine->clock_ns ? ready_ns : engine->clock_ns;
}

void emu_engine_delay(struct emu_engine *engine, uint64_t delay_ns) {
    engine->delay_ns += delay_ns;
}

static uint64_t pending_work(const struct emu_queue *queue, uint64_t end) {
    uint64_t total_ns = 0;
    for (uint64_t number = queue->completed; number < end; number++) {
        total_ns += queue->items[number % EMU_RING_ITEMS].remaining_ns;
    }
    return total_ns;
}

uint64_t emu_engine_forecast(const struct emu_engine *engine, int client, uint64_t number) {
    const struct emu_queue *target = &engine->queues[client];
    if (number >= target->submitted) {
        return EMU_NEVER;
    }
    if (number < target->completed) {
        return target->items[number % EMU_RING_ITEMS].completed_ns;
    }
    uint64_t start_ns = earliest_ready(engine, -1);
    uint64_t clock_ns = start_ns > engine->clock_ns ? start_ns : engine->clock_ns;
    uint64_t target_ns = pending_work(target, number + 1);
    if (engine->pending_mask == 1ULL << client && (engine->current == client || engine->current < 0)) {
        return clock_ns + engine->switch_left_ns + target_ns;
    }
    uint64_t left_ns[EMU_MAX_CLIENTS];
    for (uint64_t mask = engine->pending_mask; mask != 0; mask &= mask - 1) {
        int other = __builtin_ctzll(mask);
        left_ns[other] = pending_work(&engine->queues[other], engine->queues[other].submitted);
    }
    left_ns[client] = target_ns;
    uint64_t mask = engine->pending_mask;
    int current = engine->current;
    uint64_t slice_ns = engine->slice_left_ns;
    clock_ns += engine->switch_left_ns;
    if (current < 0 || !((mask >> current) & 1)) {
        slice_ns = 0;
    }
    for (int step = 0; step < FORECAST_STEPS; step++) {
        if (slice_ns == 0) {
            int next = current;
            do {
                next = (next + 1) % EMU_MAX_CLIENTS;
            } while (!((mask >> next) & 1));
            clock_ns += next == current || current < 0 ? 0 : engine->switch_ns;
            current = next;
            slice_ns = engine->queues[next].slice_ns;
        }
        bool alone = (mask & (mask - 1)) == 0;
        uint64_t run_ns = alone ? left_ns[current] : minimum(slice_ns, left_ns[current]);
        clock_ns += run_ns;
        left_ns[current] -= run_ns;
        slice_ns = 0;
        if (left_ns[current] == 0) {
            if (current == client) {
                return clock_ns;
            }
            mask &= ~(1ULL << current);
        }
    }
    return clock_ns;
}

uint64_t emu_engine_busy_last_second(const struct emu_engine *engine, uint64_t now_ns) {
    uint64_t current = now_ns / EMU_BUSY_BUCKET_NS;
    uint64_t total_ns = 0;
    for (uint64_t age = 1; age <= 10 && age <= current; age++) {
        uint64_t slot = (current - age) % EMU_BUSY_BUCKETS;
        if (engine->bucket_number[slot] == current - age) {
            total_ns += engine->bucket_busy_ns[slot];
        }
    }
    return total_ns;
}
