//! Bytes that move when functions share no disk with their peer.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::Context;
use peerless_protocol::{RoundPlan, RunSpec};
use peerless_training::{Model, datasets};
use serde::Serialize;

use super::super::run::FinishedRun;

/// What one peer's gateway moved in a run with one function, which has neither states nor dataset.
#[derive(Debug, Serialize)]
pub(super) struct Traffic {
    pub gradient_units: u64,
    pub evaluation_units: u64,
    pub requests: u64,
    pub read_bytes: u64,
    /// Each state once, and each sample as often as it is used.
    pub least_read_bytes: u64,
    pub written_bytes: u64,
    /// Each gradient once, and the initial parameters.
    pub least_written_bytes: u64,
}

impl Traffic {
    /// Bytes moved by the least that can be moved.
    pub(super) fn ratio(&self) -> f64 {
        let moved = self.read_bytes + self.written_bytes;
        moved as f64 / (self.least_read_bytes + self.least_written_bytes) as f64
    }
}

pub(super) fn measure(rounds: u32) -> anyhow::Result<Traffic> {
    let server = Server::start()?;
    let rounds = rounds.to_string();
    let flags = ["--peers", "1", "--functions", "1", "--rounds", &rounds, "--function-url", &server.url];
    let run = FinishedRun::train(&flags.map(str::to_owned))?;
    let statuses = run.statuses()?;
    let moved = statuses.iter().find_map(|status| status.functions.data_path.clone());
    let moved = moved.context("the run has counted no bytes")?;
    let least = Least::of(run.spec())?;
    Ok(Traffic {
        gradient_units: least.gradient_units,
        evaluation_units: least.evaluation_units,
        requests: moved.requests,
        read_bytes: moved.bytes_out,
        least_read_bytes: least.read_bytes,
        written_bytes: moved.bytes_in,
        least_written_bytes: least.written_bytes,
    })
}

/// What has to be moved in a run.
#[derive(Default)]
struct Least {
    gradient_units: u64,
    evaluation_units: u64,
    read_bytes: u64,
    written_bytes: u64,
}

impl Least {
    fn of(spec: &RunSpec) -> anyhow::Result<Self> {
        let vector = 4 * Model::of(spec)?.layout().elements();
        let info = datasets::dataset(&spec.dataset.name)?;
        // A sample and its label.
        let sample = info.shape.iter().product::<usize>() as u64 + 1;
        let mut least = Self { written_bytes: vector, ..Self::default() };
        for round in 0..=spec.rounds {
            let plan = RoundPlan::new(spec, round);
            let (gradients, evaluations) = (u64::from(plan.gradient_units), u64::from(plan.evaluation_units));
            least.gradient_units += gradients;
            least.evaluation_units += evaluations;
            least.written_bytes += gradients * vector;
            least.read_bytes += gradients * u64::from(spec.samples_per_unit) * sample;
            least.read_bytes += if evaluations > 0 { u64::from(spec.dataset.test_samples) * sample } else { 0 };
            least.read_bytes += if gradients + evaluations > 0 { vector } else { 0 };
        }
        Ok(least)
    }
}

/// A function server of this machine that finds no dataset. Killed when dropped.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn start() -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find out where this program is")?;
        let nowhere = std::env::temp_dir().join("peerless-has-no-dataset-here");
        let mut process = Command::new(program)
            .args(["function", "--http", "127.0.0.1:0"])
            .env("PEERLESS_DATA", nowhere)
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start a function server")?;
        let stderr = process.stderr.take().context("the function server has no stderr")?;
        let mut server = Self { process, url: String::new() };
        let mut lines = BufReader::new(stderr).lines().map_while(Result::ok);
        let url = lines.find_map(|line| line.split_once("functions: ").map(|(_, url)| url.to_owned()));
        server.url = url.context("the function server does not listen")?;
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
