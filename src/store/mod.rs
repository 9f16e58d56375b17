//! The connection to the node: raw, with commands of ours between the client's; and the privileged client.

pub mod upstream;

pub use upstream::{Upstream, UpstreamError, command_bytes};
