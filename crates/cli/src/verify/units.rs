//! Computing units on this machine, in this process.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, anyhow};
use peerless_function_host::{Host, Options};
use peerless_protocol::function::{FUNCTION_PROTOCOL, Output, Place, Task, Work};
use peerless_protocol::{Digest, RoundPlan, RunSpec, Tally, UnitKind, UnitSet};
use peerless_store::{Payload, PayloadFormat, RoundSums, RoundTotals, State, StoredState, TensorStore, apply};
use tempfile::TempDir;

/// Where states and gradients are put for the time of the check, if there is room in memory.
const SHARED_MEMORY: &str = "/dev/shm";

/// Computes the units of one round after the other.
pub(super) struct Units {
    spec: RunSpec,
    tensors: TensorStore,
    sums: RoundSums,
    host: Host,
    invocations: u64,
    current: Option<Current>,
    _directory: TempDir,
}

/// The round that units are computed of.
struct Current {
    state: State,
    stored: StoredState,
    tallies: BTreeMap<u32, Tally>,
}

/// What units come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) payload: Option<Digest>,
    pub(super) training: Tally,
    pub(super) evaluation: Tally,
}

/// What this machine starts the run from.
pub(super) struct Start {
    pub(super) state: State,
    pub(super) fingerprint: Digest,
}

impl Units {
    /// Prepares the computation, and the initial state with it.
    pub(super) fn prepare(spec: &RunSpec) -> anyhow::Result<(Self, Start)> {
        let place = Path::new(SHARED_MEMORY);
        let place = if place.is_dir() { place.to_owned() } else { std::env::temp_dir() };
        let directory = tempfile::Builder::new().prefix("peerless-verify-").tempdir_in(place);
        let directory = directory.context("cannot create a directory for the computation")?;
        // The threads of the tensor library, and not one host per core: its pool may have this very thread
        // as a member, which must not wait for others then. The bits do not depend on it.
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let _ = peerless_training::use_threads(threads);
        let (tensors, _) = TensorStore::open(directory.path(), spec, 1)?;
        let mut host = Host::new(Options { threads, ..Options::default() });
        let (start, format) = initial(spec, &mut host, &tensors.outputs().of_initial_parameters())?;
        let sums = RoundSums::new(format, u64::MAX);
        let units =
            Self { spec: spec.clone(), tensors, sums, host, invocations: 1, current: None, _directory: directory };
        Ok((units, start))
    }

    /// Begins with the round from `state`.
    pub(super) fn begin(&mut self, state: State) -> anyhow::Result<()> {
        let stored = self.tensors.put_state(&state)?;
        let round = state.header.round;
        self.sums.begin(&RoundPlan::new(&self.spec, round))?;
        self.tensors.remove_outputs_before(round)?;
        self.current = Some(Current { state, stored, tallies: BTreeMap::new() });
        Ok(())
    }

    /// The exact sum of some units of the round, which are computed unless they have been.
    pub(super) fn sum(&mut self, units: &UnitSet, shard: Option<u32>) -> anyhow::Result<Sum> {
        self.compute(units)?;
        let whole = self.sums.sum_of(units)?;
        let payload = match (whole, shard) {
            (Some((_, payload)), Some(shard)) => Some(self.shard_digest(&payload, shard)?),
            (whole, _) => whole.map(|(digest, _)| digest),
        };
        let current = self.current.as_ref().context("no round has begun")?;
        let plan = RoundPlan::new(&self.spec, current.state.header.round);
        let total = |kind: UnitKind| {
            let mut tallies =
                units.iter().filter(|unit| plan.kind(*unit) == kind).filter_map(|u| current.tallies.get(&u));
            tallies.try_fold(Tally::default(), |total, tally| total.checked_add(*tally))
        };
        let (training, evaluation) = (total(UnitKind::Gradient), total(UnitKind::Evaluation));
        let fits = || anyhow!("the sum of the losses does not fit");
        Ok(Sum { payload, training: training.ok_or_else(fits)?, evaluation: evaluation.ok_or_else(fits)? })
    }

