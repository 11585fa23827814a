//! `peerless function`: what a peer's functions run. Hidden, as people have no use for it.

use std::process::ExitCode;

use peerless_function_host::{Options, run_stdio};

use crate::logging;
use crate::output::label;

pub(crate) fn run() -> ExitCode {
    logging::start("warn");
    match run_stdio(Options::default()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            label("error", &error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}
