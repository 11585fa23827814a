//! Flags about functions.

mod compute;
mod engine;
mod isolation;
mod remote;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, ValueEnum};
use peerless_functions::ProcessConfig;
use peerless_peer::data_path::DataPathConfig;
use peerless_peer::{Compute, FunctionsConfig};
use peerless_training::datasets;

use self::compute::ComputeArg;
pub(crate) use self::engine::EngineArgs;
pub(crate) use self::isolation::{IsolationArgs, SANDBOX_COMMAND};
use self::remote::RemoteArgs;
use crate::output::label;
use crate::prices::PriceArgs;

/// The subcommand that a function's process runs.
pub(crate) const FUNCTION_COMMAND: &str = "function";

/// How a peer runs its functions. None of this changes the model.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Functions")]
pub(crate) struct FunctionArgs {
    /// Most functions at work per peer: processes, or calls elsewhere unless --burst is given [default: the cores, shared among the peers]
    #[arg(long, value_name = "N")]
    pub(crate) functions: Option<usize>,
    /// What computes units: functions, which come and go, or the peer's machine as a VM that trains by itself, one unit
    /// after the other in one process that stays; see docs/topologies.md [default: functions]
    #[arg(long, value_name = "WHAT")]
    compute: Option<ComputeArg>,
    #[command(flatten)]
    engine: EngineArgs,
    /// Most memory of a function, such as 512M or 2G; also decides on its CPU time, see --function-cpu
    /// [default: no limit]
    #[arg(long, value_name = "SIZE")]
    function_memory: Option<Size>,
    /// Longest time of one invocation before the function is killed [default: 300]
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..))]
    function_timeout: Option<u32>,
    /// Program that computes units, instead of this one; see docs/function-protocol.md
    #[arg(long, value_name = "PATH")]
    function_program: Option<PathBuf>,
    /// Whether a unit that takes longer than 95 of 100 others is computed by a second function besides, if one is
    /// free: the first result counts, both are paid for [default: on for functions elsewhere, off for processes]
    #[arg(long, value_name = "SWITCH")]
    function_hedge: Option<Switch>,
    #[command(flatten)]
    isolation: IsolationArgs,
    #[command(flatten)]
    remote: RemoteArgs,
}

/// What a peer runs its functions with.
pub(crate) struct ForPeer {
    pub(crate) functions: FunctionsConfig,
    /// What they stand for.
    pub(crate) compute: Compute,
    /// How they get at tensors, if they are elsewhere.
    pub(crate) data_path: DataPathConfig,
    /// Whether units that take long get a second function; `None` for the default.
    pub(crate) hedge: Option<bool>,
    /// What computes while they are gone, if they are elsewhere.
    pub(crate) fallback: ProcessConfig,
    /// Whether these come first.
    pub(crate) burst: bool,
}

impl FunctionArgs {
    /// No flags but these.
    pub(crate) fn isolated(isolation: IsolationArgs) -> Self {
        Self { isolation, ..Self::default() }
    }

    /// The functions that the flags describe, for runs with this dataset.
    pub(crate) async fn config(&self, dataset: &str) -> anyhow::Result<ForPeer> {
        let time_limit = self.function_timeout.map(|seconds| Duration::from_secs(seconds.into()));
        let burst = self.remote.burst;
        let functions = match self.remote.platform(burst.or(self.functions), time_limit).await? {
            Some(platform) => FunctionsConfig::Platform(platform),
            None => self.pool()?.into(),
        };
        // With a number of their own: how many run elsewhere says nothing about this machine.
        let local = Self { functions: burst.and(self.functions), ..self.clone() };
        let data_path = self.remote.data_path(datasets::files(dataset, &datasets::default_dir())?);
        let hedge = self.function_hedge.map(bool::from);
        let compute = self.compute.map(Compute::from).unwrap_or_default();
        Ok(ForPeer { functions, compute, data_path, hedge, fallback: local.pool()?, burst: burst.is_some() })
    }

    /// A pool whose functions are this very program, unless another one is named.
    pub(crate) fn pool(&self) -> anyhow::Result<ProcessConfig> {
        let mut config = match &self.function_program {
            Some(program) => ProcessConfig::new(absolute(program)?),
            None => {
                let program = std::env::current_exe().context("cannot find out where this program is")?;
                ProcessConfig { args: vec![OsString::from(FUNCTION_COMMAND)], ..ProcessConfig::new(program) }
            }
        };
        config.concurrency = self.concurrency().unwrap_or(config.concurrency);
        config.memory_limit_bytes = self.function_memory.map(|Size(bytes)| bytes);
        if let Some(seconds) = self.function_timeout {
            config.time_limit = Duration::from_secs(seconds.into());
        }
        self.isolation.apply(&mut config)?;
        self.engine.apply(&mut config);
        Ok(config)
    }

