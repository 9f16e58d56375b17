//! The connection to the node: raw, with commands of ours between the client's; and the privileged client.

mod privileged;
pub mod upstream;

pub use privileged::{Collection, Login, Privileged, PrivilegedError, Scan};
pub use upstream::{Upstream, UpstreamError, command_bytes};
