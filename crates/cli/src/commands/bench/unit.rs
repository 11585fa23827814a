//! The gradient of one unit, on one thread.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::str::FromStr;
use std::time::{Duration, Instant};
use std::{env, fs};

use anyhow::ensure;
use clap::Args;
use peerless_functions::ALLOCATOR_SETTINGS;
use peerless_training::{Engine, Model, UnitTimes, measured_cnn, ops, use_threads};
use serde::Serialize;

use super::percentile;
use crate::functions::EngineArgs;
use crate::output::{self, Align, say, table};
use crate::train::memory::peak_memory;

/// The models and batches of `docs/performance.md`.
const UNITS: [&str; 5] = ["lenet5:64", "lenet5:256", "cnn-1.2m:64", "mobilenet-v3-small:32", "resnet18:32"];

#[derive(Debug, Args)]
pub(crate) struct UnitArgs {
    /// What to measure; `cnn-1.2m` is a network for measurements alone [default: what docs/performance.md shows]
    #[arg(value_name = "MODEL:BATCH")]
    units: Vec<Unit>,
    /// Time for each of them, after a unit that is not counted
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,
    #[command(flatten)]
    engine: EngineArgs,
    /// Write the result to stdout as JSON
    #[arg(long)]
    json: bool,
}

/// A model and its number of samples.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Unit {
    model: String,
    batch: usize,
}

impl FromStr for Unit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = || format!("expected MODEL:BATCH, such as lenet5:64, and not {text:?}");
        let (model, batch) = text.rsplit_once(':').ok_or_else(expected)?;
        let batch = batch.parse().ok().filter(|batch| (1..=65_536).contains(batch)).ok_or_else(expected)?;
        Ok(Self { model: model.to_owned(), batch })
    }
}

#[derive(Debug, Serialize)]
struct Report {
    engine: &'static str,
    /// What a core reaches in a product of matrices.
    peak_gflops: f64,
    units: Vec<Measured>,
}

/// Times are in milliseconds; the parts are those of the median unit.
#[derive(Debug, Serialize)]
struct Measured {
    unit: String,
    median_ms: f64,
    min_ms: f64,
    load_ms: f64,
    forward_ms: f64,
    backward_ms: f64,
    flatten_ms: f64,
    /// Of the fastest unit, products alone counted; `None` for engines that do not count them.
    gflops: Option<f64>,
    /// Largest resident set of the process while it was measured; 0 where the system does not say.
    peak_memory_bytes: u64,
    samples_ms: Vec<f64>,
}

pub(super) fn run(args: &UnitArgs) -> anyhow::Result<()> {
    ensure!(args.seconds > 0.0 && args.seconds <= 3600.0, "--seconds must be more than 0 and at most 3600");
    let engine = args.engine.built_in()?.unwrap_or_default();
    with_the_allocator_of_functions();
    use_threads(1);
    let defaults = UNITS.iter().filter_map(|unit| unit.parse().ok()).collect();
    let units = if args.units.is_empty() { defaults } else { args.units.clone() };
    let budget = Duration::from_secs_f64(args.seconds);
    let units = units.iter().map(|unit| measure(unit, engine, budget)).collect::<anyhow::Result<_>>()?;
    let report = Report { engine: engine.name(), peak_gflops: ops::peak_gflops(), units };
    if args.json { output::json(&report) } else { output::data(&report.text()) }
}

/// Begins anew with the settings that functions get, which the C library reads at its start only. Where that cannot be,
/// what is measured allocates as it can.
fn with_the_allocator_of_functions() {
    let (name, value) = ALLOCATOR_SETTINGS;
    if env::var_os(name).is_some() {
        return;
    }
    if let Ok(program) = env::current_exe() {
        let error = Command::new(program).args(env::args_os().skip(1)).env(name, value).exec();
        say(&format!("measured without the allocator settings that functions have: {error}"));
    }
}

