//! The work of a run.

use peerless_protocol::{RoundPlan, RunSpec};

/// Bytes of an element of the flat vector.
const ELEMENT_BYTES: u64 = 4;
/// Bytes of an element of an exact sum.
const SUM_BYTES: u64 = 8;
/// Bytes in front of an exact sum.
const SUM_HEADER_BYTES: u64 = 16;

/// What has to be computed and moved in a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Job {
    /// Rounds that consist of the same units, and how many there are of them.
    pub(crate) rounds: Vec<(RoundPlan, u64)>,
    /// Elements of the model's flat vector.
    pub(crate) elements: u64,
}

impl Job {
    /// All rounds of a run that is not ended early.
    pub(crate) fn whole(spec: &RunSpec, elements: u64) -> Self {
        let (gradient_units, evaluation_units) = (spec.units_per_round, spec.evaluation_units());
        let evaluating = spec.rounds.saturating_sub(1).checked_div(spec.evaluation.every_rounds).unwrap_or_default();
        let rounds = [
            (RoundPlan { gradient_units, evaluation_units: 0 }, spec.rounds - evaluating),
            (RoundPlan { gradient_units, evaluation_units }, evaluating),
            (RoundPlan { gradient_units: 0, evaluation_units }, 1),
        ];
        Self { rounds: rounds.into_iter().filter(|(_, times)| *times > 0).collect(), elements }
    }

    /// These rounds of a run, by number.
    pub(crate) fn of_rounds(spec: &RunSpec, elements: u64, rounds: impl IntoIterator<Item = u64>) -> Self {
        let mut job = Self { rounds: Vec::new(), elements };
        for plan in rounds.into_iter().map(|round| RoundPlan::new(spec, round)) {
            match job.rounds.iter_mut().find(|(known, _)| *known == plan) {
                Some((_, times)) => *times += 1,
                None => job.rounds.push((plan, 1)),
            }
        }
        job
    }

    /// The round that most of the run consists of.
    pub(crate) fn usual_round(&self) -> RoundPlan {
        let nothing = RoundPlan { gradient_units: 0, evaluation_units: 0 };
        self.rounds.iter().max_by_key(|(_, times)| *times).map_or(nothing, |(plan, _)| *plan)
    }

    /// Bytes of the flat vector: of parameters to be read, and of a gradient.
    pub(crate) fn vector_bytes(&self) -> u64 {
        self.elements.saturating_mul(ELEMENT_BYTES)
    }

    /// Bytes of the exact sum of a peer.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.elements.saturating_mul(SUM_BYTES).saturating_add(SUM_HEADER_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use peerless_protocol::{DatasetSpec, Digest};

    use super::*;
    use crate::spec::SpecArgs;

    #[test]
    fn the_rounds_of_a_run_are_those_that_the_protocol_plans() {
        let digest = Digest::of(b"");
        let dataset = DatasetSpec { name: "mnist".into(), digest, train_samples: 60_000, test_samples: 10_000 };
        for (rounds, every) in [(1, 1), (7, 3), (6, 3), (60, 1000), (10, 1)] {
            let spec = SpecArgs::long(rounds, every).spec(dataset.clone()).unwrap();
            let mut counted = Job::of_rounds(&spec, 10, 0..=rounds).rounds;
            let mut whole = Job::whole(&spec, 10).rounds;
            let order = |(plan, _): &(RoundPlan, u64)| (plan.gradient_units, plan.evaluation_units);
            counted.sort_by_key(order);
            whole.sort_by_key(order);
            assert_eq!(whole, counted, "{rounds} rounds, every {every}");
        }
    }
}
