//! Reads a run directory, each time from where it came to the last time.

mod curve;
mod invocations;
mod observation;
mod peer;
mod stories;

use std::collections::BTreeMap;
use std::path::PathBuf;

use peerless_functions::prices::Money;
use peerless_peer::history::RoundHistory;
use peerless_peer::local::LocalPeer;
use peerless_peer::run_directory::RunDirectory;
use peerless_peer::status::{PeerStatus, unix_us};
use peerless_peer::tail::News;
use peerless_protocol::PeerId;

use curve::Curve;
use invocations::Invocations;
use observation::Observations;
use peer::PeerReader;
use stories::{Scene, tell};

use crate::snapshot::{Bill, LostWork, Peer, PeerCondition, Progress, Run, RunCondition, SNAPSHOT_VERSION, Snapshot};

/// Records of a kind that are read for one snapshot, of all peers together: some tenths of a second.
const RECORDS: u32 = 100_000;
/// Rounds whose ends are remembered: stalls before them are forgotten.
const REMEMBERED_ROUNDS: usize = 20_000;
/// Rounds that the speed is a mean over.
const SPEED_ROUNDS: usize = 50;
/// Most peers that are read; further ones are named as a problem.
const MAX_PEERS: usize = 512;
/// Problems that are told.
const MAX_PROBLEMS: usize = 8;

/// Reads the directory of a run. In no data path: it opens everything for reading only.
#[derive(Debug)]
pub struct RunReader {
    path: PathBuf,
    run: Option<RunDirectory>,
    peers: BTreeMap<String, PeerReader>,
    /// Names by their place in the directory.
    order: Vec<String>,
    history: RoundHistory,
    loss: Curve,
    accuracy: Curve,
    test_loss: Curve,
    invocations: Invocations,
    observations: Observations,
}

impl RunReader {
    /// Reads the run in this directory, which need not be there yet.
    pub fn new(path: PathBuf) -> Self {
        Self {
            path,
            run: None,
            peers: BTreeMap::new(),
            order: Vec::new(),
            history: RoundHistory::default(),
            loss: Curve::default(),
            accuracy: Curve::default(),
            test_loss: Curve::default(),
            invocations: Invocations::default(),
            observations: Observations::default(),
        }
    }

    /// The run as it is now. What cannot be read is named in the snapshot's problems, and stays what it was.
    pub fn read(&mut self) -> Snapshot {
        self.read_on().unwrap_or_else(|ReadAnew| {
            *self = Self::new(std::mem::take(&mut self.path));
            // What is there now is read the next time if it is exchanged again meanwhile.
            self.read_on().unwrap_or_else(|ReadAnew| self.snapshot(false, Problems::default(), true))
        })
    }

    fn read_on(&mut self) -> Result<Snapshot, ReadAnew> {
        let mut problems = Problems::default();
        let directories = self.directories(&mut problems);
        let gone = directories.is_none();
        let directories = directories.unwrap_or_default();
        let limit = (RECORDS / u32::try_from(directories.len().max(1)).unwrap_or(u32::MAX)).max(100);
        let mut incomplete = false;
        for (name, directory) in directories {
            let number = self.peers.len();
            let peer = self.peers.entry(name.clone()).or_insert_with(|| PeerReader::new(number));
            let number = peer.number;
            match LocalPeer::read(name.clone(), directory.clone()) {
                Ok(seen) => {
                    if !peer.look(seen) {
                        problems.add(format!("peer {name}: its status cannot be read"));
                    }
                }
                Err(error) => problems.add(format!("peer {name}: {error}")),
            }
            match peer.read_ledger(&directory, limit) {
                Ok(news) if news.anew => return Err(ReadAnew),
                Ok(news) => {
                    incomplete |= news.more();
                    self.take_in(number, &name, &news);
                }
                Err(error) => problems.add(format!("peer {name}: {error}")),
            }
        }
        self.history.keep(REMEMBERED_ROUNDS);
        Ok(self.snapshot(gone, problems, incomplete))
    }

    /// The peers' directories; `None` if the run's cannot be read.
    fn directories(&mut self, problems: &mut Problems) -> Option<Vec<(String, PathBuf)>> {
        if self.run.is_none() {
            match RunDirectory::open(&self.path) {
                Ok(run) => self.run = Some(run),
                Err(error) => problems.add(error.to_string()),
            }
        }
        match self.run.as_ref()?.peers() {
            Ok(mut directories) => {
                if directories.len() > MAX_PEERS {
                    problems.add(format!("only {MAX_PEERS} of {} peers are shown", directories.len()));
                    directories.truncate(MAX_PEERS);
                }
                self.order = directories.iter().map(|(name, _)| name.clone()).collect();
                Some(directories)
            }
            Err(error) => {
                problems.add(error.to_string());
                self.peers.values_mut().for_each(|peer| peer.alive = false);
                None
            }
        }
    }

