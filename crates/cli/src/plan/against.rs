//! How far the model is off for a run that has been.

use anyhow::anyhow;
use peerless_functions::prices::Tariff;
use peerless_peer::bill::Sessions;
use peerless_peer::run_directory::RunDirectory;
use peerless_protocol::RoundPlan;
use peerless_store::{InvocationRecord, Ledger, RoundRecord, ledger_path};

use crate::commands::bench::percentile;
use crate::cost::{self, Bill, Projection};
use crate::failure::{advised, code};
use crate::model::{Configuration, Constants, Costs, Job, Measured, Place, Prediction, predict};

/// What a run was and came to, by its ledgers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Past {
    pub(crate) place: Place,
    pub(crate) configuration: Configuration,
    /// Numbers of the rounds that one peer has applied, all of them if it was never behind.
    pub(crate) rounds: Vec<u64>,
    pub(crate) round_us: f64,
    pub(crate) rounds_us: f64,
    pub(crate) function_us: f64,
    pub(crate) invocations: u64,
    pub(crate) costs: Costs,
    pub(crate) tariff: Tariff,
}

/// A prediction beside what was.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Comparison {
    pub(crate) past: Past,
    pub(crate) prediction: Prediction,
    pub(crate) costs: Costs,
}

/// Predicts a run from what this machine measures now.
pub(crate) fn compare(
    run: &RunDirectory,
    measured: &Measured,
    constants: &Constants,
    projection: &Projection,
) -> anyhow::Result<Comparison> {
    let past = Past::read(run, projection)?;
    let job = Job::of_rounds(run.spec(), measured.elements, past.rounds.iter().copied());
    let prediction = predict(&job, measured, constants, past.place, past.configuration);
    let costs = Costs::of(&past.tariff, &job, past.place, past.configuration, &prediction);
    Ok(Comparison { past, prediction, costs })
}

/// What the ledger of one peer has.
struct Recorded {
    rounds: Vec<RoundRecord>,
    invocations: Vec<InvocationRecord>,
    tariff: Tariff,
}

impl Recorded {
    fn read(ledger: &Ledger) -> anyhow::Result<Self> {
        ledger.hold()?;
        let mut invocations = Vec::new();
        ledger.visit_invocations(|record| invocations.push(record))?;
        let sessions = Sessions::read(ledger)?;
        let tariff = sessions.all().last().map(|session| session.tariff.clone()).unwrap_or_default();
        Ok(Self { rounds: ledger.rounds(0, u32::MAX)?, invocations, tariff })
    }

    /// Most units that were computed at the same time.
    fn functions(&self) -> u32 {
        let units = self.invocations.iter().filter(|record| record.unit.is_some());
        let mut changes: Vec<(u64, i32)> = units
            .flat_map(|record| {
                [(record.started_at_us, 1), (record.started_at_us.saturating_add(record.duration_us), -1)]
            })
            .collect();
        changes.sort_unstable();
        let mut working = 0;
        let most = changes.iter().map(|(_, change)| {
            working += change;
            working
        });
        u32::try_from(most.max().unwrap_or_default()).unwrap_or_default()
    }
}

impl Past {
    pub(crate) fn read(run: &RunDirectory, projection: &Projection) -> anyhow::Result<Self> {
        let mut peers = Vec::new();
        for (_, directory) in run.peers()? {
            peers.push(Recorded::read(&Ledger::open_read_only(&ledger_path(&directory))?)?);
        }
        peers.retain(|peer| peer.invocations.iter().any(|record| record.unit.is_some()));
        let longest = peers.iter().max_by_key(|peer| peer.rounds.len());
        let Some(longest) = longest.filter(|peer| peer.rounds.len() > 1) else {
            let hint = "compare with a run that has applied some rounds".to_owned();
            return Err(advised(anyhow!("{} has too few rounds", run.path().display()), code::ERROR, Some(hint)));
        };
        let place = place(&peers)?;
        let invocations = || peers.iter().flat_map(|peer| &peer.invocations);
        let memory_mb = invocations().map(|record| record.billing.memory_mb).max().unwrap_or_default();
        let mut tariff = longest.tariff.clone();
        projection.apply(&mut tariff, &[place.platform().to_owned()]);
        let total = Bill::of(&cost::read(run, projection)?).total;
        let function_us = match place {
            Place::Local => invocations().map(|record| record.duration_us as f64).sum(),
            Place::Lambda => invocations().map(|record| 1000.0 * record.billing.billed_ms as f64).sum(),
        };
        let started = invocations().filter(|record| record.unit.is_some()).map(|record| record.started_at_us).min();
        let ended = longest.rounds.iter().map(|round| round.at_us).max().unwrap_or_default();
        Ok(Self {
            place,
            configuration: Configuration {
                peers: u32::try_from(peers.len())?,
                functions: peers.iter().map(Recorded::functions).max().unwrap_or(1),
                memory_mb,
            },
            rounds: longest.rounds.iter().map(|round| round.round).collect(),
            round_us: usual_round(run, &longest.rounds),
            rounds_us: ended.saturating_sub(started.unwrap_or(ended)) as f64,
            function_us,
            invocations: invocations().count() as u64,
            costs: Costs {
                compute: total.charge.compute,
                requests: total.charge.requests,
                transfer: total.charge.transfer,
                peers: total.machine,
            },
            tariff,
        })
    }
}

/// Where the functions were.
fn place(peers: &[Recorded]) -> anyhow::Result<Place> {
    let count =
        |name: &str| peers.iter().flat_map(|peer| &peer.invocations).filter(|record| record.platform == name).count();
    let all: usize = peers.iter().map(|peer| peer.invocations.len()).sum();
    // Peers whose platform was away for a while compute with their own cores.
    match [Place::Local, Place::Lambda].into_iter().find(|place| 2 * count(place.platform()) > all) {
        Some(place) => Ok(place),
        None => Err(anyhow!("there is no model of the platform on which most functions of this run were")),
    }
}

/// The median time of the rounds that the run mostly consists of.
fn usual_round(run: &RunDirectory, rounds: &[RoundRecord]) -> f64 {
    let usual = Job::of_rounds(run.spec(), 0, rounds.iter().map(|round| round.round)).usual_round();
    let of_kind = rounds
        .windows(2)
        .filter(|pair| pair[1].round == pair[0].round + 1 && RoundPlan::new(run.spec(), pair[1].round) == usual);
    let times: Vec<f64> = of_kind.map(|pair| pair[1].at_us.saturating_sub(pair[0].at_us) as f64).collect();
    percentile(&times, 50)
}
