// The loads that a mover has in flight: their copies follow each other on one stream, all the same way, each with an
// event behind it. Extents of a load that could neither come nor be unmapped wait behind the others to be put on the
// stream again.
//
// Only the mover's thread, in the context of the stream.
#ifndef NVS_FLIGHT_H
#define NVS_FLIGHT_H

#include "load.h"

// Loads in flight, and the bytes beyond which no further one begins: two keep the link busy (decision 0006).
#define NVS_FLIGHTS 8u
#define NVS_FLIGHT_BYTES (UINT64_C(512) << 20)

struct nvs_flight {
    struct nvs_load load;
    CUresult result; // of putting it on the stream; CUDA_ERROR_NOT_READY: it is not, and waits to be put there again
};

struct nvs_flights {
    CUstream stream; // NULL: closed
    CUevent events[NVS_FLIGHTS];
    struct nvs_flight flights[NVS_FLIGHTS]; // flight i has event i
    unsigned first, count;
    uint64_t bytes;
};

// Makes (destroys) the stream and its events in the current context. Copies are under way in neither.
CUresult nvs_flights_open(struct nvs_flights *flights);
void nvs_flights_close(struct nvs_flights *flights);

// The stream is gone with its context.
void nvs_flights_lose(struct nvs_flights *flights);

// Where the next load that goes this way is to be taken; NULL: none may begin.
struct nvs_load *nvs_flights_next(struct nvs_flights *flights, enum nvs_way way);

// Puts the copies of the load that was taken there on the stream.
void nvs_flights_put(struct nvs_flights *flights);

// Puts those that wait for it on the stream again. True: there were some.
bool nvs_flights_put_again(struct nvs_flights *flights);

// What became of the copies of the oldest load, waiting for them if so asked; CUDA_ERROR_NOT_READY: they have not
// ended, or there is none. After an error nothing of it is on the stream any more.
CUresult nvs_flights_look(struct nvs_flights *flights, bool waits);

// Takes the oldest load out; and puts in what is left of it, to be put on the stream again.
struct nvs_load nvs_flights_take(struct nvs_flights *flights);
void nvs_flights_keep(struct nvs_flights *flights, const struct nvs_load *load);

#endif
