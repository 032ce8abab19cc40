/* Address, TLS and token of the API server's client. A token's file is read again when it changed; what is in it is never printed. Own certificate authorities
 * replace the system's. Owned by its struct api. */
#include "kube/api_identity.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/check.h"
#include "base/limits.h"

enum { TOKEN_MAX_BYTES = 65536, TOKEN_LOOK_MS = 1000 };

static char *copy(const char *text) { return text ? check_memory(strdup(text)) : NULL; }

static char *print(const char *format, ...) __attribute__((format(printf, 1, 2)));
static char *print(const char *format, ...) {
  char *text = NULL;
  va_list values;
  va_start(values, format);
  must(vasprintf(&text, format, values) >= 0);
  va_end(values);
  return text;
}

static char *user_agent(void) {
#if defined(__x86_64__)
  return print("moongate/%s (linux/amd64)", MOONGATE_VERSION);
#elif defined(__aarch64__)
  return print("moongate/%s (linux/arm64)", MOONGATE_VERSION);
#else
  struct utsname machine;
  must(uname(&machine) == 0);
  return print("moongate/%s (linux/%s)", MOONGATE_VERSION, machine.machine);
#endif
}

/* ---- the address ---- */

static char *url_part(CURLU *url, CURLUPart part, unsigned flags) {
  char *text = NULL;
  if (curl_url_get(url, part, &text, flags)) return NULL;
  char *copied = copy(text);
  curl_free(text);
  return copied;
}

static int read_url(struct api_identity *identity, CURLU *url, const struct api_options *options, char *error, size_t error_size) {
  static const CURLUPart refused[] = {CURLUPART_USER, CURLUPART_PASSWORD, CURLUPART_QUERY, CURLUPART_FRAGMENT};
  CURLUcode code = curl_url_set(url, CURLUPART_URL, options->url, 0);
  char *scheme = code ? NULL : url_part(url, CURLUPART_SCHEME, 0);
  bool is_ok = scheme && (strcmp(scheme, "https") == 0 || strcmp(scheme, "http") == 0);
  identity->is_tls = is_ok && strcmp(scheme, "https") == 0;
  for (unsigned i = 0; is_ok && i < sizeof refused / sizeof *refused; i++) {
    char *part = url_part(url, refused[i], 0);
    is_ok = !part;
    free(part);
  }
  if (!is_ok) {
    snprintf(error, error_size, "the API server's address is no http or https URL of a host, with a port and a path at most");
    free(scheme);
    return -1;
  }
  char *port = url_part(url, CURLUPART_PORT, CURLU_DEFAULT_PORT), *path = url_part(url, CURLUPART_PATH, 0);
  identity->host = url_part(url, CURLUPART_HOST, 0);
  must(port && path && identity->host);
  for (size_t length = strlen(path); length > 0 && path[length - 1] == '/'; length--) path[length - 1] = '\0';
  identity->server = print("%s:%s", identity->host, port);
  identity->name = copy(options->server_name ? options->server_name : identity->host);
  identity->url = print("%s://%s:%s%s", scheme, identity->name, port, path);
  if (options->server_name) {
    char *place = print("::%s:%s", identity->host, port);
    identity->connect_to = curl_slist_append(NULL, place);
    must(identity->connect_to);
    free(place);
    identity->host_field = print("Host: %s:%s", identity->host, port);
  }
  free(scheme);
  free(port);
  free(path);
  return 0;
}

static int set_url(struct api_identity *identity, const struct api_options *options, char *error, size_t error_size) {
  CURLU *url = curl_url();
  must(url);
  int result = read_url(identity, url, options, error, error_size);
  curl_url_cleanup(url);
  return result;
}

/* ---- the token ---- */

/* A field's value that nothing can be put behind. */
static bool is_token(const char *text) {
  if (*text == '\0') return false;
  for (; *text; text++)
    if ((unsigned char)*text <= ' ' || (unsigned char)*text >= 0x7f) return false;
  return true;
}

