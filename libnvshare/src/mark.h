// Marks: events on a stream, behind which the work of so many calls has ended; see stream.h.
//
// Callers hold the stream's lock, have its context current, and this thread's capture mode relaxed.
#ifndef NVS_MARK_H
#define NVS_MARK_H

#include "stream.h"

// An event for a mark, kept or made (NULL: the driver has none), and back again (NULL: nothing).
CUevent nvs_event_take(struct nvs_stream *stream);
void nvs_event_give(struct nvs_stream *stream, CUevent event);

// Records a mark for what is not covered yet. False: it cannot now (a capture).
bool nvs_stream_mark(struct nvs_stream *stream);

// The same for another thread than the one that launches: a call that this one has just put on the stream may not be
// counted yet.
void nvs_stream_mark_beside(struct nvs_stream *stream);

// Says at which call the next mark is due.
void nvs_stream_plan_mark(struct nvs_stream *stream);

// Takes in the marks that have completed, and what a wait of the program has told of. False: a capture forbids to look.
bool nvs_stream_retire(struct nvs_stream *stream);

// All that was launched counts as ended: its context is lost or gone.
void nvs_stream_forget(struct nvs_stream *stream);

#endif
