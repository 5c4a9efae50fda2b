/* The parts of the way from a stream to the card and back, shared by the sources that make it up:
 *
 *   append.c    API calls append operations to streams, and wait for markers
 *   issue.c     operations go to the card's engines
 *   retire.c    what has completed takes effect, in stream order
 *   effect.c    what that is for memory, in threads of its own when it takes long
 *   callback.c  host functions run in a thread of their own
 *   executor.c  the thread that does the last two when the card's time says so
 *
 * All of it under emu.lock.
 */
#ifndef EMU_PIPELINE_H
#define EMU_PIPELINE_H

#include "driver.h"

#define EMU_NEIGHBOUR_CHECK_NS 20000000ULL /* how soon the death of a client that shares an engine is noticed */

/* Make the executor look again. */
void emu_executor_wake(void);
/* Until when the executor sleeps: 0 while it is awake, EMU_NEVER when nothing is under way. */
uint64_t emu_executor_asleep_until_ns(void);

/* Start one of the emulator's own threads, with all signals blocked. */
bool emu_thread_start(void *(*body)(void *));

/* When to look whether an incomplete marker has completed; EMU_NEVER when another thread will say so: what is before it
 * is not issued yet, or its effects are under way. */
uint64_t emu_marker_wake(const struct emu_marker *marker);
void emu_marker_resolve(struct emu_marker *marker, uint64_t time_ns);

/* Hand as much of a stream to the engines as their order allows. Returns whether anything was. */
bool emu_issue(CUstream stream);

/* Retire what has completed at the head of a stream; work only `with_effects`. Returns whether anything changed;
 * *unlocked is set when the lock was given up meanwhile, so that lists may have changed. */
bool emu_retire(CUstream stream, bool with_effects, bool *unlocked);

/* Let a completed piece of work have its effect: at once, or in another thread (false: there is none). Its stream is
 * `retiring` meanwhile. */
void emu_effect_run(CUstream stream, struct emu_op *op);
bool emu_effect_post(CUstream stream, struct emu_op *op);

/* Have a HOST operation run in the callback thread; it is marked done afterwards. */
void emu_callback_post(struct emu_op *op);

#endif
