#!/usr/bin/env bash
# Every test of Tidelog, with all set-up. Needs Debian and Rust; installs the rest once (see deploy/lib.sh).
#
#   deploy/test.sh                 everything
#   deploy/test.sh rust            format, lints, docs, bans, Rust tests
#   deploy/test.sh e2e [ARG…]      the black-box tests against a real store; ARGs go to pytest
#   deploy/test.sh model [N]       only the model of the protocol: N random schedules (default 20000; the long form: 1000000)
#   deploy/test.sh restarts [ARG…] only the restarts of the store; the long form: TIDELOG_STORE_KILLS=60 deploy/test.sh restarts
#   deploy/test.sh kills [ARG…]    only the kill test; the long form: TIDELOG_KILLS=200 deploy/test.sh kills
#   deploy/test.sh nemesis [ARG…]  only the nemesis; the long form: TIDELOG_FAULTS=2000 deploy/test.sh nemesis
#                                  (one kind of store: -k replica-keeps, replica-loses, standalone-keeps or standalone-loses)
#
# TIDELOG_STORE_BIN   test against this store (default: mongod, else the test store is built)
# TIDELOG_WORKERS     so many black-box tests run at the same time (default: cores + 1; most of them wait most of the time)
# TIDELOG_BIN         test this sidecar (default: the debug build of this tree)
# TIDELOG_SCHEDULES   schedules of the model (default 20000); TIDELOG_FIRST_SEED: the first of them (default 1)
# TIDELOG_SEED        replay a run of the random tests; each prints its seed
# TIDELOG_ACTIONS     writes per client in the end-to-end workload (default 250)
# TIDELOG_KILLS       kills per mode in the kill test (default 10)
# TIDELOG_STORE_KILLS kills per mode in the restart test (default 4)
# TIDELOG_FAULTS      faults of the nemesis, over all kinds of store (default 64)
# TIDELOG_EVIDENCE    where a failed nemesis leaves folders, logs, diaries and a dump (default: tidelog-evidence beside other temporary files)
#
# Exit status 0 only if every phase passed. The last line counts tests; a phase that is no test run counts as one.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=deploy/lib.sh
source "$root/deploy/lib.sh"
cd "$root"

passed=0 failed=0 summary=()
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# phase NAME COMMAND…: runs it, adds what its test runner counted, never ends the script.
phase() {
  local name=$1 began=$SECONDS status=0 counted
  shift
  printf '\n=== %s\n' "$name"
  set +e
  (set -e; "$@") 2>&1 | tee "$scratch/out"
  status=${PIPESTATUS[0]}
  set -e
  read -r good bad < <(count "$scratch/out")
  counted=$((good + bad))
  if [ "$status" = 0 ] && [ "$counted" = 0 ]; then good=1; fi
  if [ "$status" != 0 ] && [ "$bad" = 0 ]; then bad=1; fi
  passed=$((passed + good)) failed=$((failed + bad))
  summary+=("$(printf '%-28s %-4s %5d passed %4d failed %5d s' "$name" "$([ "$status" = 0 ] && echo ok || echo FAIL)" "$good" "$bad" $((SECONDS - began)))")
  printf -- '--- %s: %s (%d s)\n' "$name" "$([ "$status" = 0 ] && echo passed || echo FAILED)" $((SECONDS - began))
}

