/* WebSocket echo: frames are unmasked, and sent back unmasked with the same opcode and FIN bit, so that fragments stay fragments. */
#include "app/websocket.h"

#include <openssl/evp.h>
#include <string.h>

#include "net/digest.h"

#define FRAME_MAX (1u << 20)

enum opcode { OPCODE_CLOSE = 8, OPCODE_PING = 9, OPCODE_PONG = 10 };

static void send_frame(struct service_call *call, unsigned first, char *payload, size_t length) {
  unsigned char head[10];
  size_t size = 2;
  head[0] = (unsigned char)first;
  if (length < 126) head[1] = (unsigned char)length;
  else if (length < 65536) {
    head[1] = 126;
    head[2] = (unsigned char)(length >> 8);
    head[3] = (unsigned char)length;
    size = 4;
  } else {
    head[1] = 127;
    for (int i = 0; i < 8; i++) head[2 + i] = (unsigned char)((uint64_t)length >> (56 - 8 * i));
    size = 10;
  }
  struct span parts[2] = {span_make((char *)head, size), span_make(payload, length)};
  call->stream->ops->send_body(call->stream, parts, 2);
}

/* Takes one frame off `data`; 0 when it is not complete, -1 for a broken one. */
static long take_frame(struct service_call *call, char *data, size_t length) {
  if (length < 6) return 0;
  unsigned first = (unsigned char)data[0];
  uint64_t size = data[1] & 0x7f;
  size_t at = 2;
  if (!(data[1] & 0x80)) return -1; /* clients mask */
  if (size == 126) {
    if (length < 8) return 0;
    size = (uint64_t)(unsigned char)data[2] << 8 | (unsigned char)data[3];
    at = 4;
  } else if (size == 127) {
    if (length < 14) return 0;
    size = 0;
    for (int i = 0; i < 8; i++) size = size << 8 | (unsigned char)data[2 + i];
    at = 10;
  }
  if (size > FRAME_MAX) return -1;
  if (length < at + 4 + size) return 0;
  const char *mask = data + at;
  char *payload = data + at + 4;
  for (size_t i = 0; i < size; i++) payload[i] ^= mask[i & 3];
  unsigned opcode = first & 15;
  if (opcode == OPCODE_PING) send_frame(call, 0x80 | OPCODE_PONG, payload, (size_t)size);
  else if (opcode == OPCODE_CLOSE) {
    send_frame(call, first, payload, (size_t)size);
    call->stream->ops->half_close(call->stream);
  } else if (opcode != OPCODE_PONG) send_frame(call, first, payload, (size_t)size);
  return (long)(at + 4 + size);
}

static void on_tunnel(struct service_call *call, struct span data) {
  buffer_append(&call->pending, data);
  while (buffer_length(&call->pending)) {
    long taken = take_frame(call, call->pending.data + call->pending.start, buffer_length(&call->pending));
    if (taken < 0) call->stream->ops->half_close(call->stream);
    if (taken <= 0) return;
    buffer_consume(&call->pending, (size_t)taken);
  }
}

void websocket_echo(struct service_call *call) {
  const struct header *field = headers_find_name(&call->request->headers, SPAN("sec-websocket-key"));
  struct span key = field ? field->value : SPAN("");
  if (key.length == 0 || key.length > 64) {
    service_reply(call, 400, "text/plain", SPAN("Sec-WebSocket-Key is missing\n"));
    return;
  }
  struct span seed = arena_printf(&call->arena, "%.*s258EAFA5-E914-47DA-95CA-C5AB0DC85B11", (int)key.length, key.data);
  unsigned char hash[DIGEST_MAX], accept[64];
  size_t length = digest(DIGEST_SHA1, seed, hash);
  EVP_EncodeBlock(accept, hash, (int)length);
  const char *const extra[] = {"Upgrade", "websocket", "Sec-WebSocket-Accept", (const char *)accept, NULL};
  service_upgrade(call, extra, on_tunnel);
}
