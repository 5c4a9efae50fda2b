// Rests: time in which a stream had nothing to do, so that busy time is exact.
//
// A stream's busy time is that between its marks. A program that waits for its stream and takes its time until it
// launches again lets it rest meanwhile, and the wait tells so for nothing: the stream is empty when it returns, and
// the next call ends the rest. An event at the start of what comes would tell the same, but the card would come to the
// program twice, for the event and for the work, and its neighbours would be stopped twice (H200: 0.2 ms each). What no
// wait tells, the control thread sees by looking (follow.c).
//
// Callers hold the stream's lock.
#ifndef NVS_REST_H
#define NVS_REST_H

#include "stream.h"

// All that was launched, so many calls, has ended as the program has just learnt.
void nvs_rest_begin(struct nvs_stream *stream, uint64_t launched);

// A call has been made on a stream that was at rest: the rest until now is no busy time of the next mark. Its context
// is current, the thread's capture mode relaxed.
void nvs_rest_end(struct nvs_stream *stream);

// A mark was put behind all that has ended, and all marks before it are taken in: the rest until now is no busy time of
// that mark, and goes on.
void nvs_rest_split(struct nvs_stream *stream);

#endif
