//! What was measured on this machine.

use serde::{Deserialize, Serialize};

/// Times of a unit in a warm function with one thread, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct UnitTime {
    /// Median on an otherwise idle machine.
    pub(crate) alone_us: f64,
    /// The tenth of the times are below this.
    pub(crate) alone_p10_us: f64,
    /// The tenth of the times are above this.
    pub(crate) alone_p90_us: f64,
    /// Median with as many functions at work as there are cores, which share caches and memory.
    pub(crate) busy_us: f64,
}

impl UnitTime {
    /// With so many functions at work, between one and all cores: in between by a straight line.
    pub(crate) fn at(&self, functions: f64, cores: f64) -> f64 {
        if cores <= 1.0 {
            return self.alone_us;
        }
        let part = ((functions - 1.0) / (cores - 1.0)).clamp(0.0, 1.0);
        self.alone_us + part * (self.busy_us - self.alone_us)
    }
}

/// What a plan starts from. Medians, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Measured {
    pub(crate) cores: u32,
    /// Units of each kind that were timed, alone and again on busy cores.
    pub(crate) units: u32,
    pub(crate) gradient: UnitTime,
    pub(crate) evaluation: UnitTime,
    /// A warm call from a peer's side without work.
    pub(crate) call_us: f64,
    /// The start of a function, until it has answered.
    pub(crate) start_us: f64,
    /// Making initial parameters in a warm function.
    pub(crate) initialise_us: f64,
    /// Adding a gradient to a peer's sum.
    pub(crate) add_us: f64,
    /// Taking in the sum of another peer.
    pub(crate) merge_us: f64,
    /// Own sum, mean, optimizer step, and storing and hashing the new state.
    pub(crate) update_us: f64,
    /// Largest resident set of a function.
    pub(crate) memory_bytes: u64,
    /// Elements of the model's flat vector.
    pub(crate) elements: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn between_one_function_and_all_cores_times_grow_evenly() {
        let time = UnitTime { alone_us: 100.0, busy_us: 160.0, ..UnitTime::default() };
        assert_eq!(
            [0.0, 1.0, 2.0, 4.0, 9.0].map(|functions| time.at(functions, 4.0)),
            [100.0, 100.0, 120.0, 160.0, 160.0]
        );
        assert_eq!(time.at(3.0, 1.0), 100.0);
    }
}
