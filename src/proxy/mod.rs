//! Between applications and the node: every client connection has one task and one connection to the node.
//!
//! # Promises
//! - Messages go through in order. What is not a write, a hello, an authentication, an `aggregate` or a command of ours is
//!   looked at no further than its header and command name; its bytes are not changed and not held: request and reply stream
//!   through, so a slow side makes the other wait, not memory grow.
//! - A write reaches the node only through `capture`; the client gets its reply only with a `Durable` in hand.
//! - A driver that came to us stays with us: hello replies name sidecars, never nodes.
//! - A command under way ends and is settled even if its client goes; a read whose client goes is ended with the connection
//!   to the node. A client that shuts only its sending side counts as gone.
//! - Every limit has a setting and a metric: connections, message size, bytes held, idle and stalled time.
//!
//! # Not here
//! What a write means (`capture`), bytes (`wire`), the connection to the node (`store`).
//!
//! | file | says |
//! |---|---|
//! | `listener` | accepting, the limit of connections, the drain |
//! | `session` | one client connection: what comes goes where |
//! | `relay` | the path of everything that only passes |
//! | `topology` | hello, rewritten |
//! | `identity` | who speaks: the origin of changes |
//! | `write` | commands that change data, handed to `capture` |
//! | `budget` | bytes held for all connections |
//! | `client` | the client's socket and what was read from it |
//!
//! # Decisions
//! tokio itself and no server framework: the end of a connection must be ours, so that no task is dropped between the store's
//! yes and the log's. Writes inside a transaction are refused; on the refusal the transaction is ended at the node, as any
//! error in it would have done, so that its commit cannot succeed without the write.

mod budget;
mod client;
mod identity;
mod listener;
mod options;
mod relay;
mod session;
mod topology;
mod write;

pub use listener::{Drained, Proxy, ProxyError};
pub use options::{CutFn, CutFuture, ProxyOptions};
