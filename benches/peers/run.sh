#!/usr/bin/env bash
# What a user would pick today, and us, on the same changes of the same store: `benches/peers/run.sh [CHANGES]` (default 300000).
# Installs what it needs (see deploy/lib.sh), prints a table. Twenty minutes on two cores.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=deploy/lib.sh
source "$root/deploy/lib.sh"
cd "$root"
ensure_apt ca-certificates build-essential pkg-config cmake ninja-build clang libclang-dev python3 python3-venv
ensure_rust
ensure_venv benches/peers/requirements.txt
ensure_store
ensure_debezium_check benches/peers/debezium
build_release
export TIDELOG_BIN STORE_BIN DRAIN="$DEBEZIUM_CHECK"
exec "$VENV_PYTHON" benches/peers/peers.py "$@"
