//! Which front door a function has: what started it says so in the environment.

use std::env;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use peerless_training::{Engine, EngineError};
use thiserror::Error;

use crate::host::Options;
use crate::http::{HttpOptions, run_http};
use crate::stdio::{ServeError, run_stdio};

/// The environment variable that names the engine of a function, for programs that nobody can give a flag.
pub const ENGINE_VARIABLE: &str = "PEERLESS_FUNCTION_ENGINE";

/// The engine that [`ENGINE_VARIABLE`] names, if it is set.
///
/// # Errors
/// [`DoorError::Engine`] for an unknown one.
pub fn engine_from_environment() -> Result<Option<Engine>, DoorError> {
    Ok(set(ENGINE_VARIABLE).map(|name| name.parse()).transpose()?)
}

/// A way in which tasks come.
#[derive(Debug)]
pub enum Door {
    /// On stdin, from the local pool.
    Stdio,
    /// Over HTTP.
    Http(HttpOptions),
    /// From the Lambda runtime interface.
    #[cfg(feature = "lambda")]
    Lambda,
}

/// Settings in the environment that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DoorError {
    /// Not a port.
    #[error("PORT is {0:?}, which is not a port number")]
    Port(String),
    /// Not a number of instances.
    #[error("PEERLESS_FUNCTION_INSTANCES is {0:?}, which is not a number from 1 to 1024")]
    Instances(String),
    /// Not an engine.
    #[error("PEERLESS_FUNCTION_ENGINE: {0}")]
    Engine(#[from] EngineError),
}

impl Door {
    /// Lambda in a Lambda environment, HTTP on all addresses where `PORT` is set, with `PEERLESS_FUNCTION_TOKEN` and
    /// `PEERLESS_FUNCTION_INSTANCES` (1 by default), else stdin.
    ///
    /// # Errors
    /// [`DoorError`] for values that cannot be.
    pub fn from_environment() -> Result<Self, DoorError> {
        #[cfg(feature = "lambda")]
        if set("AWS_LAMBDA_RUNTIME_API").is_some() {
            return Ok(Self::Lambda);
        }
        let Some(port) = set("PORT") else { return Ok(Self::Stdio) };
        let port = port.parse().map_err(|_| DoorError::Port(port))?;
        Ok(Self::Http(HttpOptions::listening(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?))
    }

    /// Serves tasks until stdin ends, or a signal ends the server, which tells `listening` where it is.
    ///
    /// # Errors
    /// [`ServeError`]; what cannot be done is not an error but a report of a failure.
    pub fn serve(self, options: Options, listening: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
        match self {
            Self::Stdio => run_stdio(options),
            Self::Http(http) => run_http(options, http, listening),
            #[cfg(feature = "lambda")]
            Self::Lambda => crate::lambda::run_lambda(options),
        }
    }
}

/// The whole of a function program: takes tasks as the environment says and computes them, by the engine that it
/// names, if any, until it is told to end. Errors are said on stderr; the exit code is 2 for an environment that cannot be
/// and for what is no task.
pub fn serve_tasks(options: Options) -> ExitCode {
    let (door, engine) = match Door::from_environment().and_then(|door| Ok((door, engine_from_environment()?))) {
        Ok(given) => given,
        Err(error) => return failed(&error, 2),
    };
    let listening = |address| eprintln!("functions at http://{address}");
    let engine = engine.unwrap_or(options.engine);
    match door.serve(Options { engine, ..options }, listening) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, error.exit_code()),
    }
}

fn failed(error: &dyn std::error::Error, code: u8) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::from(code)
}

impl HttpOptions {
    /// A server at this address, with token and instances from the environment: secrets are not for
    /// command lines.
    ///
    /// # Errors
    /// [`DoorError::Instances`].
    pub fn listening(listen: SocketAddr) -> Result<Self, DoorError> {
        let instances = match set("PEERLESS_FUNCTION_INSTANCES") {
            Some(text) => {
                let number = text.parse().ok().filter(|number| (1..=1024).contains(number));
                number.ok_or(DoorError::Instances(text))?
            }
            None => 1,
        };
        Ok(Self { listen, token: set("PEERLESS_FUNCTION_TOKEN"), instances })
    }
}

fn set(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}
