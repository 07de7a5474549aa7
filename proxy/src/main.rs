//! The `comfygate` command.
fn main() {}
