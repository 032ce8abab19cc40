/* PROXY protocol, receiving side: both versions, strict. Pure; any thread. */
#include "net/proxy_protocol.h"

#include "base/error.h"
#include "base/limits.h"

#define V1_MAX 107 /* with CRLF */
#define V2_HEADER 16
#define TLV_SSL 0x20
#define CLIENT_SSL 0x01

static const unsigned char signature[12] = {'\r', '\n', '\r', '\n', 0, '\r', '\n', 'Q', 'U', 'I', 'T', '\n'};

/* The next word, which one space or the end must follow. */
static bool next_word(struct span *rest, struct span *word) {
  size_t length = span_find(*rest, ' ');
  *word = span_make(rest->data, length);
  bool has_more = length < rest->length;
  *rest = span_skip(*rest, length + (has_more ? 1 : 0));
  return length > 0 && (!has_more || rest->length > 0);
}

static bool parse_port(struct span text, uint16_t *port) {
  unsigned long long value;
  if (text.length > 5 || (text.length > 1 && text.data[0] == '0') || !span_to_u64(text, 65535, &value)) return false;
  *port = (uint16_t)value;
  return true;
}

static long parse_v1(struct span data, struct proxy_header *header) {
  struct span begin = SPAN("PROXY ");
  size_t known = data.length < begin.length ? data.length : begin.length;
  if (memcmp(data.data, begin.data, known) != 0) return ERROR_PROTOCOL;
  size_t limit = data.length < V1_MAX ? data.length : V1_MAX;
  size_t end = span_find(span_make(data.data, limit), '\r');
  if (span_find(span_make(data.data, limit), '\n') < end) return ERROR_PROTOCOL;
  if (end + 1 >= limit) return end + 1 >= V1_MAX ? ERROR_PROTOCOL : 0;
  if (data.data[end + 1] != '\n') return ERROR_PROTOCOL;
  long length = (long)end + 2;
  struct span rest = span_make(data.data + begin.length, end - begin.length), family, words[4];
  if (!next_word(&rest, &family)) return ERROR_PROTOCOL;
  if (span_equal(family, SPAN("UNKNOWN"))) {
    header->local = true; /* what follows is to be ignored */
    return length;
  }
  bool is_v6 = span_equal(family, SPAN("TCP6"));
  if (!is_v6 && !span_equal(family, SPAN("TCP4"))) return ERROR_PROTOCOL;
  for (int i = 0; i < 4; i++) {
    if (!next_word(&rest, &words[i])) return ERROR_PROTOCOL;
  }
  uint16_t source_port, destination_port;
  if (rest.length > 0 || !parse_port(words[2], &source_port) || !parse_port(words[3], &destination_port)) return ERROR_PROTOCOL;
  if (address_parse_ip(words[0], source_port, &header->source) || address_parse_ip(words[1], destination_port, &header->destination)) {
    return ERROR_PROTOCOL;
  }
  int wanted = is_v6 ? AF_INET6 : AF_INET;
  if (header->source.any.sa_family != wanted || header->destination.any.sa_family != wanted) return ERROR_PROTOCOL;
  return length;
}

/* Walks the TLVs after the addresses. */
static bool read_tlvs(const unsigned char *data, size_t length, struct proxy_header *header) {
  while (length > 0) {
    if (length < 3) return false;
    size_t size = (size_t)(data[1] << 8 | data[2]);
    if (size > length - 3) return false;
    if (data[0] == TLV_SSL) {
      if (size < 5) return false;
      header->tls = (data[3] & CLIENT_SSL) != 0;
    }
    data += 3 + size;
    length -= 3 + size;
  }
  return true;
}

static void set_v4(struct address *address, const unsigned char *ip, const unsigned char *port) {
  *address = (struct address){.v4 = {.sin_family = AF_INET}};
  memcpy(&address->v4.sin_addr, ip, 4);
  memcpy(&address->v4.sin_port, port, 2);
}

static void set_v6(struct address *address, const unsigned char *ip, const unsigned char *port) {
  *address = (struct address){.v6 = {.sin6_family = AF_INET6}};
  memcpy(&address->v6.sin6_addr, ip, 16);
  memcpy(&address->v6.sin6_port, port, 2);
}

static long parse_v2(const unsigned char *data, size_t length, struct proxy_header *header) {
  size_t known = length < sizeof signature ? length : sizeof signature;
  if (memcmp(data, signature, known) != 0) return ERROR_PROTOCOL;
  /* Each byte is judged as soon as it is there: who sends no PROXY header is not waited for. */
  if (length > 12 && (data[12] >> 4 != 2 || (data[12] & 15) > 1)) return ERROR_PROTOCOL;
  if (length < V2_HEADER) return 0;
  size_t size = (size_t)(data[14] << 8 | data[15]);
  if (size > LIMIT_PROXY_HEADER_BYTES) return ERROR_LIMIT;
  if (length < V2_HEADER + size) return 0;
  const unsigned char *body = data + V2_HEADER;
  size_t addresses = 0;
  if ((data[12] & 15) == 0) {
    header->local = true;
    return (long)(V2_HEADER + size);
  }
  switch (data[13]) {
    case 0x11: /* TCP over IPv4 */
      addresses = 12;
      if (size < addresses) return ERROR_PROTOCOL;
      set_v4(&header->source, body, body + 8);
      set_v4(&header->destination, body + 4, body + 10);
      break;
    case 0x21: /* TCP over IPv6 */
      addresses = 36;
      if (size < addresses) return ERROR_PROTOCOL;
      set_v6(&header->source, body, body + 32);
      set_v6(&header->destination, body + 16, body + 34);
      break;
    case 0x00: /* unspecified: as LOCAL */
      header->local = true;
      return (long)(V2_HEADER + size);
    default: /* datagrams and unix sockets never come in over our listeners */
      return ERROR_PROTOCOL;
  }
  if (!read_tlvs(body + addresses, size - addresses, header)) return ERROR_PROTOCOL;
  return (long)(V2_HEADER + size);
}

long proxy_protocol_parse(const char *data, size_t length, struct proxy_header *header) {
  *header = (struct proxy_header){0};
  if (length == 0) return 0;
  if (data[0] == 'P') return parse_v1(span_make(data, length), header);
  return parse_v2((const unsigned char *)data, length, header);
}
