/* Pace: see pace.h. What may have gone out by now grows with the time since the answer began, so that the rate holds over the whole answer, whatever the timer
 * does. */
#include "proxy/pace.h"

#include "base/check.h"
#include "proxy/relay.h"
#include "proxy/worker.h"

#define TICK_MS 100u

bool pace_is_set(const struct exchange *exchange) { return exchange->settings->limit_rate > 0 && exchange->step == STEP_RELAY; }

bool pace_holds(const struct exchange *exchange) { return buffer_length(&exchange->paced) > 0; }

/* Bytes of the body that may still go out now. */
static uint64_t allowance(const struct exchange *exchange) {
  uint64_t elapsed_ms = loop_now_ms(&exchange->worker->loop) - exchange->relay_started_ms + TICK_MS, rate = exchange->settings->limit_rate;
  uint64_t grown = rate > UINT64_MAX / 2 / elapsed_ms ? UINT64_MAX / 2 : rate * elapsed_ms / 1000, after = exchange->settings->limit_rate_after;
  uint64_t all = after > UINT64_MAX / 2 ? UINT64_MAX : after + grown;
  return all > exchange->body_bytes_sent ? all - exchange->body_bytes_sent : 0;
}

static void send_part(struct exchange *exchange, struct span data) {
  struct codec_stream *client = exchange->stream;
  if (data.length == 0) return;
  exchange->body_bytes_sent += data.length;
  client->ops->send_body(client, &data, 1);
  if (client->ops->is_full(client)) exchange->upstream_stream->ops->pause(exchange->upstream_stream, PAUSE_SINK_FULL);
}

static void wait_a_tick(struct exchange *exchange) { loop_timer_start(&exchange->worker->loop, &exchange->pace, TICK_MS); }

static void hold(struct exchange *exchange, struct span data) {
  buffer_append(&exchange->paced, data);
  relay_charge(exchange, (int64_t)data.length);
}

static void take(struct exchange *exchange, size_t count) {
  buffer_consume(&exchange->paced, count);
  relay_charge(exchange, -(int64_t)count);
}

static void pace_timer_fired(struct timer *timer) {
  struct exchange *exchange = exchange_of(container_of(timer, struct exchange, pace));
  must(exchange->step == STEP_RELAY && exchange->stream && exchange->upstream_stream);
  struct span held = buffer_span(&exchange->paced);
  uint64_t may = exchange->stream->ops->is_full(exchange->stream) ? 0 : allowance(exchange);
  if (held.length > may) held.length = (size_t)may;
  send_part(exchange, held);
  take(exchange, held.length);
  if (pace_holds(exchange) || (may == 0 && !exchange->upstream_ended)) {
    wait_a_tick(exchange);
    return;
  }
  exchange->upstream_active_ms = loop_now_ms(&exchange->worker->loop); /* it was we who made it wait */
  if (exchange->upstream_ended) exchange_run(exchange);
  else exchange->upstream_stream->ops->resume(exchange->upstream_stream, PAUSE_RATE);
}

void pace_forward(struct exchange *exchange, struct span data) {
  struct codec_stream *upstream = exchange->upstream_stream;
  if (!exchange->is_paced) timer_init(&exchange->pace, pace_timer_fired);
  exchange->is_paced = true;
  uint64_t may = pace_holds(exchange) ? 0 : allowance(exchange);
  /* Where no more can be held, the answer goes on in larger pieces: the pause comes after them. */
  if (may < data.length && relay_is_budget_spent(exchange) && !pace_holds(exchange)) may = data.length;
  size_t now = may < data.length ? (size_t)may : data.length;
  send_part(exchange, span_make(data.data, now));
  if (now < data.length) hold(exchange, span_skip(data, now));
  if (!pace_holds(exchange) && allowance(exchange) > 0) return;
  upstream->ops->pause(upstream, PAUSE_RATE);
  wait_a_tick(exchange);
}

void pace_stop(struct exchange *exchange) {
  if (!exchange->is_paced) return;
  exchange->is_paced = false;
  loop_timer_stop(&exchange->worker->loop, &exchange->pace);
  if (pace_holds(exchange)) relay_charge(exchange, -(int64_t)buffer_length(&exchange->paced));
  buffer_free(&exchange->paced);
  exchange->paced = (struct buffer){0};
}
