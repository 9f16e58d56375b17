//! The connection to the node: raw, with commands of ours between the client's; and the privileged client.
//!
//! Seams for tests: [`Node`] stands for the privileged client; under the feature `model` an [`Upstream`] may go through memory.

mod ids;
mod link;
mod node;
mod privileged;
mod stream;
mod survey;
pub mod upstream;

pub use node::{Answer, Node, Scan, life_of};
pub use privileged::{Collection, Login, Privileged, PrivilegedError};
pub use stream::{Event, Stream, StreamError, dates, stream_facts};
pub use survey::{Listed, Ttl};
pub use upstream::{Upstream, UpstreamError, command_bytes};
