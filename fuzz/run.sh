#!/usr/bin/env bash
# Runs the fuzz targets one after the other, at the lowest priority, and prints one line for each.
#
#   fuzz/run.sh [SECONDS [TARGET…]]       default: 300 seconds, all targets
#
# Needs a nightly toolchain and cargo-fuzz (cargo install cargo-fuzz --locked). Each target starts from fuzz/seeds/TARGET
# and keeps what it learns in fuzz/corpus/TARGET; a crash is left in fuzz/artifacts/TARGET, and the exit status is 1.
# The sidecar has no unsafe code of its own, so the sanitizer is off and the time goes into inputs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-300}
[ $# -eq 0 ] || shift
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo +nightly fuzz list); fi
failed=0
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" fuzz/logs
  log="fuzz/logs/$target.txt"
  nice -n 19 cargo +nightly fuzz build --sanitizer none "$target" >"$log" 2>&1 || { tail -n 30 "$log"; exit 1; }
  verdict=clean
  nice -n 19 cargo +nightly fuzz run --sanitizer none "$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 >>"$log" 2>&1 ||
    { verdict=FAILED; failed=1; grep -aE "panicked|SUMMARY|Test unit written|ERROR" "$log" | head -n 5; }
  done_line=$(grep -aE '^Done [0-9]+ runs' "$log" | tail -n 1 || true)
  units=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [^ ]+' "$log" | tail -n 1 || true)
  printf '%-12s %-7s %s; %s\n' "$target" "$verdict" "${done_line:-no summary, see $log}" "$units"
done
exit $failed
