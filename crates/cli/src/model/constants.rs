//! What is not measured here: constants of clouds, networks and peers, each with its origin.

use clap::Args;
use serde::Serialize;

/// Where a constant is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// By a flag.
    Given,
    /// Somebody else has published it.
    Published,
    /// Measured for this project, on another machine than this one perhaps.
    Measured,
    /// A guess.
    Assumed,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Given => "given",
            Self::Published => "published",
            Self::Measured => "measured",
            Self::Assumed => "assumed",
        })
    }
}

/// A constant with its origin.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Constant {
    /// The flag that sets it.
    pub(crate) flag: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) origin: Origin,
    pub(crate) source: &'static str,
}

const LAMBDA_ML: &str = "LambdaML, arXiv 2105.07806, 2021";
impl Constant {
    /// The same with another value from the command line.
    pub(super) fn given(self, value: f64) -> Self {
        Self { value, origin: Origin::Given, source: "command line", ..self }
    }
}

const REFERENCE: &str = "2-core AMD EPYC (Zen 4) VM, Debian 12; docs/planning.md";

/// The constants of the model. Times are in milliseconds, bandwidths in MB (10^6 bytes) per second.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Constants {
    pub(crate) core_mb: Constant,
    pub(crate) concurrency: Constant,
    pub(crate) core_speed: Constant,
    pub(crate) cold_start: Constant,
    pub(crate) invoke: Constant,
    pub(crate) bandwidth: Constant,
    pub(crate) latency: Constant,
    pub(crate) peer_bandwidth: Constant,
    pub(crate) peer_latency: Constant,
    pub(crate) peer_cpu: Constant,
    pub(crate) exchange_cpu: Constant,
}

pub(super) const fn constant(
    flag: &'static str,
    value: f64,
    unit: &'static str,
    origin: Origin,
    source: &'static str,
) -> Constant {
    Constant { flag, value, unit, origin, source }
}

impl Default for Constants {
    fn default() -> Self {
        use Origin::{Assumed, Measured, Published};
        let aws = "AWS Lambda developer guide, 2026-11-23";
        Self {
            core_mb: constant("--core-mb", 1769.0, "MB", Published, aws),
            concurrency: constant("--concurrency", 1000.0, "functions", Published, aws),
            core_speed: constant("--core-speed", 1.0, "cores here", Assumed, "a core there is as fast as one here"),
            cold_start: constant("--cold-start", 1200.0, "ms", Published, LAMBDA_ML),
            invoke: constant("--invoke-latency", 20.0, "ms", Assumed, "same region"),
            bandwidth: constant("--bandwidth", 65.0, "MB/s", Published, LAMBDA_ML),
            latency: constant("--latency", 80.0, "ms", Published, LAMBDA_ML),
            peer_bandwidth: constant("--peer-bandwidth", 125.0, "MB/s", Assumed, "1 Gbit/s"),
            peer_latency: constant("--peer-latency", 1.0, "ms", Assumed, "same region"),
            peer_cpu: constant("--peer-cpu", 1.0, "ms", Measured, REFERENCE),
            exchange_cpu: constant("--exchange-cpu", 2.8, "s/GB", Measured, REFERENCE),
        }
    }
}

impl Constants {
    /// All of them.
    pub(crate) fn list(&self) -> [Constant; 11] {
        [
            self.core_mb,
            self.concurrency,
            self.core_speed,
            self.cold_start,
            self.invoke,
            self.bandwidth,
            self.latency,
            self.peer_bandwidth,
            self.peer_latency,
            self.peer_cpu,
            self.exchange_cpu,
        ]
    }
}

