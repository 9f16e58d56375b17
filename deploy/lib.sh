# Set-up shared by demo.sh and test.sh: what is missing is installed once and kept under $TIDELOG_TOOLS.
# shellcheck shell=bash disable=SC2034  # the caller reads what the functions set
# Sourced by bash with `set -euo pipefail`. Functions say what they do on standard error and fail with a remedy.
#
#   ensure_apt PACKAGE…      Debian packages, only the missing ones
#   ensure_rust              cargo on PATH
#   ensure_venv FILE         a Python environment with FILE's requirements; sets VENV_PYTHON
#   ensure_store             a store to test against; sets STORE_BIN (or leaves it empty when TIDELOG_STORE_URI is given)
#   ensure_node_check DIR    the Node.js program with its packages; sets NODE_CHECK to a folder
#   ensure_go_check DIR      the Go program, built; sets GO_CHECK
#   ensure_second_store DIR  mongo-java-server with H2, compiled; sets SECOND_STORE to a folder of classes and jars
#   ensure_s3_server         an S3 server for tests; sets S3_SERVER to a program
#   ensure_kafka DIR         the jars of Apache Kafka's broker; sets KAFKA to a folder of jars
#   ensure_debezium_check DIR  Debezium's transform with a program around it; sets DEBEZIUM_CHECK to a folder of classes and jars
#   ensure_delta_scan FILE   DuckDB with its Delta extension, in an environment of its own; sets DELTA_SCAN to its Python
#   ensure_cargo_deny        cargo-deny on PATH
#   build_release            the sidecar; sets TIDELOG_BIN unless it is given
#   free_ports N             prints N free ports of loopback
#   start_store DIR PORT     starts STORE_BIN, waits until it answers; sets STORE_PID and STORE_ADDRESS
#   wait_for SECONDS COMMAND…   until the command succeeds

: "${TIDELOG_TOOLS:=${HOME:-/root}/.cache/tidelog}"
export TIDELOG_TOOLS
# The test store where there is no mongod: a crate with its own WiredTiger, built from source.
STORE_CRATE=secantus-mdb
STORE_CRATE_VERSION=0.5.3-beta.196
CARGO_DENY_VERSION=0.20.2
# An S3 server that keeps objects as files of a folder; it has conditional writes and uploads in parts.
VERSITYGW_VERSION=v1.8.0

say() { printf '\033[2m%s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    die "must be root (or have sudo) to run: $*"
  fi
}

ensure_apt() {
  local missing=() package
  command -v dpkg-query >/dev/null || { say "no dpkg here: taking for granted that these are installed: $*"; return 0; }
  for package in "$@"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  say "installing Debian packages: ${missing[*]}"
  as_root apt-get update -qq >&2 || die "apt-get update failed"
  DEBIAN_FRONTEND=noninteractive as_root apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2 ||
    die "apt-get could not install: ${missing[*]}"
}

ensure_rust() {
  command -v cargo >/dev/null || PATH="${CARGO_HOME:-${HOME:-/root}/.cargo}/bin:$PATH"
  command -v cargo >/dev/null || die "no cargo: install Rust first, see https://rustup.rs"
}

ensure_venv() {
  local requirements=$1 sum
  sum=$(sha256sum "$requirements" | cut -c1-16)
  local venv="$TIDELOG_TOOLS/venv-$sum"
  VENV_PYTHON="$venv/bin/python"
  [ -e "$venv/complete" ] && return 0
  python3 -c 'import venv, ensurepip' 2>/dev/null || ensure_apt python3 python3-venv
  say "installing Python packages of $requirements into $venv"
  rm -rf "$venv"
  mkdir -p "$TIDELOG_TOOLS"
  python3 -m venv "$venv" || die "python3 -m venv failed"
  "$VENV_PYTHON" -m pip install -q --disable-pip-version-check -r "$requirements" >&2 ||
    die "pip could not install $requirements"
  : >"$venv/complete"
}

ensure_delta_scan() {
  local kept=${VENV_PYTHON:-}
  ensure_venv "$1"
  DELTA_SCAN=$VENV_PYTHON VENV_PYTHON=$kept
}

