/* Tunnel: see tunnel.h. The same body events as a relay carry the bytes; only the end differs: each direction closes by itself (half close), and nothing moving
 * for read_timeout ends both. Worker's thread. */
#include "proxy/tunnel.h"

#include "base/error.h"
#include "proxy/connect.h"
#include "proxy/detach.h"
#include "proxy/relay.h"
#include "proxy/worker.h"

void tunnel_begin(struct exchange *exchange) {
  struct worker *worker = exchange->worker;
  exchange->is_tunnel = true;
  exchange->step = STEP_TUNNEL;
  exchange->upstream_active_ms = loop_now_ms(&worker->loop);
  worker->tunnel_count++;
  counter_add(worker->options.counters, COUNTER_TUNNELS_OPENED, 1);
  detach_exchange(exchange);
  exchange->stream->ops->tunnel(exchange->stream);
  exchange->upstream_stream->ops->tunnel(exchange->upstream_stream);
  relay_timer_start(exchange);
}

static enum step_result leave(struct exchange *exchange) {
  struct codec_stream *upstream = exchange->upstream_stream;
  struct pooled *connection = exchange->connection;
  exchange->response_ended = true;
  connect_end_try(exchange, exchange->failure);
  exchange->upstream_stream = NULL;
  exchange->connection = NULL;
  upstream->ops->finish(upstream); /* its last bytes still go out */
  pool_put_back(exchange->worker->pool, connection, false);
  exchange->step = STEP_LOG;
  return STEP_MORE;
}

enum step_result step_tunnel(struct exchange *exchange) {
  if (exchange->failure || (exchange->client_half_closed && exchange->upstream_half_closed)) return leave(exchange);
  return STEP_WAIT;
}
