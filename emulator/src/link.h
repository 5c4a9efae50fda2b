/* The link between host and card: two copy engines that slow each other down a little while both are busy.
 *
 * Pure, as engine.h is; the owner of the engines serialises the calls.
 */
#ifndef EMU_LINK_H
#define EMU_LINK_H

#include "engine.h"

/* Simulate both engines up to now_ns. While both are busy, each keeps `kept_permille` of its speed. */
void emu_link_advance(struct emu_engine *in, struct emu_engine *out, uint64_t now_ns, uint64_t kept_permille);

#endif