    fn shard_digest(&self, payload: &Payload, shard: u32) -> anyhow::Result<Digest> {
        let format = self.sums.format();
        let range = format.shape().range(shard);
        let range = usize::try_from(range.start)?..usize::try_from(range.end)?;
        let part = payload.sums().get(range).with_context(|| format!("there is no shard {shard}"))?;
        Ok(format.shard(shard).encode(part)?.digest())
    }

    /// Computes the whole round, and with it the next state.
    pub(super) fn next_state(&mut self) -> anyhow::Result<State> {
        let round = self.current.as_ref().context("no round has begun")?.state.header.round;
        let plan = RoundPlan::new(&self.spec, round);
        let Sum { payload, training, evaluation } = self.sum(&plan.all(), None)?;
        let gradient_sum = match payload {
            Some(digest) => self.sums.payload(&digest),
            None => None,
        };
        let totals = RoundTotals {
            gradient_sum: gradient_sum.as_ref().map(|payload| payload.sums()),
            gradient_units: plan.gradient_units,
            training,
            evaluation: (plan.evaluation_units > 0).then_some(evaluation),
        };
        let mut state = self.current.take().context("no round has begun")?.state;
        apply(&self.spec, &mut state, &totals, &mut Vec::new())?;
        Ok(state)
    }

    fn compute(&mut self, units: &UnitSet) -> anyhow::Result<()> {
        let current = self.current.as_mut().context("no round has begun")?;
        let round = current.state.header.round;
        let plan = RoundPlan::new(&self.spec, round);
        let stored = &current.stored;
        let missing: Vec<u32> =
            units.iter().filter(|unit| *unit < plan.total() && !current.tallies.contains_key(unit)).collect();
        for unit in missing {
            self.invocations += 1;
            let output = self.tensors.outputs().of_unit(round, unit);
            let work = Work::Unit {
                round,
                unit,
                unit_kind: plan.kind(unit),
                parameters: stored.vector(),
                output: Place::Path(output.clone()),
                dataset: BTreeMap::new(),
            };
            let report = self.host.handle(&task(&self.spec, self.invocations, work));
            let outcome = report.outcome.map_err(|failure| anyhow!("{}", failure.message));
            let outcome = outcome.with_context(|| format!("unit {unit} of round {round} cannot be computed here"))?;
            let Output::Unit { tally, digest } = outcome else {
                return Err(anyhow!("the function answered something else"));
            };
            if let Some(digest) = digest {
                self.sums.add_unit(unit, &output, digest)?;
            }
            current.tallies.insert(unit, tally);
        }
        Ok(())
    }
}

fn task(spec: &RunSpec, invocation: u64, work: Work) -> Task {
    Task { version: FUNCTION_PROTOCOL, invocation, run: spec.id(), spec: spec.clone(), work }
}

fn initial(spec: &RunSpec, host: &mut Host, output: &Path) -> anyhow::Result<(Start, PayloadFormat)> {
    let report = host.handle(&task(spec, 0, Work::Initialise { output: Place::Path(output.to_owned()) }));
    let answer = report.outcome.map_err(|failure| anyhow!("{}", failure.message));
    let Output::Initialised { layout, fingerprint, .. } =
        answer.context("the initial state cannot be computed here")?
    else {
        return Err(anyhow!("the function answered something else"));
    };
    let bytes = std::fs::read(output).with_context(|| format!("cannot read {}", output.display()))?;
    let vector = bytes.as_chunks::<4>().0.iter().map(|chunk| f32::from_le_bytes(*chunk)).collect();
    let format = PayloadFormat::new(spec, &layout)?;
    Ok((Start { state: State::initial(spec, layout, vector)?, fingerprint }, format))
}
