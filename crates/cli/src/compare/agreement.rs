//! Whether all runs of the same job have trained the same model.

use std::collections::BTreeMap;

use peerless_protocol::Digest;
use serde::Serialize;

use super::outcome::Outcome;

/// Digests of final states by what was trained.
#[derive(Debug, Default)]
pub(crate) struct Agreement {
    jobs: BTreeMap<String, BTreeMap<Digest, Vec<String>>>,
    failed: usize,
}

/// What there is to say about the digests.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) agree: bool,
    pub(crate) text: String,
}

impl Agreement {
    /// Takes in a run of this name.
    pub(crate) fn add(&mut self, name: String, outcome: &Outcome) {
        let ended = outcome.result.as_ref().ok().and_then(|measured| measured.run_id.zip(measured.state_digest));
        match ended {
            // Equal run ids train equal states, to the last bit.
            Some((job, digest)) => {
                let states = self.jobs.entry(job.to_string()).or_default();
                states.entry(digest).or_default().push(name);
            }
            None => self.failed += 1,
        }
    }

    /// One line about all of them.
    pub(crate) fn verdict(&self) -> Verdict {
        let runs: usize = self.jobs.values().flat_map(BTreeMap::values).map(Vec::len).sum();
        let jobs = self.jobs.len();
        let failed = if self.failed > 0 { format!("; {} failed and have none", self.failed) } else { String::new() };
        let differing: Vec<String> = self
            .jobs
            .iter()
            .filter(|(_, states)| states.len() > 1)
            .map(|(job, states)| differing(job, states))
            .collect();
        let text = match (runs, &differing[..]) {
            (0, _) => format!("digests: no run has a final state{failed}"),
            (_, []) if jobs == 1 => format!("digests: all {runs} runs of the same work end in the same state{failed}"),
            (_, []) => format!(
                "digests: all {runs} runs of {jobs} different jobs end in the same state as the others of their job{failed}"
            ),
            (_, differing) => format!("digests DIFFER: {}{failed}", differing.join("; ")),
        };
        Verdict { agree: differing.is_empty(), text }
    }
}

/// The states of a job; whose is rarer is named.
fn differing(job: &str, states: &BTreeMap<Digest, Vec<String>>) -> String {
    let mut states: Vec<(&Digest, &Vec<String>)> = states.iter().collect();
    states.sort_by_key(|(_, runs)| std::cmp::Reverse(runs.len()));
    let job: String = job.chars().take(8).collect();
    let (most, others) = (states[0], &states[1..]);
    let others: Vec<String> =
        others.iter().map(|(digest, runs)| format!("{} in {}", digest.short(), runs.join(", "))).collect();
    format!("job {job} ends in {} in {} runs, but in {}", most.0.short(), most.1.len(), others.join(" and "))
}

#[cfg(test)]
mod tests {
    use peerless_protocol::RunId;

    use super::super::outcome::Measured;
    use super::*;

    fn outcome(job: u8, state: u8) -> Outcome {
        let run_id = Some(RunId([job; 32]));
        let measured = Measured { run_id, state_digest: Some(Digest::of(&[state])), ..Measured::default() };
        Outcome::new(&[], Digest::of(b""), 1.0, Ok(measured))
    }

    fn verdict(runs: &[(u8, u8)]) -> Verdict {
        let mut agreement = Agreement::default();
        for (index, &(job, state)) in runs.iter().enumerate() {
            agreement.add(format!("run{index}"), &outcome(job, state));
        }
        agreement.verdict()
    }

    #[test]
    fn equal_digests_of_equal_jobs_are_one_line() {
        let same = verdict(&[(1, 1), (1, 1)]);
        assert!(same.agree && same.text == "digests: all 2 runs of the same work end in the same state");
        let jobs = verdict(&[(1, 1), (1, 1), (2, 2)]);
        assert!(jobs.agree && jobs.text.contains("3 runs of 2 different jobs"), "{}", jobs.text);
    }

    #[test]
    fn a_run_with_another_digest_is_named() {
        let other = verdict(&[(1, 1), (1, 2), (1, 1), (2, 2)]);
        assert!(!other.agree && other.text.contains("run1") && !other.text.contains("run0"), "{}", other.text);
    }

    #[test]
    fn failed_runs_are_counted_and_are_no_difference() {
        let mut agreement = Agreement::default();
        agreement.add("a".into(), &Outcome::new(&[], Digest::of(b""), 1.0, Err("no".into())));
        let verdict = agreement.verdict();
        assert!(verdict.agree && verdict.text.contains("no run has a final state; 1 failed"), "{}", verdict.text);
    }
}
