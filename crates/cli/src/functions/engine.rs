//! Flags about what computes gradients.

use std::env;
use std::ffi::OsString;

use anyhow::anyhow;
use clap::Args;
use peerless_function_host::ENGINE_VARIABLE;
use peerless_functions::ProcessConfig;
use peerless_training::{Engine, EngineError};

use super::IsolationArgs;
use crate::failure::{Advise, advised, code};

/// Where libraries are that the engines load.
const LIBRARIES: &str = "LD_LIBRARY_PATH";

#[derive(Args, Debug, Clone, Default)]
pub(crate) struct EngineArgs {
    /// What computes gradients on this machine: flex, or as far as built in libtorch, wgpu or cuda; see docs/engines.md
    /// [default: flex]
    #[arg(long, value_name = "NAME")]
    engine: Option<Engine>,
}

impl EngineArgs {
    /// As if the flag named this engine.
    #[cfg(test)]
    pub(super) fn named(engine: Engine) -> Self {
        Self { engine: Some(engine) }
    }

    /// The engine, if the flag names one.
    ///
    /// # Errors
    /// If it was not built in.
    pub(crate) fn built_in(&self) -> anyhow::Result<Option<Engine>> {
        match self.engine.map_or(Ok(()), Engine::check) {
            Err(error @ EngineError::NotBuilt(engine)) => {
                let hint = format!("build it with --features engine-{engine}; docs/engines.md says what that needs");
                Err(advised(error, code::USAGE, Some(hint)))
            }
            checked => checked.map(|()| self.engine).code(code::USAGE),
        }
    }

    /// Refuses an engine that functions could not compute with: one that this program has not, if they are this program,
    /// or one that they may not get at.
    pub(super) fn check(&self, other_program: bool, isolation: &IsolationArgs) -> anyhow::Result<()> {
        if !other_program {
            self.built_in()?;
        }
        let gpu = self.engine.filter(|engine| matches!(engine, Engine::Wgpu | Engine::Cuda));
        let Some(engine) = gpu.filter(|_| isolation.hides_devices()) else { return Ok(()) };
        let what = anyhow!("engine {engine} needs the machine's devices, and isolated functions see none");
        let hint = "add --function-isolation limits; docs/isolation.md says what functions may do then";
        Err(advised(what, code::USAGE, Some(hint.to_owned())))
    }

    /// Names the engine to the functions of a pool, and lets them load the libraries that engines need.
    pub(super) fn apply(&self, config: &mut ProcessConfig) {
        config.env.extend(self.engine.map(|engine| (ENGINE_VARIABLE.into(), engine.name().into())));
        // A program with libtorch in it does not even start without.
        let needed = self.engine.unwrap_or_default() != Engine::Flex || Engine::LibTorch.check().is_ok();
        let Some(libraries) = env::var_os(LIBRARIES).filter(|_| needed) else { return };
        if let Some(isolation) = &mut config.isolation {
            isolation.read.extend(env::split_paths(&libraries).filter(|path| path.is_absolute()));
        }
        config.env.push((OsString::from(LIBRARIES), libraries));
    }

    /// The flag again.
    pub(super) fn flags(&self) -> Vec<String> {
        self.engine.map_or_else(Vec::new, |engine| vec!["--engine".to_owned(), engine.to_string()])
    }
}
