//! The launcher as a program of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    peerless_sandbox::launch(std::env::args_os().skip(1))
}
