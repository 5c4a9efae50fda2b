#include "plan.h"

bool nvs_grant_newer(const nvs_grant *now, const nvs_grant *next) {
    if (next->generation != now->generation)
        return next->generation > now->generation;
    if (next->epoch != now->epoch)
        return next->epoch > now->epoch;
    return next->sequence > now->sequence;
}
