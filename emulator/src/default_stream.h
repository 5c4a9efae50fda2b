/* The sources whose names begin with api_ are compiled twice: as they are, and with CUDA_API_PER_THREAD_DEFAULT_STREAM,
 * with which cuda.h renames every entry point to its _ptsz or _ptds form. What differs is the stream that a NULL handle
 * means. */
#ifndef EMU_DEFAULT_STREAM_H
#define EMU_DEFAULT_STREAM_H

#ifdef CUDA_API_PER_THREAD_DEFAULT_STREAM
#define EMU_DEFAULT_STREAM CU_STREAM_PER_THREAD
#else
#define EMU_DEFAULT_STREAM CU_STREAM_LEGACY
#endif

#define EMU_OR_DEFAULT(stream) ((stream) != NULL ? (stream) : EMU_DEFAULT_STREAM)

#endif
