//! The run spec from command-line flags.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use peerless_protocol::{
    DatasetSpec, EarlyStopping, EvaluationSpec, LearningRate, Optimizer, RunSpec, SPEC_VERSION, Schedule,
};

use crate::failure::{Advise, code};

/// Passes over the training set, where neither rounds nor epochs are given.
const DEFAULT_EPOCHS: u64 = 8;
const DEFAULT_SAMPLES_PER_UNIT: u32 = 64;
const DEFAULT_UNITS_PER_ROUND: u32 = 4;
/// The longest default warm-up, in rounds; a short run warms up for a twentieth of its rounds.
const MAX_DEFAULT_WARM_UP: u64 = 100;
/// Fixed point of gradient sums: steps of 2^-40, so that 64 gradients of up to 8191 fit.
const FRACTION_BITS: u32 = 40;
/// An evaluation unit of 250 samples takes about as long as a gradient unit of 64.
const EVALUATION_SAMPLES_PER_UNIT: u32 = 250;

/// Everything that decides which model comes out. The same flags give the same model, bit for bit.
#[derive(Args, Debug, Clone, Default, PartialEq)]
#[command(next_help_heading = "What is trained")]
pub(crate) struct SpecArgs {
    /// Model, as in `peerless models` [default: lenet5]
    #[arg(long, value_name = "NAME")]
    model: Option<String>,
    /// Dataset, as in `peerless data list` [default: mnist]
    #[arg(long, value_name = "NAME")]
    dataset: Option<String>,
    /// Passes over the training set [default: 8]
    #[arg(long, value_name = "N")]
    epochs: Option<u64>,
    /// Optimizer steps; wins over --epochs
    #[arg(long, value_name = "N")]
    rounds: Option<u64>,
    /// Stop as soon as this part of the test set is predicted right, such as 0.99 or 99%
    #[arg(long, value_name = "FRACTION")]
    until_accuracy: Option<Fraction>,
    /// Stop when this many evaluations in a row brought no lower loss
    #[arg(long, value_name = "EVALUATIONS")]
    patience: Option<u32>,
    /// Seed of initial parameters and the order of samples [default: 1]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Samples per unit, the work of one function call [default: 64]
    #[arg(long, value_name = "SAMPLES")]
    batch_size: Option<u32>,
    /// Units per round; the global batch is this times the batch size [default: 4]
    #[arg(long, value_name = "N")]
    units_per_round: Option<u32>,
    /// Rounds between evaluations of the test set [default: one epoch]
    #[arg(long, value_name = "ROUNDS")]
    evaluate_every: Option<u64>,
    /// sgd, momentum, nesterov, adam or adamw [default: nesterov]
    #[arg(long, value_name = "NAME")]
    optimizer: Option<String>,
    /// Learning rate [default: 0.1 for sgd, 0.05 with momentum, 0.001 for adam and adamw]
    #[arg(long, value_name = "RATE")]
    lr: Option<f32>,
    /// What remains of the velocity after a step (momentum, nesterov) [default: 0.9]
    #[arg(long, value_name = "FRACTION")]
    momentum: Option<f64>,
    /// L2 coefficient, decoupled with adamw [default: 0, 0.01 for adamw]
    #[arg(long, value_name = "COEFFICIENT")]
    weight_decay: Option<f64>,
    /// constant, cosine, cosine:MINIMUM, step:ROUNDS:FACTOR or plateau:FACTOR:EVALUATIONS [default: cosine]
    #[arg(long, value_name = "SCHEDULE")]
    schedule: Option<ScheduleArg>,
    /// Rounds of linear warm-up [default: a twentieth of the rounds, at most 100]
    #[arg(long, value_name = "ROUNDS")]
    warm_up: Option<u64>,
    /// Scale mean gradients down to this L2 norm
    #[arg(long, value_name = "NORM")]
    clip_norm: Option<f32>,
}

impl SpecArgs {
    /// The default run with so many rounds, evaluated every so many of them.
    pub(crate) fn long(rounds: u64, evaluate_every: u64) -> Self {
        Self { rounds: Some(rounds), evaluate_every: Some(evaluate_every), ..Self::default() }
    }

