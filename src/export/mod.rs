//! (being written)
pub mod ejson;
pub mod jsonl;
