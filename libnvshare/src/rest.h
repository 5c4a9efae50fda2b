// Rests: time in which a stream had nothing to do, so that busy time is exact.
//
// A stream's busy time is that between its marks. A program that waits for its stream and takes its time until it
// launches again lets it rest meanwhile, and the wait tells so for nothing: the stream is empty when it returns, and
// the next call ends the rest. An event at the start of what comes would tell the same, and so would one at the end of
// what was; but the card would come to the program for the event alone, and its neighbours would be stopped for it
// (H200: 0.2 to 0.4 ms each). So a stream at rest is left alone: the mark of what the program waits for is made as the
// wait begins, and what has none by then counts as ended when the wait is over. A wait for an event, or asking for it
// again and again, tells the same where that mark has ended when the event has. What no wait tells, the control thread
// sees by looking (follow.c).
//
// Callers hold the stream's lock.
#ifndef NVS_REST_H
#define NVS_REST_H

#include "stream.h"

// True if all that was launched has ended, as the program has learnt by waiting for it.
static inline bool nvs_rest_known(const struct nvs_stream *stream) {
    return stream->drained_ns != 0 && nvs_stream_launched(stream) == stream->drained_at;
}

// A call has been made on a stream that was at rest: the rest until now is no busy time of the next mark. Its context
// is current, the thread's capture mode relaxed.
void nvs_rest_end(struct nvs_stream *stream);

// A call is about to be made. True if the time of its work needs no event at its start: what passed since the last mark
// is known without, well enough for who has no cap.
bool nvs_rest_goes_on(const struct nvs_stream *stream);

#endif