    /// The default run with another model, and no more gradients at a time than a model of half a gigabyte allows.
    pub(crate) fn for_measuring(model: &str) -> Self {
        Self { model: Some(model.to_owned()), units_per_round: Some(2), ..Self::default() }
    }

    /// The same with a seed.
    pub(crate) fn seeded(self, seed: u64) -> Self {
        Self { seed: Some(seed), ..self }
    }

    /// Whether any flag was given.
    pub(crate) fn is_given(&self) -> bool {
        *self != Self::default()
    }

    /// The flags again, as words of a command line.
    pub(crate) fn flags(&self) -> Vec<String> {
        let mut flags = Vec::new();
        let mut add = |flag: &str, value: Option<String>| {
            flags.extend(value.into_iter().flat_map(|value| [flag.to_owned(), value]));
        };
        add("--model", self.model.clone());
        add("--dataset", self.dataset.clone());
        add("--epochs", text(self.epochs));
        add("--rounds", text(self.rounds));
        add("--until-accuracy", text(self.until_accuracy.map(|Fraction(part)| part)));
        add("--patience", text(self.patience));
        add("--seed", text(self.seed));
        add("--batch-size", text(self.batch_size));
        add("--units-per-round", text(self.units_per_round));
        add("--evaluate-every", text(self.evaluate_every));
        add("--optimizer", self.optimizer.clone());
        add("--lr", text(self.lr));
        add("--momentum", text(self.momentum));
        add("--weight-decay", text(self.weight_decay));
        add("--schedule", text(self.schedule));
        add("--warm-up", text(self.warm_up));
        add("--clip-norm", text(self.clip_norm));
        flags
    }

    pub(crate) fn model(&self) -> &str {
        self.model.as_deref().unwrap_or("lenet5")
    }

    pub(crate) fn dataset(&self) -> &str {
        self.dataset.as_deref().unwrap_or("mnist")
    }

    /// The valid spec that the flags and their defaults describe.
    pub(crate) fn spec(&self, dataset: DatasetSpec) -> anyhow::Result<RunSpec> {
        let optimizer = self.optimizer()?;
        let mut spec = RunSpec {
            version: SPEC_VERSION,
            model: self.model().to_owned(),
            seed: self.seed.unwrap_or(1),
            units_per_round: self.units_per_round.unwrap_or(DEFAULT_UNITS_PER_ROUND),
            samples_per_unit: self.batch_size.unwrap_or(DEFAULT_SAMPLES_PER_UNIT),
            rounds: self.rounds.unwrap_or_default(),
            learning_rate: LearningRate::constant(self.lr.unwrap_or(default_rate(&optimizer))),
            optimizer,
            clip_norm: self.clip_norm,
            fraction_bits: FRACTION_BITS,
            evaluation: EvaluationSpec {
                every_rounds: self.evaluate_every.unwrap_or(1),
                samples_per_unit: EVALUATION_SAMPLES_PER_UNIT.min(dataset.test_samples),
            },
            early_stopping: self.patience.map(|patience| EarlyStopping { patience, min_delta: 0.0 }),
            until_correct: self.until_accuracy.map(|Fraction(part)| samples(part, dataset.test_samples)),
            dataset,
        };
        self.set_rounds(&mut spec);
        spec.validate().code(code::USAGE)?;
        Ok(spec)
    }

    /// What depends on the number of rounds, and that on the batch.
    fn set_rounds(&self, spec: &mut RunSpec) {
        // A batch of 0 has no epochs; validation names it.
        let epoch = spec.dataset.train_samples.checked_div(spec.samples_per_unit.saturating_mul(spec.units_per_round));
        let epoch = u64::from(epoch.unwrap_or_default()).max(1);
        let rounds = self.rounds.unwrap_or_else(|| self.epochs.unwrap_or(DEFAULT_EPOCHS).saturating_mul(epoch));
        spec.rounds = rounds;
        spec.evaluation.every_rounds = self.evaluate_every.unwrap_or(epoch);
        spec.learning_rate.warm_up_rounds = self.warm_up.unwrap_or((rounds / 20).min(MAX_DEFAULT_WARM_UP));
        spec.learning_rate.schedule = self.schedule.unwrap_or(ScheduleArg::DEFAULT).schedule(rounds);
    }

