//! The `peerless` command.
fn main() {}
