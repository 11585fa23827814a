//! The function as a program of its own: tasks on stdin, reports on stdout.

use std::process::ExitCode;

use peerless_function_host::{Options, run_stdio};

fn main() -> ExitCode {
    match run_stdio(Options::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