/* Takes the file's token in place of the one before; NULL, or why it could not. */
static const char *read_token(struct api_identity *identity) {
  char text[TOKEN_MAX_BYTES];
  int fd = open(identity->token_file, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) return strerror(errno);
  ssize_t length = read(fd, text, sizeof text - 1);
  const char *why = length < 0 ? strerror(errno) : length == (ssize_t)sizeof text - 1 ? "it is too long" : NULL;
  if (fstat(fd, &identity->token_stat)) why = strerror(errno);
  close(fd);
  if (why) return why;
  while (length > 0 && strchr(" \t\r\n", text[length - 1])) length--;
  text[length] = '\0';
  if (!is_token(text)) return "it holds no token";
  free(identity->token);
  identity->token = copy(text);
  return NULL;
}

static bool is_same_file(const struct stat *a, const struct stat *b) {
  return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
         a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

const char *api_identity_token(struct api_identity *identity, uint64_t now_ms) {
  if (!identity->token_file) return identity->token;
  bool is_forced = identity->token_looked_at == 0;
  if (!is_forced && now_ms - identity->token_looked_at < TOKEN_LOOK_MS) return identity->token;
  identity->token_looked_at = now_ms;
  struct stat now;
  if (!is_forced && stat(identity->token_file, &now) == 0 && is_same_file(&now, &identity->token_stat)) return identity->token;
  const char *why = read_token(identity);
  if (why && !identity->is_token_broken && identity->log)
    log_write(identity->log, LOG_WARN, "the API token's file cannot be read; the token before stays in use", "file=%s error=%s", identity->token_file, why);
  identity->is_token_broken = why != NULL;
  return identity->token;
}

void api_identity_refused(struct api_identity *identity) { identity->token_looked_at = 0; }

static int set_token(struct api_identity *identity, const struct api_options *options, char *error, size_t error_size) {
  if (options->token && !is_token(options->token)) {
    snprintf(error, error_size, "the token is empty, or holds bytes that no token has");
    return -1;
  }
  identity->token = copy(options->token);
  identity->token_file = copy(options->token_file);
  if (identity->token_file) {
    const char *why = read_token(identity);
    if (why && !identity->token) {
      snprintf(error, error_size, "the token's file %s: %s", identity->token_file, why);
      return -1;
    }
  }
  if (identity->token && !identity->is_tls) {
    snprintf(error, error_size, "a token is not sent to %s without TLS", identity->server);
    return -1;
  }
  return 0;
}

/* ---- the whole ---- */

int api_identity_init(struct api_identity *identity, const struct api_options *options, char *error, size_t error_size) {
  *identity = (struct api_identity){.is_insecure = options->is_insecure, .log = options->log};
  if (!options->url) {
    snprintf(error, error_size, "no address of the API server is given");
    return -1;
  }
  if (set_url(identity, options, error, error_size) || set_token(identity, options, error, error_size)) {
    api_identity_free(identity);
    return -1;
  }
  identity->ca = copy(options->ca_file ? NULL : options->ca);
  identity->ca_file = copy(options->ca_file);
  identity->certificate = copy(options->certificate_file ? NULL : options->certificate);
  identity->certificate_file = copy(options->certificate_file);
  identity->key = copy(options->key_file ? NULL : options->key);
  identity->key_file = copy(options->key_file);
  /* The proxy resolves the name, as kubectl has it. */
  if (options->proxy && strncmp(options->proxy, "socks5://", 9) == 0) identity->proxy = print("socks5h://%s", options->proxy + 9);
  else identity->proxy = copy(options->proxy);
  identity->user_agent = user_agent();
  if (identity->is_tls && identity->is_insecure && identity->log)
    log_write(identity->log, LOG_WARN, "the API server's certificate is not verified", "server=%s reason=insecure-skip-tls-verify", identity->server);
  return 0;
}

void api_identity_free(struct api_identity *identity) {
  char **texts[] = {&identity->url,
                    &identity->server,
                    &identity->host,
                    &identity->name,
                    &identity->host_field,
                    &identity->ca,
                    &identity->ca_file,
                    &identity->certificate,
                    &identity->key_file,
                    &identity->proxy,
                    &identity->user_agent,
                    &identity->token_file,
                    &identity->certificate_file,
                    &identity->token,
                    &identity->key};
  for (unsigned i = 0; i < sizeof texts / sizeof *texts; i++) free(*texts[i]);
  curl_slist_free_all(identity->connect_to);
  *identity = (struct api_identity){.url = NULL};
}

static void set_text(CURL *easy, CURLoption option, const char *text) { must(curl_easy_setopt(easy, option, text) == CURLE_OK); }
static void set_number(CURL *easy, CURLoption option, long number) { must(curl_easy_setopt(easy, option, number) == CURLE_OK); }

static void set_pem(CURL *easy, CURLoption file_option, const char *file, CURLoption text_option, char *text) {
  if (file) set_text(easy, file_option, file);
  if (!text) return;
  struct curl_blob blob = {.data = text, .len = strlen(text), .flags = CURL_BLOB_NOCOPY};
  must(curl_easy_setopt(easy, text_option, &blob) == CURLE_OK);
}

static void apply_tls(const struct api_identity *identity, CURL *easy) {
  set_number(easy, CURLOPT_SSLVERSION, CURL_SSLVERSION_TLSv1_2);
  set_number(easy, CURLOPT_SSL_SESSIONID_CACHE, 0); /* each connection is verified anew, by the files of today */
  set_number(easy, CURLOPT_SSL_VERIFYPEER, !identity->is_insecure);
  set_number(easy, CURLOPT_SSL_VERIFYHOST, identity->is_insecure ? 0 : 2);
  if (identity->ca || identity->ca_file) {
    set_text(easy, CURLOPT_CAINFO, NULL);
    set_text(easy, CURLOPT_CAPATH, NULL);          /* Debian's libcurl has one, which would be trusted beside ours */
    set_number(easy, CURLOPT_CA_CACHE_TIMEOUT, 0); /* a file that changed holds from the next connection on */
  }
  set_pem(easy, CURLOPT_CAINFO, identity->ca_file, CURLOPT_CAINFO_BLOB, identity->ca);
  set_pem(easy, CURLOPT_SSLCERT, identity->certificate_file, CURLOPT_SSLCERT_BLOB, identity->certificate);
  set_pem(easy, CURLOPT_SSLKEY, identity->key_file, CURLOPT_SSLKEY_BLOB, identity->key);
  /* One connection for all, so those that come while it is made wait for it. */
  set_number(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_2TLS);
  set_number(easy, CURLOPT_PIPEWAIT, 1);
}

void api_identity_apply(const struct api_identity *identity, CURL *easy) {
  set_text(easy, CURLOPT_PROTOCOLS_STR, "http,https");
  set_number(easy, CURLOPT_FOLLOWLOCATION, 0);
  set_text(easy, CURLOPT_PROXY, identity->proxy ? identity->proxy : "");
  set_text(easy, CURLOPT_NOPROXY, "");
  set_number(easy, CURLOPT_HEADEROPT, CURLHEADER_SEPARATE); /* the token is not for the proxy */
  set_number(easy, CURLOPT_SUPPRESS_CONNECT_HEADERS, 1);
  set_number(easy, CURLOPT_NOSIGNAL, 1);
  set_number(easy, CURLOPT_QUICK_EXIT, 1); /* a name that is being resolved holds up nobody */
  set_number(easy, CURLOPT_CONNECTTIMEOUT_MS, API_CONNECT_MS);
  set_text(easy, CURLOPT_USERAGENT, identity->user_agent);
  if (identity->connect_to) must(curl_easy_setopt(easy, CURLOPT_CONNECT_TO, identity->connect_to) == CURLE_OK);
  if (identity->is_tls) apply_tls(identity, easy);
}
