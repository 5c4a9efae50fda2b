/* Moving bytes between memory that may be sparse: pages that were never written stay absent on both sides.
 *
 * What is absent is asked of the memfd behind the card's and the driver's own memory, and of the kernel (mincore) for
 * other host memory; where the kernel's answer could be wrong, because it has swap space, everything counts as present.
 * Takes emu.lock for moments, so the caller does not hold it.
 */
#ifndef EMU_MOVE_H
#define EMU_MOVE_H

#include <stdint.h>

void emu_move_bytes(uint64_t destination, uint64_t source, uint64_t bytes);
void emu_move_zeros(uint64_t destination, uint64_t bytes);

#endif
