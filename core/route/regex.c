/* Regexes over PCRE2 (8 bit, bytes, no UTF: a path need not be valid UTF-8). A compiled regex is immutable and shared by all threads. A match takes no lock
 * and, with the JIT, no malloc: the match data lives on the caller's stack; only the interpreter, where it must stand in, may take heap, within its limit. */
#define PCRE2_CODE_UNIT_WIDTH 8
#include "route/regex.h"

#include <pcre2.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/check.h"
#include "base/limits.h"

#define REGEX_MAGIC MAGIC('r', 'e', 'g', 'x')
#define PATTERN_MAX 8192

struct regex {
  uint32_t magic;
  bool has_jit;
  int groups; /* with the whole match; those that we keep */
  pcre2_code *code;
  pcre2_match_context *limits; /* only read by matches */
};

struct regex *regex_new(struct span pattern, bool ignore_case, char *error, size_t error_size) {
  if (pattern.length > PATTERN_MAX) {
    snprintf(error, error_size, "is a regular expression of more than %d bytes", PATTERN_MAX);
    return NULL;
  }
  int code_error;
  PCRE2_SIZE offset;
  uint32_t options = PCRE2_NEVER_UTF | PCRE2_NEVER_UCP | PCRE2_NEVER_BACKSLASH_C | (ignore_case ? PCRE2_CASELESS : 0);
  pcre2_code *code = pcre2_compile((PCRE2_SPTR)(pattern.data ? pattern.data : ""), pattern.length, options, &code_error, &offset, NULL);
  if (!code) {
    char text[120] = "";
    pcre2_get_error_message(code_error, (PCRE2_UCHAR *)text, sizeof text);
    snprintf(error, error_size, "is not a regular expression: %s at offset %zu", text, (size_t)offset);
    return NULL;
  }
  struct regex *regex = calloc(1, sizeof *regex);
  must(regex);
  regex->magic = REGEX_MAGIC;
  regex->code = code;
  uint32_t captures = 0;
  pcre2_pattern_info(code, PCRE2_INFO_CAPTURECOUNT, &captures);
  regex->groups = captures < REGEX_GROUPS ? (int)captures + 1 : REGEX_GROUPS;
  regex->limits = pcre2_match_context_create(NULL);
  must(regex->limits);
  pcre2_set_match_limit(regex->limits, LIMIT_REGEX_MATCH);
  pcre2_set_depth_limit(regex->limits, LIMIT_REGEX_DEPTH);
  pcre2_set_heap_limit(regex->limits, LIMIT_REGEX_HEAP_KIB);
  regex->has_jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  return regex;
}

void regex_free(struct regex *regex) {
  if (!regex) return;
  must(regex->magic == REGEX_MAGIC);
  regex->magic = 0;
  pcre2_match_context_free(regex->limits);
  pcre2_code_free(regex->code);
  free(regex);
}

/* The stack memory of one match. */
struct scratch {
  alignas(16) char bytes[1024];
  size_t used;
};

static void *scratch_allocate(PCRE2_SIZE size, void *data) {
  struct scratch *scratch = data;
  size_t rounded = (size + 15) & ~(size_t)15;
  if (rounded < size || rounded > sizeof scratch->bytes - scratch->used) return malloc(size);
  void *memory = scratch->bytes + scratch->used;
  scratch->used += rounded;
  return memory;
}

static void scratch_release(void *memory, void *data) {
  struct scratch *scratch = data;
  uintptr_t at = (uintptr_t)memory, start = (uintptr_t)scratch->bytes;
  if (at < start || at >= start + sizeof scratch->bytes) free(memory);
}

static enum limit_reached limit_of(int code) {
  switch (code) {
    case PCRE2_ERROR_MATCHLIMIT:
      return REACHED_REGEX_MATCH;
    case PCRE2_ERROR_DEPTHLIMIT:
      return REACHED_REGEX_DEPTH;
    case PCRE2_ERROR_HEAPLIMIT:
    case PCRE2_ERROR_NOMEMORY:
    case PCRE2_ERROR_JIT_STACKLIMIT:
      return REACHED_REGEX_HEAP_KIB;
    default:
      return REACHED_NONE;
  }
}

bool regex_match(const struct regex *regex, struct span subject, struct regex_match *match, enum limit_reached *limit) {
  must(regex->magic == REGEX_MAGIC);
  struct scratch scratch;
  scratch.used = 0;
  if (match) match->count = 0;
  pcre2_general_context *memory = pcre2_general_context_create(scratch_allocate, scratch_release, &scratch);
  must(memory);
  pcre2_match_data *data = pcre2_match_data_create(REGEX_GROUPS, memory);
  must(data);
  PCRE2_SPTR bytes = (PCRE2_SPTR)(subject.data ? subject.data : "");
  int found = pcre2_match(regex->code, bytes, subject.length, 0, 0, data, regex->limits);
  /* The JIT's stack is fixed; the interpreter's is the heap limit, so it decides what the JIT could not. */
  if (found == PCRE2_ERROR_JIT_STACKLIMIT && regex->has_jit) found = pcre2_match(regex->code, bytes, subject.length, 0, PCRE2_NO_JIT, data, regex->limits);
  if (limit) *limit = found < 0 ? limit_of(found) : REACHED_NONE;
  if (found >= 0 && match) {
    const PCRE2_SIZE *pairs = pcre2_get_ovector_pointer(data);
    match->count = regex->groups;
    int last = found == 0 ? REGEX_GROUPS : found; /* 0: more groups than we keep */
    for (int i = 0; i < REGEX_GROUPS; i++) {
      bool is_set = i < last && pairs[2 * i] != PCRE2_UNSET && pairs[2 * i + 1] >= pairs[2 * i];
      match->groups[i] = is_set ? (struct span){(const char *)bytes + pairs[2 * i], pairs[2 * i + 1] - pairs[2 * i]} : (struct span){NULL, 0};
    }
  }
  pcre2_match_data_free(data);
  pcre2_general_context_free(memory);
  return found >= 0;
}
