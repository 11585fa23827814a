//! The function as a program of its own. Tasks come on stdin, or over HTTP where `PORT` is set.

use std::process::ExitCode;

use peerless_function_host::{Door, Options};

fn main() -> ExitCode {
    let door = match Door::from_environment() {
        Ok(door) => door,
        Err(error) => return failed(&error, 2),
    };
    let listening = |address| eprintln!("functions at http://{address}");
    match door.serve(Options::default(), listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.exit_code()),
    }
}

fn failed(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}
