//! The function as a program of its own. Tasks come on stdin, or over HTTP where `PORT` is set.

use std::process::ExitCode;

use peerless_function_host::{Options, serve_tasks};

fn main() -> ExitCode {
    serve_tasks(Options::default())
}
