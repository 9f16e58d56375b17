//! Bytes ↔ messages of the MongoDB wire protocol: frames, `OP_MSG`, `OP_QUERY`/`OP_REPLY`, commands, hello, replies.
//!
//! Pure: no sockets, no clock, no tasks. Everything that comes from outside is read with bounds, and nothing is
//! allocated on the word of a length prefix. Facts and their sources: MongoDB's `OP_MSG`, `OP_COMPRESSED`, handshake and
//! server-discovery specifications.
//!
//! | file | says |
//! |---|---|
//! | `frame` | the 16-byte header, opcodes, limits; cutting messages out of a byte stream |
//! | `msg` | `OP_MSG` read without copying |
//! | `build` | `OP_MSG` written |
//! | `query` | `OP_QUERY` and `OP_REPLY`, for the drivers that still say hello that way |
//! | `command` | what a request is, from its opcode and first key |
//! | `hello`, `hosts` | rewriting the handshake, so that drivers stay on the sidecar |
//! | `auth` | learning who speaks, without seeing a secret |
//! | `reply` | errors of our own, in the shape drivers expect |

pub mod auth;
pub mod build;
pub mod command;
pub mod frame;
pub mod hello;
pub mod hosts;
pub mod msg;
pub mod query;
pub mod reply;

pub use build::Builder;
pub use command::{DdlKind, Kind, WriteKind};
pub use frame::{FrameError, Header, Limits, Message};
pub use msg::{MsgError, OpMsg};