    /// Refuses flags that exclude each other, and an engine that is not there.
    pub(crate) fn check(&self, prices: &PriceArgs) -> anyhow::Result<()> {
        self.check_compute(prices)?;
        self.engine.check(self.function_program.is_some(), &self.isolation)
    }

    /// Whether units are computed by another program, which may know models that this one does not.
    pub(crate) fn may_know_more_models(&self) -> bool {
        self.function_program.is_some() || self.remote.is_given()
    }

    /// Checks what the peers that get these flags would refuse, and says once what all of them would say in their logs.
    pub(crate) fn check_isolation(&self) -> anyhow::Result<()> {
        self.pool()?;
        let missing = self.isolation.missing(self.function_memory.is_some())?;
        if !missing.is_empty() {
            label("warning", &format!("functions run without {}; see docs/isolation.md", missing.join("; ")));
        }
        Ok(())
    }

    /// The flags again, for a peer that shares this machine with `peers - 1` others.
    pub(crate) fn for_peer(&self, peers: usize) -> Vec<String> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let functions = self.concurrency().unwrap_or((cores / peers.max(1)).max(1));
        let mut flags = vec!["--functions".to_owned(), functions.to_string()];
        if let Some(compute) = self.compute.and_then(|compute| compute.to_possible_value()) {
            flags.extend(["--compute".to_owned(), compute.get_name().to_owned()]);
        }
        flags.extend(self.engine.flags());
        if let Some(Size(bytes)) = self.function_memory {
            flags.extend(["--function-memory".to_owned(), bytes.to_string()]);
        }
        if let Some(seconds) = self.function_timeout {
            flags.extend(["--function-timeout".to_owned(), seconds.to_string()]);
        }
        if let Some(program) = &self.function_program {
            flags.extend(["--function-program".to_owned(), program.display().to_string()]);
        }
        if let Some(hedge) = self.function_hedge.and_then(|hedge| hedge.to_possible_value()) {
            flags.extend(["--function-hedge".to_owned(), hedge.get_name().to_owned()]);
        }
        flags.extend(self.isolation.flags());
        flags.extend(self.remote.flags());
        flags
    }
}

fn absolute(program: &Path) -> anyhow::Result<PathBuf> {
    program.canonicalize().with_context(|| format!("there is no function program {}", program.display()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Switch {
    On,
    Off,
}

impl From<Switch> for bool {
    fn from(switch: Switch) -> Self {
        switch == Switch::On
    }
}

/// A size in bytes, with K, M or G for powers of 1024.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Size(u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unit = |letters: [char; 2], shift: u32| Some((text.strip_suffix(letters)?, shift));
        let (number, shift) =
            unit(['k', 'K'], 10).or(unit(['m', 'M'], 20)).or(unit(['g', 'G'], 30)).unwrap_or((text, 0));
        let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        bytes.filter(|&bytes| bytes > 0).map(Self).ok_or_else(|| "expected a size such as 512M or 2G".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use peerless_training::Engine;

    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit() {
        for (text, bytes) in [("512", 512), ("4K", 4096), ("512M", 512 << 20), ("2G", 2 << 30)] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "0", "M", "-1", "2X", "1.5G", "99999999999G"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn cores_are_shared_among_peers_but_every_peer_has_a_function() {
        let flags = FunctionArgs::default().for_peer(1_000_000);
        assert_eq!(flags, ["--functions", "1"]);
        let given = FunctionArgs {
            functions: Some(7),
            function_memory: Some(Size(9)),
            function_timeout: Some(3),
            function_hedge: Some(Switch::Off),
            ..FunctionArgs::default()
        };
        let flags = given.for_peer(2);
        let all = "--functions 7 --function-memory 9 --function-timeout 3 --function-hedge off";
        assert_eq!(flags.join(" "), all);
    }

    #[test]
    fn functions_and_further_peers_get_the_engine() {
        let given = FunctionArgs { engine: EngineArgs::named(Engine::LibTorch), ..FunctionArgs::default() };
        assert_eq!(given.for_peer(1_000_000).join(" "), "--functions 1 --engine libtorch");
        let variable = (OsString::from("PEERLESS_FUNCTION_ENGINE"), OsString::from("libtorch"));
        assert!(given.pool().unwrap().env.contains(&variable));
        let others = FunctionArgs::default().pool().unwrap().env;
        assert!(!others.iter().any(|(name, _)| *name == variable.0), "{others:?}");
    }
}
