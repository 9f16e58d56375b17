//! What the process asks of the system: enough file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors for everything but client connections: segments, index, admin, windows.
const OWN_FILES: u64 = 256;

/// Raises the soft limit to the hard one, and warns when the connections of the settings do not fit.
pub(super) fn raise_file_limit(connections: u32) {
    let needed = u64::from(connections) * 2 + OWN_FILES;
    let limit = getrlimit(Resource::Nofile);
    let Some(soft) = limit.current else { return };
    if soft >= needed {
        return;
    }
    let wanted = limit.maximum.map_or(needed, |hard| hard.min(needed));
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    let have = if raised.is_ok() { wanted } else { soft };
    if have < needed {
        tracing::warn!(have, needed, connections, "too few file descriptors for limits.connections; raise LimitNOFILE");
    }
}
