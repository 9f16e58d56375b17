//! **Tidelog**: a sidecar beside a MongoDB node. Applications connect to it unchanged; every write is captured exactly,
//! numbered per document, durable in a local changelog before the client gets its ok, and shipped in closed windows.
//!
//! # The house
//!
//! A module names only modules on lower lines; neighbours do not know each other. `tests/layers.rs` reads this table.
//!
//! ```text layers
//! 5  app  cli
//! 4  proxy  export  audit  admin
//! 3  capture  sink
//! 2  store  changelog  entity  format  enrich
//! 1  wire  disk  config  clock
//! 0  types  metrics  mutants
//! ```
//!
//! Follow a write by file names:
//! `proxy/session → capture/write → entity/guard → store/upstream → changelog/commit → export/worker → enrich → format → sink`.
//!
//! # Words
//!
//! *entity* one document: namespace + `_id`. *entity key* the canonical form of that `_id` under BSON comparison equality.
//! *image* a document's bytes as stored. *change* before → after of one entity. *record* a change (or a control fact) in
//! the log. *lsn* the dense number of a record in one log. *epoch* who counts. *window* a closed range of lsn.
//! *checkpoint* a sink's durable position. *guard* the right to observe and change one entity. *intent* what a process
//! leaves behind about a write under way. *gap* a stretch of reality that the log does not prove.

pub mod admin;
pub mod app;
pub mod audit;
pub mod capture;
pub mod changelog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod disk;
pub mod enrich;
pub mod entity;
pub mod export;
pub mod format;
pub mod metrics;
pub mod mutants;
pub mod proxy;
pub mod sink;
pub mod store;
pub mod types;
pub mod wire;
