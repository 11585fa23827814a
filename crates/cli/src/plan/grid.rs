//! Which configurations are looked at.

use std::collections::BTreeSet;
use std::str::FromStr;

use peerless_protocol::RunSpec;
use serde::Serialize;

use crate::model::{Configuration, Constants, Measured, Place};

/// Most numbers in one list.
const MAX_SIZES: usize = 256;

/// Numbers such as `1,2,4` or `1..4`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Sizes(pub(crate) BTreeSet<u32>);

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |text: &str| text.trim().parse::<u32>().ok().filter(|&number| (1..=1_000_000).contains(&number));
        let mut sizes = BTreeSet::new();
        for part in text.split(',') {
            let (from, to) = part.split_once("..").unwrap_or((part, part));
            let (from, to) = number(from).zip(number(to)).ok_or("expected numbers from 1 on, such as 1,2,4 or 1..4")?;
            sizes.extend((from..=to).take(MAX_SIZES + 1));
        }
        match sizes.len() {
            1..=MAX_SIZES => Ok(Self(sizes)),
            0 => Err(format!("there is no number in {text}")),
            _ => Err(format!("more than {MAX_SIZES} numbers")),
        }
    }
}

/// What is combined with what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) peers: Sizes,
    pub(crate) functions: Sizes,
    pub(crate) memory_mb: Sizes,
}

/// Configurations that are not looked at, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct LeftOut {
    pub(crate) what: String,
    pub(crate) reason: String,
}

impl Grid {
    /// The configurations that make sense, each once, and what does not.
    pub(crate) fn configurations(
        &self,
        spec: &RunSpec,
        measured: &Measured,
        constants: &Constants,
        place: Place,
    ) -> (Vec<Configuration>, Vec<LeftOut>) {
        let mut left_out = Vec::new();
        let needed = measured.memory_bytes.div_ceil(1 << 20);
        let (enough, too_small): (Vec<u32>, Vec<u32>) =
            self.memory_mb.0.iter().partition(|&&memory| u64::from(memory) >= needed);
        if !too_small.is_empty() {
            let reason = format!("a function needs {needed} MB, as measured here");
            left_out.push(LeftOut { what: format!("{} MB", list(&too_small)), reason });
        }
        let mut chosen = BTreeSet::new();
        for &peers in &self.peers.0 {
            let units = spec.units_per_round.div_ceil(peers);
            let idle: Vec<u32> = self.functions.0.iter().copied().filter(|&functions| functions > units).collect();
            if !idle.is_empty() {
                let what = format!("{} functions with {peers} {}", list(&idle), plural(peers, "peer"));
                let reason = format!("a peer has {units} {} in a round: taken as {units}", plural(units, "unit"));
                left_out.push(LeftOut { what, reason });
            }
            for functions in self.functions.0.iter().map(|&functions| functions.min(units)) {
                let at_once = u64::from(peers) * u64::from(functions);
                if place == Place::Lambda && at_once as f64 > constants.concurrency.value {
                    let what = format!("{peers} peers with {functions} functions each");
                    let reason = format!("Lambda runs {} at a time", constants.concurrency.value);
                    left_out.push(LeftOut { what, reason });
                    continue;
                }
                chosen.extend(enough.iter().map(|&memory_mb| Configuration { peers, functions, memory_mb }));
            }
        }
        (chosen.into_iter().collect(), left_out)
    }
}

pub(super) fn plural(number: u32, what: &str) -> String {
    if number == 1 { what.to_owned() } else { format!("{what}s") }
}

fn list(numbers: &[u32]) -> String {
    numbers.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_lists_and_ranges() {
        let sizes = |text: &str| text.parse::<Sizes>().map(|Sizes(sizes)| sizes.into_iter().collect::<Vec<_>>());
        assert_eq!(sizes("1..4"), Ok(vec![1, 2, 3, 4]));
        assert_eq!(sizes("8,1,2,2"), Ok(vec![1, 2, 8]));
        assert_eq!(sizes("1..2,16"), Ok(vec![1, 2, 16]));
        for text in ["", "0", "4..1", "x", "1,", "-1", "1..99999", "1..4294967295", "1000001"] {
            assert!(sizes(text).is_err(), "{text}");
        }
    }
}
