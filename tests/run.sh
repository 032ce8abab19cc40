#!/usr/bin/env bash
# Runs the tests and ends with "N passed, N failed". A skipped test, a crashed program and a missing tool count as failed.
#   tests/run.sh [all|unit|spec|docs|e2e|check|churn|waits|fuzz|long|cluster]
set -uo pipefail
cd "$(dirname "$0")/.."
what=${1:-all}
passed=0 failed=0
log=build/test-logs
mkdir -p "$log"

pass() { passed=$((passed + $1)); }
fail() { failed=$((failed + $1)); }
section() { printf '\n== %s\n' "$1"; }

# Programs that do not disturb each other run at once, as many as there are processors; four at most, since some look at the time that things take.
declare -A started
room=$(nproc)
[ "$room" -le 4 ] || room=4
trap 'kill $(jobs -p) 2>/dev/null' EXIT

start() { # name, program...: as soon as there is room; what it prints is in its log
  local name=$1
  shift
  while [ "$(jobs -rp | wc -l)" -ge "$room" ]; do wait -n; done
  "$@" >"$log/$name.log" 2>&1 &
  started[$name]=$!
}

# What became of a program that prints TAP; its exit status and its last lines count too.
tap() { # name
  local name=$1 out="$log/$1.log" status ok bad
  wait "${started[$name]}"
  status=$?
  ok=$(grep -cE '^ok ' "$out")
  bad=$(grep -E '^not ok |^ok .*# (SKIP|skip)' "$out" | wc -l)
  ok=$((ok - $(grep -cE '^ok .*# (SKIP|skip)' "$out")))
  if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then bad=1; fi
  if [ "$ok" -eq 0 ] && [ "$bad" -eq 0 ]; then bad=1; echo "$name: ran no test" >>"$out"; fi
  pass "$ok"; fail "$bad"
  if [ "$bad" -gt 0 ]; then printf 'FAILED  %s (%s failed)\n' "$name" "$bad"; grep -vE '^ok ' "$out" | tail -n 60; else printf 'ok      %-40s %s\n' "$name" "$ok"; fi
}

one() { # name, command...: one test
  local name=$1 out="$log/$1.log"
  shift
  if "$@" >"$out" 2>&1; then pass 1; printf 'ok      %s\n' "$name"; else fail 1; printf 'FAILED  %s\n' "$name"; tail -n 60 "$out"; fi
}

build() { # variant, targets...
  local variant=$1
  shift
  if ! make --no-print-directory -j"$(nproc)" VARIANT="$variant" "$@" >"$log/build-$variant.log" 2>&1; then
    fail 1; echo "FAILED  build $variant"; grep -E 'error|warning|undefined' "$log/build-$variant.log" | head -40; tail -5 "$log/build-$variant.log"
    return 1
  fi
}

run_check() {
  section "layering, sizes, format"
  one layering python3 tests/checks/layering.py
  one sizes python3 tests/checks/sizes.py
  one format make --no-print-directory format-check
  one lint make --no-print-directory lint
}

run_unit() {
  section "unit tests (ASan, UBSan)"
  build dev units || return
  one state python3 tests/checks/state.py
  local test tests=() room=$((2 * room)) # most of their time they wait
  for test in build/dev/unit/test_*; do
    case $test in *.d) continue ;; esac
    tests+=("$test")
    start "$(basename "$test")" env CMOCKA_MESSAGE_OUTPUT=TAP timeout 300 "$test"
  done
  for test in "${tests[@]}"; do tap "$(basename "$test")"; done
  section "fuzz corpora as regressions"
  for test in build/dev/fuzz/replay_*; do
    [ -x "$test" ] || continue
    local corpus=tests/fuzz/corpus/${test##*replay_}
    one "$(basename "$test")" timeout 300 "$test" "$corpus"
  done
}

# Those that make threads: the others have nothing to race with.
run_threaded_units() {
  section "unit tests with threads (TSan)"
  local source name names=() targets=()
  for source in $(grep -l pthread_create tests/unit/test_*.c); do
    name=$(basename "$source" .c)
    names+=("$name") targets+=("build/tsan/unit/$name")
  done
  build tsan "${targets[@]}" || return
  for name in "${names[@]}"; do start "$name-tsan" env CMOCKA_MESSAGE_OUTPUT=TAP timeout 300 "build/tsan/unit/$name"; done
  for name in "${names[@]}"; do tap "$name-tsan"; done
}

