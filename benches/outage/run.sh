#!/usr/bin/env bash
# Sinks that are away while clients write: `benches/outage/run.sh [SECONDS [CHANGES_PER_SECOND]]` (default 120, as fast as one
# client goes; an hour: `benches/outage/run.sh 3600 1500`). Installs what it needs (see deploy/lib.sh), prints what it cost.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# shellcheck source=deploy/lib.sh
source "$root/deploy/lib.sh"
cd "$root"
ensure_apt ca-certificates build-essential pkg-config cmake ninja-build clang libclang-dev python3 python3-venv
ensure_rust
ensure_venv benches/outage/requirements.txt
ensure_store
build_release
export TIDELOG_BIN STORE_BIN
exec "$VENV_PYTHON" benches/outage/outage.py "$@"