/// Constants in the place of the built-in ones.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Constants of the model (docs/planning.md, docs/projection.md)")]
pub(crate) struct ConstantArgs {
    /// Memory that comes with one whole core on Lambda, in MB [default: 1769]
    #[arg(long, value_name = "MB", value_parser = positive)]
    core_mb: Option<f64>,
    /// Most functions at a time on Lambda, over all peers [default: 1000]
    #[arg(long, value_name = "N", value_parser = positive)]
    concurrency: Option<f64>,
    /// Speed of a core on Lambda, where one here is 1 [default: 1]
    #[arg(long, value_name = "FACTOR", value_parser = positive)]
    core_speed: Option<f64>,
    /// Start of a cold function on Lambda, in milliseconds [default: 1200]
    #[arg(long, value_name = "MS", value_parser = not_negative)]
    cold_start: Option<f64>,
    /// From the peer to a warm function on Lambda and back, in milliseconds [default: 20]
    #[arg(long, value_name = "MS", value_parser = not_negative)]
    invoke_latency: Option<f64>,
    /// Bytes between a function and where its tensors are, in MB (10^6) per second [default: 65]
    #[arg(long, value_name = "MB/S", value_parser = positive)]
    bandwidth: Option<f64>,
    /// A request of a function for a tensor, in milliseconds [default: 80]
    #[arg(long, value_name = "MS", value_parser = not_negative)]
    latency: Option<f64>,
    /// Bytes in and out of a peer's machine, in MB (10^6) per second [default: 125]
    #[arg(long, value_name = "MB/S", value_parser = positive)]
    peer_bandwidth: Option<f64>,
    /// Between two peers, in milliseconds [default: 1]
    #[arg(long, value_name = "MS", value_parser = not_negative)]
    peer_latency: Option<f64>,
    /// CPU time of a peer in each round besides what is measured, in milliseconds [default: 1]
    #[arg(long, value_name = "MS", value_parser = not_negative)]
    peer_cpu: Option<f64>,
    /// CPU time of both ends for what peers send each other, in seconds per GB (10^9) [default: 2.8]
    #[arg(long, value_name = "S/GB", value_parser = not_negative)]
    exchange_cpu: Option<f64>,
}

impl ConstantArgs {
    /// The constants with those that were given.
    pub(crate) fn constants(&self) -> Constants {
        let mut constants = Constants::default();
        let given = [
            (&mut constants.core_mb, self.core_mb),
            (&mut constants.concurrency, self.concurrency),
            (&mut constants.core_speed, self.core_speed),
            (&mut constants.cold_start, self.cold_start),
            (&mut constants.invoke, self.invoke_latency),
            (&mut constants.bandwidth, self.bandwidth),
            (&mut constants.latency, self.latency),
            (&mut constants.peer_bandwidth, self.peer_bandwidth),
            (&mut constants.peer_latency, self.peer_latency),
            (&mut constants.peer_cpu, self.peer_cpu),
            (&mut constants.exchange_cpu, self.exchange_cpu),
        ];
        for (constant, value) in given {
            if let Some(value) = value {
                *constant = constant.given(value);
            }
        }
        constants
    }
}

/// Reads a number from 0 on.
pub(crate) fn not_negative(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.ok_or_else(|| "expected a number that is not negative".to_owned())
}

/// Reads a number above 0.
pub(crate) fn positive(text: &str) -> Result<f64, String> {
    not_negative(text).ok().filter(|number| *number > 0.0).ok_or_else(|| "expected a number above 0".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_constant_that_is_given_says_so_and_the_others_stay() {
        let constants = ConstantArgs { cold_start: Some(90.0), ..ConstantArgs::default() }.constants();
        assert_eq!((constants.cold_start.value, constants.cold_start.origin), (90.0, Origin::Given));
        assert_eq!(constants.bandwidth, Constants::default().bandwidth);
        let flags: Vec<&str> = constants.list().iter().map(|constant| constant.flag).collect();
        let command = <ConstantArgs as clap::Args>::augment_args(clap::Command::new("test"));
        let known: Vec<String> = command.get_arguments().map(|argument| format!("--{}", argument.get_id())).collect();
        assert_eq!(flags, known.iter().map(|id| id.replace('_', "-")).collect::<Vec<_>>());
    }

    #[test]
    fn numbers_that_no_constant_can_have_are_refused() {
        assert!(["-1", "NaN", "inf", "x", ""].iter().all(|text| not_negative(text).is_err()));
        assert!(positive("0").is_err() && not_negative("0").is_ok());
    }
}