# Sums the closing lines of cargo test and pytest.
count() {
  awk '
    { gsub(/\033\[[0-9;]*m/, "") }
    /^test result: / || /^=+ .*(passed|failed|error).* in [0-9]/ || /^[0-9]+ (passed|failed|error).* in [0-9]/ {
      for (i = 2; i <= NF; i++) {
        if ($i ~ /^passed/) good += $(i - 1)
        if ($i ~ /^(failed|errors?)/) bad += $(i - 1)
      }
    }
    END { print good + 0, bad + 0 }' "$1"
}

rust_checks() {
  phase "format" cargo fmt --all --check
  phase "lints" cargo clippy --locked --all-targets -- -D warnings
  phase "lints, all features" cargo clippy --locked --all-targets --all-features -- -D warnings
  phase "lints, no features" cargo clippy --locked --all-targets --no-default-features -- -D warnings
  phase "docs" env RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
  phase "licences, bans, sources" cargo_deny
  phase "Rust tests" env TIDELOG_STORE_BIN="$STORE_BIN" cargo test --locked --no-fail-fast
  phase "model" model
}

# The model has a profile of its own: its long form runs for half an hour. The flag lets the seed choose also which of several
# tasks wakes first, so that TIDELOG_SEED replays a schedule exactly.
model() {
  RUSTFLAGS="--cfg tokio_unstable" cargo test --locked --profile model --no-default-features --features model --test model -- --nocapture
}

# Advisories need the database of the RustSec project from the network; where it cannot be had, that is said.
cargo_deny() {
  ensure_cargo_deny
  cargo fetch --locked --quiet # crates of other platforms too: their licences are looked at, nothing else asks for them
  cargo deny --locked --offline check bans licenses sources
  if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
  else
    echo "advisories: NOT CHECKED, the RustSec database cannot be reached from here"
  fi
}

scripts() {
  bash -n deploy/*.sh .ci/run
  if command -v shellcheck >/dev/null; then shellcheck -x deploy/*.sh .ci/run; else echo "shellcheck is not here: syntax only"; fi
}

build_debug() {
  cargo build --locked --bin tidelog
}

end_to_end() {
  export TIDELOG_STORE_BIN="$STORE_BIN" TIDELOG_NODE_CHECK="$NODE_CHECK" TIDELOG_GO_CHECK="$GO_CHECK"
  export TIDELOG_SECOND_STORE="$SECOND_STORE" TIDELOG_S3_SERVER="$S3_SERVER" TIDELOG_KAFKA="$KAFKA"
  export TIDELOG_DEBEZIUM_CHECK="$DEBEZIUM_CHECK" TIDELOG_DELTA_SCAN="$DELTA_SCAN"
  export TIDELOG_BIN="${TIDELOG_BIN:-${CARGO_TARGET_DIR:-$root/target}/debug/tidelog}"
  export PYTHONDONTWRITEBYTECODE=1
  cd "$root/tests/e2e"
  "$VENV_PYTHON" -m pytest -q --color=no "$@"
}

# Several at a time; each has its own folder, ports and programs. A worker takes the next tests of a file, so what a file shares
# is started twice at most.
side_by_side() {
  end_to_end -n "${TIDELOG_WORKERS:-$(($(nproc) + 1))}" --dist worksteal "$@"
}

what=${1:-all}
[ $# -eq 0 ] || shift
case $what in all | rust | e2e | kills | nemesis | restarts | model) ;; *) die "unknown part: $what (all, rust, e2e, kills, nemesis, restarts, model)" ;; esac
if [ "$what" = model ]; then export TIDELOG_SCHEDULES=${1:-${TIDELOG_SCHEDULES:-}}; fi
[ -n "${TIDELOG_SCHEDULES:-}" ] || unset TIDELOG_SCHEDULES

NODE_CHECK='' GO_CHECK='' SECOND_STORE='' S3_SERVER='' KAFKA='' DEBEZIUM_CHECK='' DELTA_SCAN=''
ensure_apt ca-certificates build-essential pkg-config cmake ninja-build clang libclang-dev perl openssl python3 python3-venv haproxy
ensure_rust
if [ "$what" != model ]; then
  ensure_venv "$root/tests/e2e/requirements.txt"
  ensure_store
fi
[ "$what" = model ] || [ -n "$STORE_BIN" ] || die "these tests start stores of their own: give a program with TIDELOG_STORE_BIN, not TIDELOG_STORE_URI"
if [ "$what" = all ] || [ "$what" = e2e ]; then
  ensure_node_check "$root/tests/drivers/node"
  ensure_go_check "$root/tests/drivers/go"
  ensure_second_store "$root/tests/second-store"
  ensure_s3_server
  ensure_kafka "$root/tests/kafka"
  ensure_debezium_check "$root/tests/debezium"
  ensure_delta_scan "$root/tests/delta/requirements.txt"
fi

case $what in
  all)
    phase "scripts" scripts
    rust_checks
    phase "build" build_debug
    phase "end to end" side_by_side "$@"
    ;;
  rust) phase "scripts" scripts; rust_checks ;;
  model) phase "model" model ;;
  e2e) phase "build" build_debug; phase "end to end" side_by_side "$@" ;;
  restarts) phase "build" build_debug; phase "restarts" end_to_end -s test_restart.py test_failover.py "$@" ;;
  kills) phase "build" build_debug; phase "kills" end_to_end -s test_kill.py "$@" ;;
  nemesis) phase "build" build_debug; phase "nemesis" end_to_end -s test_nemesis.py "$@" ;;
esac

printf '\n'
printf '%s\n' "${summary[@]}"
printf '\n%d passed, %d failed\n' "$passed" "$failed"
[ "$failed" = 0 ]