    fn optimizer(&self) -> anyhow::Result<Optimizer> {
        let name = self.optimizer.as_deref().unwrap_or("nesterov");
        let mut optimizer: Optimizer = name.parse().code(code::USAGE)?;
        match (&mut optimizer, self.momentum) {
            (_, None) => {}
            (Optimizer::Momentum { momentum, .. }, Some(given)) => *momentum = given,
            (_, Some(_)) => {
                return Err(anyhow::anyhow!("--momentum does not apply to {name}, only to momentum and nesterov"))
                    .code(code::USAGE);
            }
        }
        if let Some(given) = self.weight_decay {
            match &mut optimizer {
                Optimizer::Sgd { weight_decay }
                | Optimizer::Momentum { weight_decay, .. }
                | Optimizer::Adam { weight_decay, .. }
                | Optimizer::AdamW { weight_decay, .. } => *weight_decay = given,
            }
        }
        Ok(optimizer)
    }
}

fn text(value: Option<impl ToString>) -> Option<String> {
    value.map(|value| value.to_string())
}

fn default_rate(optimizer: &Optimizer) -> f32 {
    match optimizer {
        Optimizer::Sgd { .. } => 0.1,
        Optimizer::Momentum { .. } => 0.05,
        Optimizer::Adam { .. } | Optimizer::AdamW { .. } => 0.001,
    }
}

/// The fewest samples that are at least this part of all. The product is lowered by a part in 10^9
/// first, because 0.985 is a little more than 985 thousandths when written in binary.
fn samples(part: f64, all: u32) -> u64 {
    let exact = part * f64::from(all);
    ((exact - 1e-9 * exact).ceil() as u64).max(1)
}

/// A part of a whole: `0.985` or `98.5%`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fraction(f64);

impl FromStr for Fraction {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, scale) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 100.0));
        let part = number.parse::<f64>().map_err(|_| "expected a number such as 0.985 or 98.5%".to_owned())? / scale;
        if part > 0.0 && part <= 1.0 {
            return Ok(Self(part));
        }
        Err("expected more than 0 and at most 1 (or 100%)".to_owned())
    }
}

/// A learning-rate schedule without the number of rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ScheduleArg {
    Constant,
    Cosine { minimum_fraction: f64 },
    Step { every_rounds: u64, factor: f64 },
    Plateau { factor: f64, patience: u32 },
}

impl ScheduleArg {
    const DEFAULT: Self = Self::Cosine { minimum_fraction: 0.0 };

    fn schedule(self, total_rounds: u64) -> Schedule {
        match self {
            Self::Constant => Schedule::Constant,
            Self::Cosine { minimum_fraction } => Schedule::Cosine { total_rounds, minimum_fraction },
            Self::Step { every_rounds, factor } => Schedule::Step { every_rounds, factor },
            Self::Plateau { factor, patience } => {
                Schedule::ReduceOnPlateau { factor, patience, min_delta: 0.0, minimum_fraction: 0.0 }
            }
        }
    }
}

impl fmt::Display for ScheduleArg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Constant => write!(f, "constant"),
            Self::Cosine { minimum_fraction } => write!(f, "cosine:{minimum_fraction}"),
            Self::Step { every_rounds, factor } => write!(f, "step:{every_rounds}:{factor}"),
            Self::Plateau { factor, patience } => write!(f, "plateau:{factor}:{patience}"),
        }
    }
}

