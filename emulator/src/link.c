#include "link.h"

#define STEP_NS 1000000ULL /* how finely the two are followed while both are busy */

static uint64_t minimum(uint64_t left, uint64_t right) {
    return left < right ? left : right;
}

static uint64_t maximum(uint64_t left, uint64_t right) {
    return left > right ? left : right;
}

/* Simulate a step in which both may be busy, and put the time that they lost to each other before what is to come. */
static void advance_step(struct emu_engine *in, struct emu_engine *out, uint64_t now_ns, uint64_t kept_permille) {
    uint64_t in_ns = in->busy_ns;
    uint64_t out_ns = out->busy_ns;
    emu_engine_advance(in, now_ns);
    emu_engine_advance(out, now_ns);
    uint64_t together_ns = minimum(in->busy_ns - in_ns, out->busy_ns - out_ns);
    uint64_t lost_ns = together_ns * (1000 - kept_permille) / 1000;
    emu_engine_delay(in, lost_ns);
    emu_engine_delay(out, lost_ns);
}

void emu_link_advance(struct emu_engine *in, struct emu_engine *out, uint64_t now_ns, uint64_t kept_permille) {
    for (;;) {
        uint64_t both_ns = maximum(emu_engine_next_start(in), emu_engine_next_start(out));
        if (both_ns >= now_ns) {
            break;
        }
        if (both_ns > minimum(emu_engine_next_start(in), emu_engine_next_start(out))) {
            emu_engine_advance(in, both_ns); /* one of them alone */
            emu_engine_advance(out, both_ns);
        } else {
            advance_step(in, out, minimum(now_ns, both_ns + STEP_NS), kept_permille);
        }
    }
    emu_engine_advance(in, now_ns);
    emu_engine_advance(out, now_ns);
}