ensure_store() {
  STORE_BIN=${TIDELOG_STORE_BIN:-}
  if [ -n "${TIDELOG_STORE_URI:-}" ]; then return 0; fi
  if [ -n "$STORE_BIN" ]; then
    [ -x "$STORE_BIN" ] || die "TIDELOG_STORE_BIN=$STORE_BIN is not a program"
    return 0
  fi
  if STORE_BIN=$(command -v mongod); then return 0; fi
  STORE_BIN="$TIDELOG_TOOLS/bin/secantusd-rs"
  [ -x "$STORE_BIN" ] && "$STORE_BIN" --version | grep -qF "$STORE_CRATE_VERSION" && return 0
  ensure_apt build-essential cmake
  ensure_rust
  say "no mongod here: building the test store $STORE_CRATE $STORE_CRATE_VERSION (once, some minutes)"
  # From the root folder, so that no rust-toolchain file of a project is in force.
  (cd / && cargo install --quiet --locked --ignore-rust-version --root "$TIDELOG_TOOLS" \
    --version "=$STORE_CRATE_VERSION" --features bin --bin secantusd-rs "$STORE_CRATE") >&2 ||
    die "the test store could not be built; give one with TIDELOG_STORE_BIN or TIDELOG_STORE_URI"
}

# A number for the contents of files.
sum_of() { cat "$@" | sha256sum | cut -c1-16; }

