//! The log as a whole: how it lives, what a crash leaves, what damage it notices.

mod crash;
mod damage;
mod golden;
mod life;
mod limits;
mod model;
mod stream;
pub(super) mod support;
