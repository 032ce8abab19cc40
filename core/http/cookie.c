/* Cookies of a request, and dates as fields carry them. Pure; any thread. */
#include "http/cookie.h"

struct span cookie_get(const struct headers *headers, struct span name, enum limit_reached *limit) {
  *limit = REACHED_NONE;
  unsigned looked_at = 0;
  const struct header *field = NULL;
  while ((field = headers_next_name(headers, SPAN("cookie"), field)) != NULL) {
    struct span rest = field->value, pair;
    while (span_next_item(&rest, ';', &pair)) {
      if (looked_at++ == LIMIT_COOKIES) {
        *limit = REACHED_COOKIES;
        return (struct span){NULL, 0};
      }
      size_t equals = span_find(pair, '=');
      if (equals == pair.length) continue;
      struct span key = span_trim(span_make(pair.data, equals));
      if (span_equal(key, name)) return span_trim(span_skip(pair, equals + 1));
    }
  }
  return (struct span){NULL, 0};
}

/* Days since 1970-01-01 to a date of the Gregorian calendar, in eras of 400 years that begin on 1 March, so that the leap day is a year's last. */
static void date_of(int64_t days, int64_t *year, unsigned *month, unsigned *day) {
  int64_t shifted = days + 719468; /* since 0000-03-01 */
  int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
  unsigned in_era = (unsigned)(shifted - era * 146097);
  unsigned year_of_era = (in_era - in_era / 1460 + in_era / 36524 - in_era / 146096) / 365;
  unsigned day_of_year = in_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
  unsigned shifted_month = (5 * day_of_year + 2) / 153;
  *day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
  *month = shifted_month < 10 ? shifted_month + 3 : shifted_month - 9;
  *year = (int64_t)year_of_era + era * 400 + (*month <= 2);
}

static char *put_digits(char *out, unsigned value, unsigned digits) {
  for (unsigned i = digits; i-- > 0; value /= 10) out[i] = (char)('0' + value % 10);
  return out + digits;
}

size_t http_date(int64_t unix_seconds, char out[32]) {
  static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
  const int64_t last = 253402300799; /* 9999-12-31: the form has four digits for the year */
  if (unix_seconds < 0) unix_seconds = 0;
  if (unix_seconds > last) unix_seconds = last;
  int64_t day_number = unix_seconds / 86400, year;
  unsigned second = (unsigned)(unix_seconds % 86400), month, day;
  date_of(day_number, &year, &month, &day);
  char *at = out;
  memcpy(at, days + 3 * ((day_number + 4) % 7), 3);
  memcpy(at + 3, ", ", 2);
  at = put_digits(at + 5, day, 2);
  *at++ = ' ';
  memcpy(at, months + 3 * (month - 1), 3);
  at[3] = ' ';
  at = put_digits(at + 4, (unsigned)year, 4);
  *at++ = ' ';
  at = put_digits(at, second / 3600, 2);
  *at++ = ':';
  at = put_digits(at, second / 60 % 60, 2);
  *at++ = ':';
  at = put_digits(at, second % 60, 2);
  memcpy(at, " GMT", 5);
  return 29;
}