impl FromStr for ScheduleArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |part: &str| part.parse::<f64>().map_err(|_| format!("{part:?} is no number"));
        let count = |part: &str| part.parse::<u32>().map_err(|_| format!("{part:?} is no whole number"));
        match parts[..] {
            ["constant"] => Ok(Self::Constant),
            ["cosine"] => Ok(Self::DEFAULT),
            ["cosine", minimum] => Ok(Self::Cosine { minimum_fraction: number(minimum)? }),
            ["step", every, factor] => {
                Ok(Self::Step { every_rounds: u64::from(count(every)?), factor: number(factor)? })
            }
            ["plateau", factor, patience] => Ok(Self::Plateau { factor: number(factor)?, patience: count(patience)? }),
            _ => {
                Err("expected constant, cosine, cosine:MINIMUM, step:ROUNDS:FACTOR or plateau:FACTOR:EVALUATIONS"
                    .into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use peerless_protocol::Digest;

    use super::*;
    use crate::failure::{exit_code, message};

    fn dataset() -> DatasetSpec {
        DatasetSpec { name: "mnist".into(), digest: Digest::of(b""), train_samples: 60_000, test_samples: 10_000 }
    }

    fn spec(args: SpecArgs) -> RunSpec {
        args.spec(dataset()).unwrap()
    }

    #[test]
    fn the_defaults_are_a_valid_spec_of_eight_epochs() {
        let spec = spec(SpecArgs::default());
        assert_eq!((spec.rounds, spec.evaluation.every_rounds), (8 * 234, 234));
        assert!(!SpecArgs::default().is_given());
    }

    #[test]
    fn rounds_win_over_epochs_and_even_one_round_is_valid() {
        for rounds in [1, 2, 60] {
            let args = SpecArgs { rounds: Some(rounds), epochs: Some(3), ..SpecArgs::default() };
            assert!(args.is_given());
            assert_eq!(spec(args).rounds, rounds);
        }
    }

    #[test]
    fn an_accuracy_becomes_the_count_of_samples_that_reaches_it() {
        for (text, correct) in [("0.985", 9850), ("98.5%", 9850), ("1", 10_000), ("0.98501", 9851)] {
            let args = SpecArgs { until_accuracy: Some(text.parse().unwrap()), ..SpecArgs::default() };
            assert_eq!(spec(args).until_correct, Some(correct), "{text}");
        }
        for text in ["0", "98.5", "-1", "101%", "much", "NaN"] {
            assert!(text.parse::<Fraction>().is_err(), "{text}");
        }
    }

    #[test]
    fn schedules_are_read_with_their_numbers() {
        assert_eq!("step:500:0.5".parse(), Ok(ScheduleArg::Step { every_rounds: 500, factor: 0.5 }));
        assert_eq!("plateau:0.3:4".parse(), Ok(ScheduleArg::Plateau { factor: 0.3, patience: 4 }));
        assert_eq!("cosine:0.1".parse(), Ok(ScheduleArg::Cosine { minimum_fraction: 0.1 }));
        for text in ["", "linear", "step", "step:x:0.5", "constant:1"] {
            assert!(text.parse::<ScheduleArg>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_flags_of_a_spec_give_the_same_spec() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            spec: SpecArgs,
        }
        let read = |words: &[String]| {
            let words = ["test".to_owned()].into_iter().chain(words.iter().cloned());
            <Line as clap::Parser>::parse_from(words).spec
        };
        for line in [
            "",
            "--model lenet5 --dataset mnist --epochs 3 --until-accuracy 98.5% --patience 2 --seed 7 --batch-size 32",
            "--rounds 60 --units-per-round 16 --evaluate-every 5 --optimizer momentum --lr 0.1 --momentum 0.95",
            "--weight-decay 0.0001 --schedule step:500:0.5 --warm-up 3 --clip-norm 1.5",
            "--schedule plateau:0.3:4",
            "--schedule cosine",
        ] {
            let given = read(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
            assert_eq!(read(&given.flags()), given, "{line}");
        }
    }

    #[test]
    fn flags_that_make_no_sense_are_wrong_usage_and_named() {
        let cases = [
            (SpecArgs { units_per_round: Some(0), ..SpecArgs::default() }, "units_per_round is 0"),
            (SpecArgs { batch_size: Some(60_001), ..SpecArgs::default() }, "samples_per_unit is 60001"),
            (SpecArgs { rounds: Some(0), ..SpecArgs::default() }, "rounds is 0"),
            (SpecArgs { optimizer: Some("lion".into()), ..SpecArgs::default() }, "lion"),
            (SpecArgs { optimizer: Some("adam".into()), momentum: Some(0.9), ..SpecArgs::default() }, "--momentum"),
            (SpecArgs { lr: Some(f32::NAN), ..SpecArgs::default() }, "learning rate"),
        ];
        for (args, part) in cases {
            let error = args.spec(dataset()).unwrap_err();
            assert_eq!(exit_code(&error), code::USAGE);
            assert!(message(&error).contains(part), "{}", message(&error));
        }
    }
}
