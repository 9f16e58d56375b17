#!/usr/bin/env bash
# Tidelog in one command: installs what it needs, starts a store and the sidecar, lets ordinary PyMongo programs write
# through it, cuts windows, shows what happened, and audits the result twice. Exit status 0 only if it all holds.
#
#   deploy/demo.sh
#
# TIDELOG_STORE_URI   use this running store (mongodb://HOST:PORT/…); a database of its own is made and dropped there
# TIDELOG_STORE_BIN   start this store (mongod or a compatible one) instead of `mongod` or the test store
# TIDELOG_BIN         use this sidecar instead of building it
# TIDELOG_DEMO_DIR    where logs and windows are left to look at (default: target/demo)
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=deploy/lib.sh
source "$root/deploy/lib.sh"

bold() { if [ -t 1 ]; then printf '\n\033[1m%s\033[0m\n' "$*"; else printf '\n%s\n' "$*"; fi; }

STORE_PID='' SIDECAR_PID='' STORE_URI='' DATABASE=shop VERDICT=''
finish() {
  local status=$?
  trap - EXIT
  [ -z "$SIDECAR_PID" ] || kill "$SIDECAR_PID" 2>/dev/null || true
  if [ -n "${TIDELOG_STORE_URI:-}" ] && [ -n "$STORE_URI" ]; then
    "$VENV_PYTHON" -c 'import pymongo, sys; pymongo.MongoClient(sys.argv[1]).drop_database(sys.argv[2])' \
      "$STORE_URI" "$DATABASE" || say "the database $DATABASE is still in the given store"
  fi
  [ -z "$STORE_PID" ] || kill "$STORE_PID" 2>/dev/null || true
  wait 2>/dev/null || true
  if [ -n "$VERDICT" ] && [ $status = 0 ]; then
    bold "VERDICT: $VERDICT"
  else
    [ $status != 0 ] || status=1
    if [ -f "${dir:-}/sidecar.txt" ]; then say "the sidecar's last words:"; tail -n 20 "$dir/sidecar.txt" >&2; fi
    bold "VERDICT: NOT VERIFIED (exit $status)"
  fi
  exit $status
}
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

began=$SECONDS
ensure_apt python3 ca-certificates
ensure_venv "$root/deploy/demo/requirements.txt"
ensure_store
build_release
set_up=$((SECONDS - began))

dir=${TIDELOG_DEMO_DIR:-$root/target/demo}
rm -rf "$dir/store" "$dir/data" "$dir/export"
mkdir -p "$dir"
read -r store_port listen_port admin_port < <(free_ports 3)

bold "A store, and the sidecar before it"
if [ -n "${TIDELOG_STORE_URI:-}" ]; then
  STORE_URI=$TIDELOG_STORE_URI
  DATABASE=shop_demo_$$
  read -r STORE_ADDRESS < <("$VENV_PYTHON" -c '
import pymongo.uri_parser, sys
print("{}:{}".format(*pymongo.uri_parser.parse_uri(sys.argv[1])["nodelist"][0]))' "$STORE_URI")
else
  start_store "$dir/store" "$store_port"
  STORE_URI="mongodb://$STORE_ADDRESS/?directConnection=true"
fi
"$TIDELOG_BIN" run --listen "127.0.0.1:$listen_port" --upstream "$STORE_ADDRESS" --data "$dir/data" \
  --export "$dir/export" --admin "127.0.0.1:$admin_port" >"$dir/sidecar.txt" 2>&1 &
SIDECAR_PID=$!
ready() {
  kill -0 "$SIDECAR_PID" || exit 1
  "$VENV_PYTHON" -c 'import sys, urllib.request; urllib.request.urlopen(sys.argv[1], timeout=2)' \
    "http://127.0.0.1:$admin_port/readyz"
}
wait_for 30 ready || die "the sidecar does not become ready"
echo "  programs → tidelog 127.0.0.1:$listen_port → store $STORE_ADDRESS"

bold "Seven ordinary PyMongo programs at work (deploy/demo/workload.py)"
app_uri=$("$VENV_PYTHON" - "$STORE_URI" "127.0.0.1:$listen_port" <<'PY'
import sys
given, address = sys.argv[1:]
scheme, rest = given.split("://", 1)
hosts, slash, tail = rest.partition("/")
login, at, _ = hosts.rpartition("@")
print(f"mongodb://{login}{at}{address}{slash or '/'}{tail}".replace("directConnection=true", ""))
PY
)
"$VENV_PYTHON" "$root/deploy/demo/workload.py" "$app_uri" "$DATABASE" "$dir/summary.json"

bold "The last window is closed (tidelog cut --label demo-end)"
"$TIDELOG_BIN" cut --admin "127.0.0.1:$admin_port" --label demo-end
"$TIDELOG_BIN" status --admin "127.0.0.1:$admin_port"

"$VENV_PYTHON" "$root/deploy/demo/show.py" "$dir/export" "$DATABASE"

bold "Windows (tidelog windows)"
"$TIDELOG_BIN" windows "$dir/export"

bold "Audit by Tidelog (tidelog verify)"
"$TIDELOG_BIN" verify "$dir/export"

bold "Audit by an outsider: DuckDB and PyMongo against the store itself (deploy/demo/check.py)"
"$VENV_PYTHON" "$root/deploy/demo/check.py" "$dir/export" "$STORE_URI" "$dir/summary.json"

kill -TERM "$SIDECAR_PID"
wait "$SIDECAR_PID" || die "the sidecar did not end with 0 at SIGTERM"
SIDECAR_PID=''
echo
echo "Look yourself:  $TIDELOG_BIN log $dir/data | head     ls $dir/export     (set-up took ${set_up} s)"
VERDICT="VERIFIED: every acknowledged change is in the windows, exactly once, and the windows give the store's state"
