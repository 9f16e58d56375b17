#!/usr/bin/env bash
# Runs the fuzz targets one after the other, at the lowest priority, and prints one line for each.
#
#   fuzz/run.sh [SECONDS [TARGET…]]       default: 300 seconds each, all targets
#
# Needs a nightly toolchain and cargo-fuzz (cargo install cargo-fuzz --locked). Each target starts from fuzz/seeds/TARGET
# and keeps what it learns in fuzz/corpus/TARGET; a crash is left in fuzz/artifacts/TARGET, and the exit status is 1.
# The sidecar has no unsafe code of its own, so the sanitizer is off and the time goes into inputs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-300}
[ $# -eq 0 ] || shift
if [ $# -gt 0 ]; then targets=("$@"); else mapfile -t targets < <(cargo +nightly fuzz list); fi
# All at once and before the first run: a change of the sources meanwhile does not build the sidecar again.
nice cargo +nightly fuzz build --sanitizer none
programs=fuzz/target/$(rustc +nightly -vV | sed -n 's/^host: //p')/release
failed=0
for target in "${targets[@]}"; do
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target" fuzz/logs
  log="fuzz/logs/$target.txt"
  verdict=clean
  nice -n 19 "$programs/$target" "fuzz/corpus/$target" "fuzz/seeds/$target" -artifact_prefix="fuzz/artifacts/$target/" \
    -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 >"$log" 2>&1 ||
    { verdict=FAILED; failed=1; grep -aE "panicked|SUMMARY|Test unit written|ERROR" "$log" | head -n 5; }
  runs=$(grep -aE '^Done [0-9]+ runs' "$log" | tail -n 1 || true)
  units=$(grep -aoE 'cov: [0-9]+ ft: [0-9]+ corp: [^ ]+' "$log" | tail -n 1 || true)
  printf '%-12s %-7s %s; %s\n' "$target" "$verdict" "${runs:-no summary, see $log}" "$units"
done
exit $failed
