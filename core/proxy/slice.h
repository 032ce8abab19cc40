/* Slice: a body in very many parts, or hooks that take long over each, leave the worker to others after a while. Worker's thread only. */
#ifndef PROXY_SLICE_H
#define PROXY_SLICE_H

#include "proxy/exchange.h"

/* A part of a body that came on `stream` was dealt with. Pauses it until the loop's next turn when this exchange has had its share of the present one. */
void slice_count(struct exchange *exchange, struct codec_stream *stream);
/* The exchange ends. */
void slice_end(struct exchange *exchange);

#endif
