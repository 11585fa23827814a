//! `peerless function`: computes units, for a peer of this machine or for any that may call it.

use std::net::SocketAddr;

use clap::Args;
use peerless_function_host::{Door, HttpOptions, Options, engine_from_environment};

use crate::failure::{Advise, advised, code};
use crate::functions::EngineArgs;
use crate::logging;
use crate::output::label;

/// Compute units for peers: on stdin, as peers start it themselves, or over HTTP.
#[derive(Args, Debug)]
#[command(after_help = "Examples:
  peerless function --http 0.0.0.0:8080
  PEERLESS_FUNCTION_TOKEN=$(cat token) peerless function --http 10.0.0.5:8080 --instances 8
  peerless train --function-url http://10.0.0.5:8080   # on another machine

Callers must send PEERLESS_FUNCTION_TOKEN, if it is set, as a bearer token. Where PORT is set and --http is
not, tasks are served on that port, as container engines expect. PEERLESS_FUNCTION_ENGINE is an engine
where --engine is not given.")]
pub(crate) struct FunctionCommand {
    /// Serve tasks over HTTP at this address
    #[arg(long, value_name = "ADDRESS")]
    http: Option<SocketAddr>,
    /// Units computed at a time, with --http [default: 1]
    #[arg(long, value_name = "N", requires = "http", value_parser = clap::value_parser!(u16).range(1..=1024))]
    instances: Option<u16>,
    #[command(flatten)]
    engine: EngineArgs,
}

impl FunctionCommand {
    pub(crate) fn run(self) -> anyhow::Result<()> {
        logging::start("warn");
        let door = match self.http {
            Some(listen) => HttpOptions::listening(listen).map(|http| {
                let instances = self.instances.map_or(http.instances, usize::from);
                Door::Http(HttpOptions { instances, ..http })
            }),
            None => Door::from_environment(),
        };
        let (door, named) = (door.code(code::USAGE)?, engine_from_environment().code(code::USAGE)?);
        let engine = self.engine.built_in()?.or(named).unwrap_or_default();
        let listening = |address| label("functions", &format!("http://{address}"));
        door.serve(Options { engine, ..Options::default() }, listening).map_err(|error| {
            let code = error.exit_code();
            advised(error, code, None)
        })
    }
}