# What a fuzzer finds of interest stays in build/fuzz/found; what makes it fail belongs into the corpus.
run_fuzz() { # seconds each
  section "fuzzers (clang, ASan, UBSan)"
  CC=clang build fuzz fuzzers || return
  local fuzzer name found
  for fuzzer in build/fuzz/fuzz/fuzz_*; do
    [ -x "$fuzzer" ] || continue
    name=${fuzzer##*fuzz_} found=build/fuzz/found/${fuzzer##*fuzz_}
    mkdir -p "$found"
    one "fuzz-$name" nice "$fuzzer" -max_total_time="$1" -timeout=10 -max_len=16384 -print_final_stats=1 -artifact_prefix="$log/fuzz-$name-" "$found" "tests/fuzz/corpus/$name"
    grep -E 'number_of_executed_units' "$log/fuzz-$name.log"
  done
}

run_spec() {
  section "specs (busted on LuaJIT, over the real C)"
  build dev library || return
  local asan files i names=()
  asan=$(gcc -print-file-name=libasan.so)
  mapfile -t files < <(find spec policies/examples -name '*_spec.lua' | sort)
  for ((i = 0; i < ${#files[@]}; i += 10)); do
    names+=("specs-$i")
    start "specs-$i" env LD_PRELOAD="$asan" ASAN_OPTIONS=detect_leaks=0 MOONGATE_HOME="$PWD" LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;$PWD/?.lua;;" \
      LUA_CPATH="$PWD/build/dev/lib/?.so;;" timeout 600 luajit /usr/bin/busted --output=TAP --pattern=_spec "${files[@]:i:10}"
  done
  for i in "${names[@]}"; do tap "$i"; done
}

run_docs() {
  build dev library || return
  one docs env LD_PRELOAD="$(gcc -print-file-name=libasan.so)" ASAN_OPTIONS=detect_leaks=0 LUA_PATH="$PWD/lua/?.lua;$PWD/lua/?/init.lua;;" LUA_CPATH="$PWD/build/dev/lib/?.so;;" \
    luajit docs/generate.lua "$PWD"
}

start_pytest() { # name, seconds, files or a folder...
  start "$1" env MOONGATE_BINARY="$PWD/build/dev/moongate" timeout "$2" python3 -m pytest -q -p no:cacheprovider "${@:3}"
}

# What became of a pytest: its last line is counted.
pytests() { # name
  local name=$1 out="$log/$1.log" line n status bad=0
  wait "${started[$name]}"
  status=$?
  line=$(grep -E '^[0-9]+ (passed|failed|error)|^=+ .*(passed|failed|error)' "$out" | tail -n 1)
  n=$(grep -oE '[0-9]+ passed' <<<"$line" | grep -oE '[0-9]+'); pass "${n:-0}"
  for word in failed error skipped; do
    n=$(grep -oE "[0-9]+ $word" <<<"$line" | grep -oE '[0-9]+'); bad=$((bad + ${n:-0}))
  done
  [ "$status" -ne 0 ] && [ "$bad" -eq 0 ] && bad=1
  fail "$bad"
  if [ "$bad" -gt 0 ]; then printf 'FAILED  %s (%s failed)\n' "$name" "$bad"; tail -n 120 "$out"; else printf 'ok      %-40s %s\n' "$name" "$line"; fi
}

run_e2e() {
  section "end-to-end tests (ASan, UBSan)"
  build dev binary || return
  build release binary library || return # some try what users run
  local files alone i names=()
  mapfile -t alone < <(grep -l 'p99(' tests/e2e/test_*.py) # what is compared with a quieter time
  mapfile -t files < <(printf '%s\n' tests/e2e/test_*.py | grep -vxF "$(printf '%s\n' "${alone[@]}")")
  start_pytest e2e-alone 600 "${alone[@]}"
  pytests e2e-alone
  for ((i = 0; i < ${#files[@]}; i += 4)); do
    names+=("e2e-$i")
    start_pytest "e2e-$i" 600 "${files[@]:i:4}"
  done
  for i in "${names[@]}"; do pytests "$i"; done
}

run_cluster() {
  section "a real API server (the test cluster is built once, which takes five minutes)"
  bash tests/cluster/build.sh >/dev/null || { fail 1; return; }
  one gofmt bash -c '[ -z "$(gofmt -l tests/cluster/controlplane | tee /dev/stderr)" ]'
  build dev binary || return
  build release binary library || return
  start_pytest cluster 1800 tests/cluster
  pytests cluster
}

run_churn() { # variant, seconds, extra...
  section "configuration changes under load ($1, $2 s)"
  build "$1" binary || return
  local binary=build/moongate
  [ "$1" = release ] || binary=build/$1/moongate
  one "churn-$1" timeout 400 python3 tests/e2e/churn.py --binary "$binary" --seconds "$2" "${@:3}"
  [ -f "$log/churn-$1.log" ] && tail -n 15 "$log/churn-$1.log"
}

run_waits() { # variant, swaps, pause
  section "policies that wait, changed under load ($1)"
  build "$1" binary || return
  local binary=build/moongate
  [ "$1" = release ] || binary=build/$1/moongate
  one "waits-$1" timeout 400 python3 tests/e2e/waits.py --binary "$binary" --rounds 0 --swaps "$2" --pause "$3"
  [ -f "$log/waits-$1.log" ] && tail -n 15 "$log/waits-$1.log"
}

case $what in
  check) run_check ;;
  unit) run_unit ;;
  spec) run_spec ;;
  docs) run_docs ;;
  e2e) run_e2e ;;
  churn) run_churn release 30 ;;
  cluster) run_cluster ;;
  fuzz) run_fuzz "${FUZZ_SECONDS:-60}" ;;
  waits) run_waits release 200 0.1 ;;
  long) run_threaded_units; run_churn tsan 30 --workers 4; run_waits tsan 100 0.3; run_fuzz "${FUZZ_SECONDS:-20}" ;;
  all) run_check; run_unit; run_spec; run_e2e; run_churn release 30; run_waits release 200 0.1 ;;
  *) echo "usage: tests/run.sh [all|unit|spec|docs|e2e|check|churn|waits|fuzz|long|cluster]" >&2; exit 2 ;;
esac

printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" -eq 0 ]
