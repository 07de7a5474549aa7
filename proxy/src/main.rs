//! The `comfygate` command: arguments → one subcommand each in `cli/`.

use clap::Parser;
use std::process::ExitCode;

/// Less memory and fewer page faults under many short requests than glibc's.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    comfygate::cli::run(comfygate::cli::Arguments::parse())
}
