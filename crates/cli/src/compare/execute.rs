//! Runs what a comparison consists of, one run after the other, each as a `peerless train` of its own.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use peerless_peer::process;
use peerless_protocol::Digest;
use peerless_store::checkpoints_path;
use rustix::process::Signal;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::cells::{Comparison, Run};
use super::collect::{Summary, measured};
use super::outcome::Outcome;
use crate::failure::{advised, code};
use crate::output::{label, say};
use crate::train::peers::text_tail;

/// How long a run that is over its time may take to end by itself.
const LAST_WORDS: Duration = Duration::from_secs(10);

/// All runs of all comparisons.
pub(crate) struct Executor {
    program: PathBuf,
    digest: Digest,
    out: PathBuf,
    /// Runs that have been done or found done, and all of them.
    done: usize,
    all: usize,
    /// Runs that are left to be run.
    left: usize,
    /// Of this session.
    spent: Duration,
    ran: u32,
}

/// How a run's process ended.
enum Ending {
    Success,
    Failure(String),
    Interrupted,
}

impl Executor {
    /// Runs this very program for all comparisons; everything is kept below `out`.
    pub(crate) fn new(out: &Path, comparisons: &[Comparison]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find out where this program is")?;
        let bytes = fs::read(&program).with_context(|| format!("cannot read {}", program.display()))?;
        let digest = Digest::of(&bytes);
        let runs = || comparisons.iter().flat_map(|comparison| &comparison.runs);
        let left = runs().filter(|run| Outcome::earlier(&out.join(&run.folder), &run.flags, digest).is_none()).count();
        let (done, all, out) = (0, runs().count(), out.to_path_buf());
        Ok(Self { program, digest, out, done, all, left, spent: Duration::ZERO, ran: 0 })
    }

    /// How many of the runs have been done before.
    pub(crate) fn done_before(&self) -> usize {
        self.all - self.left
    }

    /// Runs a comparison; outcomes are in the order of its runs. What ended well before is not done again.
    ///
    /// # Errors
    /// When it is interrupted, or cannot keep what comes out. That a run fails is an outcome.
    pub(crate) async fn execute(&mut self, comparison: &Comparison) -> anyhow::Result<Vec<Outcome>> {
        let mut outcomes = Vec::with_capacity(comparison.runs.len());
        for run in &comparison.runs {
            let folder = self.out.join(&run.folder);
            self.done += 1;
            let outcome = match Outcome::earlier(&folder, &run.flags, self.digest) {
                Some(outcome) => outcome,
                None => self.run(comparison, run, &folder).await?,
            };
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    async fn run(&mut self, comparison: &Comparison, run: &Run, folder: &Path) -> anyhow::Result<Outcome> {
        let cell = comparison.cells[run.cell].id();
        let left = self.time_left();
        say(&format!("[{}/{}] {} {cell} #{}{left}", self.done, self.all, comparison.name, run.repetition + 1));
        if folder.exists() {
            // Of a run that was interrupted or failed, or of another specification.
            fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let start = Instant::now();
        let ending = self.train(run, folder, Duration::from_secs(comparison.spec.time_limit_s)).await?;
        let wall = start.elapsed();
        (self.spent, self.ran, self.left) = (self.spent + wall, self.ran + 1, self.left.saturating_sub(1));
        let result = match ending {
            Ending::Interrupted => return Err(interrupted(&self.out)),
            Ending::Failure(reason) => Err(reason),
            Ending::Success => read(folder, comparison.spec.target_accuracy).map_err(|error| format!("{error:#}")),
        };
        if let Err(reason) = &result {
            label("warning", &format!("{cell} #{} failed: {reason}", run.repetition + 1));
        }
        let outcome = Outcome::new(&run.flags, self.digest, wall.as_secs_f64(), result);
        outcome.write(folder)?;
        Ok(outcome)
    }

    fn time_left(&self) -> String {
        if self.ran == 0 {
            return String::new();
        }
        let left = self.spent.as_secs_f64() / f64::from(self.ran) * self.left as f64;
        format!(", about {:.0} min left", (left / 60.0).ceil())
    }

    async fn train(&self, run: &Run, folder: &Path, limit: Duration) -> anyhow::Result<Ending> {
        let file = |name: &str| {
            let path = folder.join(name);
            File::create(&path).with_context(|| format!("cannot create {}", path.display()))
        };
        let mut command = Command::new(&self.program);
        command.args(["train", "--json", "--end-with-watcher", "--run-dir"]).arg(folder.join("run")).args(&run.flags);
        command.stdin(Stdio::null()).stdout(file("summary.json")?).stderr(file("train.log")?);
        // Of its own, so that Ctrl-C in a terminal reaches this process alone, which passes it on once.
        command.process_group(0).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {}", self.program.display()))?;
        wait(child, limit, &folder.join("train.log")).await
    }
}

async fn wait(mut child: Child, limit: Duration, log: &Path) -> anyhow::Result<Ending> {
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen to signals")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen to signals")?;
    let pid = child.id().unwrap_or_default();
    let (mut interrupts, mut late) = (0, false);
    let deadline = tokio::time::sleep(limit);
    tokio::pin!(deadline);
    let status = loop {
        tokio::select! {
            status = child.wait() => break status.context("cannot wait for a run")?,
            _ = interrupt.recv() => { interrupts += 1; process::signal(pid, Signal::INT); }
            _ = terminate.recv() => { interrupts += 1; process::signal(pid, Signal::INT); }
            () = &mut deadline => {
                // First as by Ctrl-C, then for good; its peers end with it.
                process::signal(pid, if late { Signal::KILL } else { Signal::INT });
                late = true;
                deadline.as_mut().reset(tokio::time::Instant::now() + LAST_WORDS);
            }
        }
    };
    if interrupts > 0 {
        return Ok(Ending::Interrupted);
    }
    if late {
        return Ok(Ending::Failure(format!("it took more than {} s", limit.as_secs())));
    }
    // With different states at the end there is a summary, too, and the digests are compared here.
    if status.success() || status.code() == Some(code::DIVERGED.into()) {
        return Ok(Ending::Success);
    }
    let lines = text_tail(log);
    let error = lines.iter().rev().find_map(|line| line.strip_prefix("error: "));
    Ok(Ending::Failure(error.map_or_else(|| status.to_string(), str::to_owned)))
}

/// What a run measured. Its states are removed: dozens of runs of a large model would fill the disk.
fn read(folder: &Path, target: Option<f64>) -> anyhow::Result<super::outcome::Measured> {
    let path = folder.join("summary.json");
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let summary: Summary = serde_json::from_slice(&text).with_context(|| format!("cannot read {}", path.display()))?;
    let measured = measured(&summary, target)?;
    for peer in fs::read_dir(folder.join("run/peers"))?.flatten() {
        let checkpoints = checkpoints_path(&peer.path());
        if checkpoints.exists() {
            fs::remove_dir_all(&checkpoints).with_context(|| format!("cannot remove {}", checkpoints.display()))?;
        }
    }
    Ok(measured)
}

fn interrupted(out: &Path) -> anyhow::Error {
    let hint = format!("the same command goes on; what is done is in {}", out.display());
    advised(anyhow!("interrupted"), code::INTERRUPTED, Some(hint))
}
