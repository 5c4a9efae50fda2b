#include "residency.h"

static uint64_t nvs_less(uint64_t from, uint64_t bytes) {
    return from > bytes ? from - bytes : 0;
}

static uint64_t nvs_least(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

bool nvs_residency_here(const struct nvs_residency *residency) {
    return !residency->movable || (residency->present_bytes >= residency->needed_bytes &&
                                   residency->moving_bytes == 0 && residency->present_bytes <= residency->target_bytes);
}

uint64_t nvs_residency_out_bytes(const struct nvs_residency *residency) {
    if (!residency->movable)
        return 0;
    uint64_t staying_bytes = nvs_less(residency->present_bytes, residency->moving_bytes);
    return nvs_least(nvs_less(staying_bytes, residency->target_bytes),
                     nvs_less(staying_bytes, residency->pinned_bytes));
}

uint64_t nvs_residency_in_bytes(const struct nvs_residency *residency) {
    if (!residency->movable)
        return 0;
    return nvs_least(nvs_less(residency->needed_bytes, residency->present_bytes),
                     nvs_less(residency->target_bytes, residency->present_bytes));
}
