//! Tests of keys, guards and the index.

mod bson_order;
mod guards;
mod index;
mod keys;
pub(super) mod support;
