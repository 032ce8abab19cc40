/* Slice: see slice.h. One read of a socket may hold ten thousand parts of a body. The number of parts is what bounds a turn; where hooks see them, time is.
 * Worker's thread. */
#include "proxy/slice.h"

#include "proxy/worker.h"

enum { MOST_PARTS = 1024, LONGEST_US = 2000 };

static void on_later(struct deferred *deferred) {
  struct exchange *exchange = exchange_of(container_of(deferred, struct exchange, slice));
  struct loop *loop = &exchange->worker->loop;
  if (exchange->slice_turn == loop->turn) { /* it has not looked at its sockets yet */
    loop_defer(loop, deferred);
    return;
  }
  if (exchange->stream) exchange->stream->ops->resume(exchange->stream, PAUSE_TURN);
  if (exchange->upstream_stream) exchange->upstream_stream->ops->resume(exchange->upstream_stream, PAUSE_TURN);
}

void slice_count(struct exchange *exchange, struct codec_stream *stream) {
  struct loop *loop = &exchange->worker->loop;
  if (exchange->slice_turn != loop->turn) {
    exchange->slice_turn = loop->turn;
    exchange->slice_parts = 0;
    exchange->slice_began_us = exchange->filters_body ? loop_now_us(loop) : 0;
  }
  bool is_over = ++exchange->slice_parts >= MOST_PARTS || (exchange->filters_body && loop_now_us(loop) - exchange->slice_began_us >= LONGEST_US);
  if (!is_over || (stream->paused & PAUSE_TURN)) return;
  if (!exchange->is_sliced) deferred_init(&exchange->slice, on_later);
  exchange->is_sliced = true;
  stream->ops->pause(stream, PAUSE_TURN);
  loop_defer(loop, &exchange->slice);
}

void slice_end(struct exchange *exchange) {
  if (exchange->is_sliced) deferred_cancel(&exchange->slice);
}
