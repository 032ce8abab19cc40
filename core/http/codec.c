/* Hands the calls on codecs to their protocol version. Owns nothing; the loop's thread. */
#include "http/codec_side.h"

struct link *codec_client_link(struct codec_client *client) { return client->link; }
void codec_client_shutdown(struct codec_client *client) { client->ops->shutdown(client); }
void codec_client_close(struct codec_client *client) { client->ops->close(client); }
bool codec_client_is_idle(const struct codec_client *client) { return client->ops->is_idle(client); }

struct codec_stream *codec_upstream_open(struct codec_upstream *upstream, struct arena *arena) { return upstream->ops->open(upstream, arena); }
bool codec_upstream_is_reusable(const struct codec_upstream *upstream) { return upstream->ops->is_reusable(upstream); }
struct link *codec_upstream_link(struct codec_upstream *upstream) { return upstream->link; }
void codec_upstream_close(struct codec_upstream *upstream) { upstream->ops->close(upstream); }
