//! The program `tidelog`: see [`tidelog::cli`].

fn main() {}