    fn take_in(&mut self, number: usize, name: &str, news: &News) {
        let redone: Vec<(u64, u64)> = observation::rounds_redone(&news.events);
        let ends: Vec<(u64, u64)> = news.rounds.iter().map(|round| (round.at_us, round.round)).collect();
        self.history.add(number, &ends, &redone);
        for round in &news.rounds {
            if let Some(loss) = round.training_loss {
                self.loss.add(round.round, loss);
            }
            if let Some(evaluation) = round.evaluation.filter(|evaluation| evaluation.samples > 0) {
                self.accuracy.add(round.round, evaluation.correct as f64 / evaluation.samples as f64);
                if let Some(loss) = evaluation.loss {
                    self.test_loss.add(round.round, loss);
                }
            }
        }
        self.invocations.add(number, news);
        self.observations.add(name, &news.events);
    }

    fn snapshot(&self, gone: bool, problems: Problems, incomplete: bool) -> Snapshot {
        let now_us = unix_us();
        let statuses = || self.peers.values().filter_map(|peer| peer.status.as_ref());
        let front = statuses().map(|status| status.round).max().unwrap_or_default();
        let spoken_us = statuses().map(|status| status.updated_unix_us).max().unwrap_or_default();
        let view = |name: &String| Some(self.peers.get(name)?.view(name, front, spoken_us, now_us));
        let peers: Vec<Peer> = self.order.iter().filter_map(view).collect();
        let condition = self.condition(gone, &peers);
        let progress = self.progress(condition, now_us);
        let scene = Scene {
            names: self.peers.iter().filter_map(|(name, peer)| Some((peer.id?, name.clone()))).collect(),
            peers: &peers,
            ends: self.round_ends(),
            finished: self.finishes(),
            usual_us: progress.usual_round_ms.map(|ms| (ms * 1e3) as u64),
        };
        Snapshot {
            version: SNAPSHOT_VERSION,
            at_unix_us: now_us,
            condition,
            run: self.run_view(),
            stories: tell(&self.observations, &scene),
            progress,
            loss: self.loss.points(),
            accuracy: self.accuracy.points(),
            test_loss: self.test_loss.points(),
            functions: self.invocations.view(&peers),
            bill: self.bill(),
            lost_work: LostWork {
                rounds_redone: self.history.redone(),
                stalled_s: self.history.stalled_us(0) as f64 / 1e6,
            },
            peers,
            problems: problems.told(),
            incomplete,
        }
    }

    fn run_view(&self) -> Option<Run> {
        let run = self.run.as_ref()?;
        let topology = self.peers.values().find_map(|peer| Some(peer.status.as_ref()?.topology)).unwrap_or_default();
        Some(Run {
            id: run.spec().id(),
            directory: self.path.display().to_string(),
            model: run.spec().model.clone(),
            dataset: run.spec().dataset.name.clone(),
            topology: topology.as_str(),
        })
    }

    fn condition(&self, gone: bool, peers: &[Peer]) -> RunCondition {
        let any = |condition: PeerCondition| peers.iter().any(|peer| peer.condition == condition);
        let lives = self.peers.values().any(|peer| peer.alive);
        match (gone, any(PeerCondition::Finished), lives) {
            (true, ..) => RunCondition::Unreadable,
            (false, true, _) => RunCondition::Finished,
            (false, false, true) if any(PeerCondition::Training) || !self.history.first().is_empty() => {
                RunCondition::Training
            }
            (false, false, true) => RunCondition::Starting,
            (false, false, false) if self.peers.values().all(|peer| peer.status.is_none()) => RunCondition::Starting,
            (false, false, false) => RunCondition::Stopped,
        }
    }

    fn newest(&self) -> Option<&PeerStatus> {
        let statuses = self.peers.values().filter_map(|peer| peer.status.as_ref());
        statuses.max_by_key(|status| (status.round, status.finish_reason.is_some()))
    }