# Installed beside the cache, so that the tree stays as it was checked out.
ensure_node_check() {
  local source=$1
  { command -v node && command -v npm; } >/dev/null || ensure_apt nodejs npm
  NODE_CHECK="$TIDELOG_TOOLS/node-$(sum_of "$source"/*.json "$source"/*.js)"
  [ -e "$NODE_CHECK/complete" ] && return 0
  say "installing the Node.js driver into $NODE_CHECK"
  rm -rf "$NODE_CHECK"
  mkdir -p "$NODE_CHECK"
  cp "$source"/*.json "$source"/*.js "$NODE_CHECK"
  (cd "$NODE_CHECK" && npm ci --silent --no-audit --no-fund) >&2 || die "npm could not install the Node.js driver"
  : >"$NODE_CHECK/complete"
}

ensure_go_check() {
  local source=$1
  command -v go >/dev/null || ensure_apt golang-go
  GO_CHECK="$TIDELOG_TOOLS/go-check-$(sum_of "$source"/go.mod "$source"/go.sum "$source"/*.go)"
  [ -x "$GO_CHECK" ] && return 0
  say "building the Go driver's program"
  mkdir -p "$TIDELOG_TOOLS"
  (cd "$source" && GOFLAGS=-mod=readonly GOTOOLCHAIN=local go build -o "$GO_CHECK.new" .) >&2 ||
    die "the Go program could not be built"
  mv "$GO_CHECK.new" "$GO_CHECK"
}

# A server that shares no code with the first one (see STORE_CRATE).
ensure_second_store() {
  local source=$1
  { command -v mvn && command -v javac; } >/dev/null || ensure_apt maven default-jdk-headless
  SECOND_STORE="$TIDELOG_TOOLS/second-store-$(sum_of "$source"/pom.xml "$source"/*.java)"
  [ -e "$SECOND_STORE/complete" ] && return 0
  say "installing the second store into $SECOND_STORE"
  rm -rf "$SECOND_STORE"
  mkdir -p "$SECOND_STORE"
  cp "$source"/pom.xml "$source"/*.java "$SECOND_STORE"
  (cd "$SECOND_STORE" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$SECOND_STORE/jars") >&2 || die "Maven could not install mongo-java-server"
  (cd "$SECOND_STORE" && javac -cp 'jars/*' -d . ./*.java) >&2 || die "the second store's launcher could not be compiled"
  : >"$SECOND_STORE/complete"
}

ensure_s3_server() {
  S3_SERVER="$TIDELOG_TOOLS/versitygw-$VERSITYGW_VERSION/versitygw"
  [ -x "$S3_SERVER" ] && return 0
  command -v go >/dev/null || ensure_apt golang-go
  say "building the S3 server versitygw $VERSITYGW_VERSION (once, a minute or two)"
  (cd / && GOBIN=$(dirname "$S3_SERVER") GOTOOLCHAIN=local GOFLAGS=-mod=mod \
    go install "github.com/versity/versitygw/cmd/versitygw@$VERSITYGW_VERSION") >&2 || die "the S3 server could not be built"
}

# A real broker; it needs Java 17 or newer.
ensure_kafka() {
  local source=$1
  { command -v mvn && command -v java; } >/dev/null || ensure_apt maven default-jre-headless
  KAFKA="$TIDELOG_TOOLS/kafka-$(sum_of "$source"/pom.xml)"
  [ -e "$KAFKA/complete" ] && return 0
  say "installing Apache Kafka into $KAFKA"
  rm -rf "$KAFKA"
  mkdir -p "$KAFKA"
  cp "$source"/pom.xml "$KAFKA"
  (cd "$KAFKA" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DincludeScope=runtime -DoutputDirectory="$KAFKA/jars") >&2 || die "Maven could not install Apache Kafka"
  : >"$KAFKA/complete"
}

# Debezium's own reader of what the sinks write in its envelope.
ensure_debezium_check() {
  local source=$1
  { command -v mvn && command -v javac; } >/dev/null || ensure_apt maven default-jdk-headless
  DEBEZIUM_CHECK="$TIDELOG_TOOLS/debezium-$(sum_of "$source"/pom.xml "$source"/*.java)"
  [ -e "$DEBEZIUM_CHECK/complete" ] && return 0
  say "installing Debezium's transform into $DEBEZIUM_CHECK"
  rm -rf "$DEBEZIUM_CHECK"
  mkdir -p "$DEBEZIUM_CHECK"
  cp "$source"/pom.xml "$source"/*.java "$DEBEZIUM_CHECK"
  (cd "$DEBEZIUM_CHECK" && mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.8.1:copy-dependencies \
    -DoutputDirectory="$DEBEZIUM_CHECK/jars") >&2 || die "Maven could not install Debezium's transform"
  (cd "$DEBEZIUM_CHECK" && javac -cp 'jars/*' -d . ./*.java) >&2 || die "the program around Debezium's transform could not be compiled"
  : >"$DEBEZIUM_CHECK/complete"
}

# A debug build: it is as right as an optimised one and ready in a third of the time.
ensure_cargo_deny() {
  PATH="$TIDELOG_TOOLS/bin:$PATH"
  command -v cargo-deny >/dev/null && return 0
  say "building cargo-deny (once, some minutes)"
  (cd / && cargo install --quiet --debug --locked --root "$TIDELOG_TOOLS" --version "=$CARGO_DENY_VERSION" cargo-deny) >&2 ||
    die "cargo-deny could not be built"
}

build_release() {
  local root
  if [ -n "${TIDELOG_BIN:-}" ]; then
    [ -x "$TIDELOG_BIN" ] || die "TIDELOG_BIN=$TIDELOG_BIN is not a program"
    return 0
  fi
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  ensure_apt build-essential cmake perl
  ensure_rust
  say "building the sidecar (release)"
  (cd "$root" && cargo build --release --locked --quiet --bin tidelog) >&2 || die "cargo build failed"
  TIDELOG_BIN="${CARGO_TARGET_DIR:-$root/target}/release/tidelog"
  [ -x "$TIDELOG_BIN" ] || die "$TIDELOG_BIN was not built"
}

free_ports() {
  python3 - "$1" <<'PY'
import socket, sys
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(s.getsockname()[1] for s in held))
PY
}

wait_for() {
  local seconds=$1 until
  shift
  until=$((SECONDS + seconds))
  until "$@" >/dev/null 2>&1; do
    [ $SECONDS -lt $until ] || return 1
    sleep 0.1
  done
}

# Needs ensure_venv with a file that names pymongo.
start_store() {
  local dir=$1 port=$2
  mkdir -p "$dir"
  STORE_ADDRESS="127.0.0.1:$port"
  if "$STORE_BIN" --version 2>/dev/null | grep -q '^db version'; then
    "$STORE_BIN" --bind_ip 127.0.0.1 --port "$port" --dbpath "$dir" --replSet tidelog >"$dir.txt" 2>&1 &
  else
    "$STORE_BIN" --host 127.0.0.1 --port "$port" --storage-path "$dir" --cache-size 512M --log-file-max 32MB \
      --log-level ERROR >"$dir.txt" 2>&1 &
  fi
  STORE_PID=$!
  "$VENV_PYTHON" - "$STORE_ADDRESS" <<'PY' || { cat "$dir.txt" >&2; die "the store does not answer"; }
import sys, time
import pymongo
address = sys.argv[1]
client = pymongo.MongoClient(f"mongodb://{address}/?directConnection=true", serverSelectionTimeoutMS=30000)
hello = client.admin.command("hello")
if hello.get("isreplicaset"):
    members = [{"_id": 0, "host": address}]
    client.admin.command("replSetInitiate", {"_id": "tidelog", "members": members})
for _ in range(300):
    if client.admin.command("hello").get("isWritablePrimary"):
        break
    time.sleep(0.1)
else:
    sys.exit("the store did not become primary")
PY
}
