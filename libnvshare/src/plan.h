// The order of grants. Pure.
#ifndef NVS_PLAN_H
#define NVS_PLAN_H

#include "wire.h"

#include <stdbool.h>

// True if `next` comes after `now` in the order (generation, epoch, sequence). Only then may it be applied.
bool nvs_grant_newer(const nvs_grant *now, const nvs_grant *next);

#endif