    fn progress(&self, condition: RunCondition, now_us: u64) -> Progress {
        let Some(run) = &self.run else { return Progress::default() };
        let newest = self.newest();
        let steps = newest.map_or(0, |status| status.steps);
        let training = condition == RunCondition::Training;
        let per_s = self.rounds_per_s(training.then_some(now_us));
        let evaluations = self.peers.values().filter_map(|peer| peer.status.as_ref()?.evaluation);
        let newest_digest = newest.map(|status| status.state_digest).filter(|digest| digest.0 != [0; 32]);
        let holds = |peer: &&PeerReader| peer.status.as_ref().map(|status| status.state_digest) == newest_digest;
        let left = |per_s: f64| run.spec().rounds.saturating_sub(steps) as f64 / per_s;
        Progress {
            steps,
            rounds: run.spec().rounds,
            samples_per_round: run.spec().samples_per_round(),
            samples_per_s: per_s.map(|per_s| per_s * run.spec().samples_per_round() as f64),
            elapsed_s: self.elapsed_s(condition, now_us),
            left_s: per_s.filter(|per_s| training && *per_s > 0.0).map(left),
            usual_round_ms: self.usual_round_ms(),
            training_loss: newest.and_then(|status| status.training_loss),
            accuracy: evaluations.max_by_key(|evaluation| evaluation.round).map(|evaluation| evaluation.accuracy),
            state_digest: newest_digest,
            held_by: self.peers.values().filter(holds).count(),
            finish_reason: newest.and_then(|status| status.finish_reason),
        }
    }

    /// From the first start of any peer to now, or to the end.
    fn elapsed_s(&self, condition: RunCondition, now_us: u64) -> Option<f64> {
        let begin = self.peers.values().filter_map(|peer| peer.lives.first()).map(|life| life.0).min()?;
        let last = self.finishes().values().copied().min();
        let sign = self.peers.values().filter_map(|peer| peer.lives.last()).map(|life| life.1).max();
        let end = match condition {
            RunCondition::Finished => last.or(sign),
            RunCondition::Stopped | RunCondition::Unreadable => sign,
            RunCondition::Starting | RunCondition::Training => Some(now_us),
        };
        Some(end?.saturating_sub(begin) as f64 / 1e6)
    }

    /// When the newest rounds were applied first, in the order of time.
    fn round_ends(&self) -> Vec<u64> {
        let mut ends: Vec<u64> = self.history.first().values().copied().collect();
        ends.sort_unstable();
        ends
    }

    /// Rounds per second over the newest rounds; up to now, if there should be new ones.
    fn rounds_per_s(&self, now_us: Option<u64>) -> Option<f64> {
        let newest: Vec<u64> = self.history.first().values().rev().take(SPEED_ROUNDS).copied().collect();
        let (last, first) = (*newest.first()?, *newest.last()?);
        let usual = last.saturating_sub(first) / (newest.len() as u64).max(1);
        // A round that is under way for no longer than usual is no delay.
        let until = now_us.map_or(last, |now| now.saturating_sub(usual * 2).max(last));
        let us = until.saturating_sub(first);
        (newest.len() > 1 && us > 0).then(|| (newest.len() - 1) as f64 * 1e6 / us as f64)
    }

    fn usual_round_ms(&self) -> Option<f64> {
        let newest: Vec<u64> = self.history.first().values().rev().take(4 * SPEED_ROUNDS).copied().collect();
        let mut gaps: Vec<u64> = newest.windows(2).map(|pair| pair[0].saturating_sub(pair[1])).collect();
        gaps.sort_unstable();
        gaps.get(gaps.len() / 2).map(|us| *us as f64 / 1e3)
    }

    /// When peers got the final state, by key.
    fn finishes(&self) -> BTreeMap<PeerId, u64> {
        let finished = |peer: &PeerReader| {
            let status = peer.status.as_ref()?;
            Some((status.peer, status.finished_unix_us?))
        };
        self.peers.values().filter_map(finished).collect()
    }

    fn bill(&self) -> Option<Bill> {
        let machines: Money = self.peers.values().map(PeerReader::cost).sum();
        let functions = self.invocations.cost();
        let bills = || self.peers.values().filter_map(|peer| peer.status.as_ref()?.bill);
        let spent_usd = functions + machines;
        let budget_usd = bills().map(|bill| bill.budget_usd).sum::<Option<Money>>().filter(|_| bills().count() > 0);
        (spent_usd > Money::ZERO || bills().count() > 0).then(|| Bill {
            spent_usd,
            functions_usd: functions,
            peers_usd: machines,
            wasted_usd: self.invocations.wasted(),
            budget_usd,
            used_up: bills().filter(|bill| bill.used_up).count(),
        })
    }
}

/// A ledger is another one than before, so that totals that it is part of count no more.
struct ReadAnew;

/// What could not be read, as far as anyone wants to know.
#[derive(Debug, Default)]
struct Problems {
    told: Vec<String>,
    more: usize,
}

impl Problems {
    fn add(&mut self, problem: String) {
        if self.told.len() < MAX_PROBLEMS {
            self.told.push(problem);
        } else {
            self.more += 1;
        }
    }

    fn told(mut self) -> Vec<String> {
        if self.more > 0 {
            self.told.push(format!("{} more problems of this kind", self.more));
        }
        self.told
    }
}
