#include "flight.h"

#include "log.h"

#include <string.h>

CUresult nvs_flights_open(struct nvs_flights *flights) {
    CUresult result = nvs_real.cuStreamCreate(&flights->stream, CU_STREAM_NON_BLOCKING);
    for (unsigned i = 0; i < NVS_FLIGHTS && result == CUDA_SUCCESS; i++)
        result = nvs_real.cuEventCreate(&flights->events[i], CU_EVENT_BLOCKING_SYNC | CU_EVENT_DISABLE_TIMING);
    return result;
}

void nvs_flights_lose(struct nvs_flights *flights) {
    memset(flights->events, 0, sizeof(flights->events));
    flights->stream = NULL;
}

void nvs_flights_close(struct nvs_flights *flights) {
    for (unsigned i = 0; i < NVS_FLIGHTS; i++)
        if (flights->events[i] != NULL && nvs_real.cuEventDestroy_v2(flights->events[i]) != CUDA_SUCCESS)
            nvs_log_once(NVS_LOG_INFO, "an event of the mover ended with its context");
    if (flights->stream != NULL && nvs_real.cuStreamDestroy_v2(flights->stream) != CUDA_SUCCESS)
        nvs_log_once(NVS_LOG_INFO, "the stream of the mover ended with its context");
    nvs_flights_lose(flights);
}

static unsigned nvs_flights_end(const struct nvs_flights *flights) {
    return (flights->first + flights->count) % NVS_FLIGHTS;
}

struct nvs_load *nvs_flights_next(struct nvs_flights *flights, enum nvs_way way) {
    if (flights->count == NVS_FLIGHTS || flights->bytes >= NVS_FLIGHT_BYTES ||
        (flights->count > 0 && flights->flights[flights->first].load.way != way))
        return NULL;
    return &flights->flights[nvs_flights_end(flights)].load;
}

static void nvs_flights_copy(struct nvs_flights *flights, unsigned at) {
    struct nvs_flight *flight = &flights->flights[at];
    flight->result = nvs_load_copy(&flight->load, flights->stream);
    if (flight->result == CUDA_SUCCESS)
        flight->result = nvs_real.cuEventRecord(flights->events[at], flights->stream);
}

void nvs_flights_put(struct nvs_flights *flights) {
    unsigned at = nvs_flights_end(flights);
    nvs_flights_copy(flights, at);
    flights->bytes += flights->flights[at].load.bytes;
    flights->count++;
}

bool nvs_flights_put_again(struct nvs_flights *flights) {
    bool waited = false;
    for (unsigned i = 0; i < flights->count; i++) {
        unsigned at = (flights->first + i) % NVS_FLIGHTS;
        if (flights->flights[at].result != CUDA_ERROR_NOT_READY)
            continue;
        nvs_flights_copy(flights, at);
        waited = true;
    }
    return waited;
}

CUresult nvs_flights_look(struct nvs_flights *flights, bool waits) {
    if (flights->count == 0)
        return CUDA_ERROR_NOT_READY;
    CUresult result = flights->flights[flights->first].result;
    if (result == CUDA_SUCCESS)
        result = waits ? nvs_real.cuEventSynchronize(flights->events[flights->first])
                       : nvs_real.cuEventQuery(flights->events[flights->first]);
    if (result != CUDA_SUCCESS && result != CUDA_ERROR_NOT_READY) // it must not write to memory that is used again
        (void)nvs_real.cuStreamSynchronize(flights->stream);
    return result;
}

struct nvs_load nvs_flights_take(struct nvs_flights *flights) {
    const struct nvs_load *load = &flights->flights[flights->first].load;
    flights->bytes -= load->bytes;
    flights->first = (flights->first + 1) % NVS_FLIGHTS;
    flights->count--;
    return *load;
}

void nvs_flights_keep(struct nvs_flights *flights, const struct nvs_load *load) {
    flights->flights[nvs_flights_end(flights)] = (struct nvs_flight){*load, CUDA_ERROR_NOT_READY};
    flights->bytes += load->bytes;
    flights->count++;
}