fn measure(unit: &Unit, engine: Engine, budget: Duration) -> anyhow::Result<Measured> {
    let model = if unit.model == "cnn-1.2m" { measured_cnn() } else { Model::named(&unit.model)? };
    let mut model = model.on(engine)?;
    let values = model.initial_values(0)?;
    let pixels = unit.batch * model.info().input.iter().product::<usize>();
    // Any pattern does: no layer is faster for some values.
    let images: Vec<f32> = (0..pixels).map(|pixel| (pixel * 37 % 255) as f32 / 127.0 - 1.0).collect();
    // Forgets the peak of what was measured before; where it may not, that one stays.
    let _ = fs::write("/proc/self/clear_refs", "5");
    let before = ops::multiply_adds();
    model.time_of_gradient(&values, images.clone())?;
    let counted = 2 * (ops::multiply_adds() - before);
    let operations = Some(counted).filter(|_| engine == Engine::Flex);
    let (begin, mut times) = (Instant::now(), Vec::new());
    while begin.elapsed() < budget || times.len() < 3 {
        times.push(model.time_of_gradient(&values, images.clone())?);
    }
    times.sort_by_key(UnitTimes::total);
    let (fastest, median) = (times[0], times[times.len() / 2]);
    let samples_ms: Vec<f64> = times.iter().map(|times| milliseconds(times.total())).collect();
    Ok(Measured {
        unit: format!("{}:{}", unit.model, unit.batch),
        median_ms: percentile(&samples_ms, 50),
        min_ms: milliseconds(fastest.total()),
        load_ms: milliseconds(median.load),
        forward_ms: milliseconds(median.forward),
        backward_ms: milliseconds(median.backward),
        flatten_ms: milliseconds(median.flatten),
        gflops: operations.map(|operations| operations as f64 / fastest.total().as_secs_f64() / 1e9),
        peak_memory_bytes: peak_memory(std::process::id()).unwrap_or_default(),
        samples_ms,
    })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Report {
    fn text(&self) -> String {
        let number = |value: f64| format!("{value:.2}");
        let row = |unit: &Measured| {
            let times = [unit.median_ms, unit.min_ms, unit.load_ms, unit.forward_ms, unit.backward_ms, unit.flatten_ms];
            let memory = format!("{} MB", unit.peak_memory_bytes / 1_000_000);
            let speed = unit.gflops.map_or_else(|| "-".to_owned(), |speed| format!("{speed:.1}"));
            [vec![unit.unit.clone()], times.map(number).to_vec(), vec![speed, memory]].concat()
        };
        let heads = ["median ms", "min ms", "load", "forward", "backward", "flatten", "GFLOP/s", "peak memory"];
        let columns: Vec<_> =
            [("unit", Align::Left)].into_iter().chain(heads.map(|head| (head, Align::Right))).collect();
        let rows: Vec<_> = self.units.iter().map(row).collect();
        let peak = format!("engine {}; a product of matrices in flex: {:.1} GFLOP/s", self.engine, self.peak_gflops);
        format!("{}\n\n{peak}", table(&columns, &rows))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_a_model_and_a_number_of_samples() {
        assert_eq!("resnet18:32".parse(), Ok(Unit { model: "resnet18".into(), batch: 32 }));
        for wrong in ["resnet18", "resnet18:", "resnet18:0", "resnet18:x", "resnet18:70000"] {
            assert!(wrong.parse::<Unit>().is_err(), "{wrong}");
        }
        assert!(UNITS.iter().all(|unit| unit.parse::<Unit>().is_ok()));
    }

    #[test]
    fn a_measured_unit_has_parts_that_make_up_its_time() {
        let unit = Unit { model: "lenet5".into(), batch: 2 };
        let measured = measure(&unit, Engine::Flex, Duration::from_millis(1)).unwrap();
        assert!(measured.samples_ms.len() >= 3 && measured.min_ms <= measured.median_ms);
        assert!(measured.forward_ms > 0.0 && measured.backward_ms > 0.0 && measured.gflops > Some(0.0));
        let report = Report { engine: "flex", peak_gflops: 1.0, units: vec![measured] };
        assert!(report.text().contains("lenet5:2"));
    }
}
