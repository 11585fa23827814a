//! What computes units: functions or instances.

use anyhow::anyhow;
use clap::ValueEnum;
use peerless_peer::Compute;

use super::{FunctionArgs, Switch};
use crate::failure::{Advise, code};
use crate::prices::PriceArgs;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum ComputeArg {
    Functions,
    Instance,
}

impl From<ComputeArg> for Compute {
    fn from(compute: ComputeArg) -> Self {
        match compute {
            ComputeArg::Functions => Self::Functions,
            ComputeArg::Instance => Self::Instance,
        }
    }
}

impl FunctionArgs {
    /// Most functions at work at a time, if the flags say so.
    pub(super) fn concurrency(&self) -> Option<usize> {
        if self.compute == Some(ComputeArg::Instance) { Some(1) } else { self.functions }
    }

    /// Refuses what an instance has not: it computes by itself, one unit after the other, and costs by the hour.
    pub(super) fn check_compute(&self, prices: &PriceArgs) -> anyhow::Result<()> {
        if self.compute != Some(ComputeArg::Instance) {
            return Ok(());
        }
        let refused = [
            (
                "--functions",
                self.functions.is_some_and(|functions| functions != 1),
                "computes one unit after the other",
            ),
            ("--function-hedge", self.function_hedge == Some(Switch::On), "computes one unit after the other"),
            ("functions elsewhere", self.remote.is_given(), "computes by itself"),
            ("--function-price for processes", prices.charges_processes(), "costs by the hour: use --peer-price"),
        ];
        match refused.into_iter().find(|(_, given, _)| *given) {
            None => Ok(()),
            Some((what, _, why)) => {
                Err(anyhow!("{what} and --compute instance exclude each other: an instance {why}")).code(code::USAGE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        functions: FunctionArgs,
        #[command(flatten)]
        prices: PriceArgs,
    }

    fn check(words: &[&str]) -> Result<FunctionArgs, String> {
        let Line { functions, prices } = Line::parse_from([&["test", "--compute", "instance"], words].concat());
        functions.check_compute(&prices).map(|()| functions).map_err(|error| error.to_string())
    }

    #[test]
    fn an_instance_computes_with_one_process() {
        let functions = check(&["--peer-price", "t2.large"]).unwrap();
        assert_eq!(functions.pool().unwrap().concurrency, 1);
        assert_eq!(functions.for_peer(1), ["--functions", "1", "--compute", "instance"]);
    }

    #[test]
    fn what_only_functions_have_is_refused_for_an_instance() {
        for words in [
            &["--functions", "2"][..],
            &["--function-hedge", "on"],
            &["--function-url", "http://127.0.0.1:1"],
            &["--function-price", "lambda-x86:1769"],
        ] {
            let error = check(words).unwrap_err();
            assert!(error.contains("--compute instance"), "{words:?}: {error}");
        }
        check(&["--functions", "1", "--function-price", "lambda=lambda-x86"]).unwrap();
    }
}
