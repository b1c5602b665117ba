//! The plugin binary.

fn main() {}
