/* Stream capture, and the way that everything takes into a stream: executed, or made a node of the graph under capture.
 */
#ifndef EMU_CAPTURE_H
#define EMU_CAPTURE_H

#include "driver.h"

bool emu_stream_is_capturing(CUstream stream);

/* Put work into a stream, or into its graph. A synchronous one is waited for, and refused during a capture. */
CUresult emu_submit(CUstream stream, struct emu_work *work, bool synchronous);
/* `external` asks for a node that records or waits for the event when the graph runs. */
CUresult emu_submit_record(CUstream stream, CUevent event, bool external);
CUresult emu_submit_wait(CUstream stream, CUevent event, bool external);
CUresult emu_submit_host(CUstream stream, CUhostFn function, void *user_data);
CUresult emu_submit_callback(CUstream stream, CUstreamCallback callback, CUstream handle, void *user_data);

/* Record at once, whatever captures there are. */
CUresult emu_record_now(CUstream stream, CUevent event);

/* The checks return success, or invalidate a capture and return the error that the driver documents: */
/* for what waits for, or asks about, one stream; */
CUresult emu_capture_check_wait(CUstream stream);
/* for what waits for a whole context; */
CUresult emu_capture_check_context(CUcontext context);
/* for a graph launch into the stream; */
CUresult emu_capture_check_launch(CUstream stream);
/* for what may not run while a capture forbids it to this thread (cuThreadExchangeStreamCaptureMode). */
CUresult emu_capture_check_unsafe(void);
/* Refuse an operation that cannot be captured. */
CUresult emu_capture_refuse(CUstream stream);

CUresult emu_capture_begin(CUstream stream, CUstreamCaptureMode mode);
CUresult emu_capture_end(CUstream stream, CUgraph *graph);
CUstreamCaptureStatus emu_capture_status(CUstream stream, uint64_t *id, CUgraph *graph);
/* Whether asking about the legacy stream is an error because a stream that synchronises with it is captured. */
bool emu_capture_hides_legacy(CUstream stream);

#endif
