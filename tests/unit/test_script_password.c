/* Password: hashes of every form, made by other programs (openssl passwd, htpasswd's manual, libcrypt), and what is no hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "script/password.h"

static const struct {
  const char *hash, *text;
} good[] = {
    {"{PLAIN}correct horse", "correct horse"},
    {"{PLAIN}", ""},
    {"{SHA}L55TUjtiq8FBorTWAZ0jy6g129A=", "correct horse"},
    {"{SHA}VBPuJHI7uixaa6LQGWx4s+5GKNE=", "myPassword"},
    {"{SSHA}YjOxnlnw8lITpqjG3t+XV9jV7otwZXBwZXI=", "correct horse"},
    {"$apr1$saltsalt$EGVZDNN6gOqijy.tv9axG/", "correct horse"},
    {"$apr1$r31.....$HqJZimcKQFAMYayBlzkrA/", "myPassword"},
    {"$apr1$ab$S8K6Sgp3W8c9Jb6LxgywZ.", ""},
    {"$1$saltsalt$NuzA7WTAelpl95xgBGWN60", "correct horse"},
    {"$1$ab$rn6aQS/o7141mj179E/zA.", ""},
    {"$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2", "correct horse"},
    {"$2a$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e", "correct horse"},
    {"$2b$04$abcdefghijklmnopqrstuujydOTSfIH/d5oUHpsygqV5X9xJLQc6e", "correct horse"},
    {"$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC", "myPassword"},
    {"$5$saltsalt$myjXcpMpE2Ofk7fj9hqyNYSn6lmWG4Mqnjx.KIRRr4/", "correct horse"},
    {"$5$rounds=1234$saltsalt$IPNoxPXVUhlwamW/ZS1enXFZb.MKNIY4iBNiXBT.n9A", "correct horse"},
    {"$6$saltsalt$hRM5XZ86KXEw9UOmjigeVqFgULtFB2sgpC9lXQDfMib3Zgw7mEiUvBJI2EplzfAqxL5Vvwp2scFtv/uamSo5z0", "correct horse"},
    {"$6$rounds=1000$saltsalt$4GMtaIz3E1AdDi2SmCokEW0ehi.HdxNDcL3fGE1XXuzvo6kbx7UOloZKONqEk5H3JrQA4NOfU8BmqFPrpGqwA1", "correct horse"},
    {"abhfCpXqd4GrI", "correct horse"},
    {"rqXexS6ZhobKA", "myPassword"},
};
#define GOOD (sizeof good / sizeof *good)

static void knows_the_right_text(void **state) {
  (void)state;
  for (size_t i = 0; i < GOOD; i++) {
    struct span hash = span_of(good[i].hash);
    if (password_complaint(hash)) fail_msg("%s: %s", good[i].hash, password_complaint(hash));
    if (!password_matches(hash, span_of(good[i].text))) fail_msg("%s", good[i].hash);
  }
}

static void knows_a_wrong_text(void **state) {
  (void)state;
  static char longest[PASSWORD_TEXT_BYTES + 2];
  for (size_t i = 0; i < GOOD; i++) {
    struct span hash = span_of(good[i].hash);
    size_t length = strlen(good[i].text);
    char other[64];
    assert_false(password_matches(hash, SPAN("wrong")));
    snprintf(other, sizeof other, "%sx", good[i].text);
    if (strlen(other) <= 8 || hash.length != 13) assert_false(password_matches(hash, span_of(other))); /* the old crypt looks at 8 characters */
    if (length > 0) {
      assert_false(password_matches(hash, span_make(good[i].text, length < 8 ? length - 1 : 7)));
      assert_false(password_matches(hash, SPAN("")));
    }
    /* what C takes for the end is none */
    memcpy(other, good[i].text, length);
    other[length] = '\0';
    other[length + 1] = 'x';
    assert_false(password_matches(hash, span_make(other, length + 2)));
    /* one letter of the hash */
    char changed[PASSWORD_HASH_BYTES];
    snprintf(changed, sizeof changed, "%s", good[i].hash);
    size_t at = strlen(changed) - 3;
    changed[at] = changed[at] == 'A' ? 'B' : 'A';
    if (hash.length > 7) assert_false(password_matches(span_of(changed), span_of(good[i].text)));
    memset(longest, 'a', sizeof longest - 1);
    assert_false(password_matches(hash, span_of(longest)));
  }
}

static void knows_what_is_no_hash(void **state) {
  (void)state;
  static const char *const bad[] = {
      "",
      "plain text",
      "$",
      "$2y$",
      "$3$x",
      "$y$j9T$abc$def",
      "{MD5}xyz",
      "{plain}x",
      "{SHA}",
      "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A",
      "{SHA}L55TUjtiq8FBorTW",
      "{SHA}L55TUjtiq8FBorTWAZ0jy6g129A====",
      "{SSHA}YjOx",
      "$apr1$",
      "$apr1$salt",
      "$apr1$salt$",
      "$apr1$salt$short",
      "$apr1$salt$EGVZDNN6gOqijy.tv9ax!/",
      "$1$salt$x",
      "$2y$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy",
      "$2y$5$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy22",
      "$2y$03$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
      "$2y$15$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
      "$2y$31$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
      "$2x$05$abcdefghijklmnopqrstuuHNbAKRhpaujgo33bRWs.NLUTJO3lOy2",
      "$5$saltsalt",
      "$5$saltsalt$short",
      "$5$rounds=$saltsalt$myjXcpMpE2Ofk7fj9hqyNYSn6lmWG4Mqnjx.KIRRr4/",
      "$5$rounds=1000001$saltsalt$myjXcpMpE2Ofk7fj9hqyNYSn6lmWG4Mqnjx.KIRRr4/",
      "$5$rounds=99999999999999999999$s$myjXcpMpE2Ofk7fj9hqyNYSn6lmWG4Mqnjx.KIRRr4/",
      "abhfCpXqd4Gr",
      "abhfCpXqd4Gr:",
      "*0",
      "x",
      "!",
      "*",
  };
  for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
    if (!password_complaint(span_of(bad[i]))) fail_msg("%s", bad[i]);
    assert_false(password_matches(span_of(bad[i]), SPAN("correct horse")));
    assert_false(password_matches(span_of(bad[i]), SPAN("")));
    assert_false(password_matches(span_of(bad[i]), span_of(bad[i])));
  }
  assert_non_null(password_complaint(SPAN("{PLAIN}a\0b")));
  char longest[PASSWORD_HASH_BYTES + 2] = "{PLAIN}";
  memset(longest + 7, 'a', sizeof longest - 8);
  assert_non_null(password_complaint(span_make(longest, PASSWORD_HASH_BYTES + 1)));
  assert_null(password_complaint(span_make(longest, PASSWORD_HASH_BYTES)));
}

static void knows_which_take_time(void **state) {
  (void)state;
  for (size_t i = 0; i < GOOD; i++) assert_int_equal(password_is_quick(span_of(good[i].hash)), good[i].hash[0] == '{');
}

int main(void) {
  const struct CMUnitTest tests[] = {
      cmocka_unit_test(knows_the_right_text),
      cmocka_unit_test(knows_a_wrong_text),
      cmocka_unit_test(knows_what_is_no_hash),
      cmocka_unit_test(knows_which_take_time),
  };
  return cmocka_run_group_tests(tests, NULL, NULL);
}
