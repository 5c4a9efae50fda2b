// Stream captures of the program: what must not be disturbed.
//
// While a capture is open, a call that would synchronise or record on the wrong stream destroys it. Our own driver
// calls run with the thread's capture mode relaxed, never record on a capturing stream, and never on the legacy stream
// while any is open. A launch that is only captured is no launch: it passes a closed gate.
#ifndef NVS_CAPTURE_H
#define NVS_CAPTURE_H

#include "driver.h"

// A capture began (ended) on this stream. False: no host memory to remember it.
bool nvs_capture_began(CUstream stream);
void nvs_capture_ended(CUstream stream);

// A context ended, and the captures that were begun in it.
void nvs_capture_context_ended(CUcontext context);

// True if this stream is capturing.
bool nvs_capture_on(CUstream stream);

// The graph that calls on this stream are captured into; NULL: none are, or the driver does not tell.
CUgraph nvs_capture_graph(CUstream stream);

// True while any capture is open. A stream can join one at any moment, so only its own threads may record on it then.
bool nvs_capture_any(void);

// Records the event on the stream, or gives CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED where that would disturb a capture.
// No capture that we see begins meanwhile.
CUresult nvs_capture_record(CUevent event, CUstream stream);

// True for the errors by which the driver says that a capture forbids a call: it may be allowed later.
bool nvs_capture_error(CUresult result);

// Makes this thread's own calls harmless to captures; hand the answer back to nvs_capture_restore.
CUstreamCaptureMode nvs_capture_relax(void);
void nvs_capture_restore(CUstreamCaptureMode mode);

// After a fork: none is open.
void nvs_capture_atfork_child(void);

#endif
