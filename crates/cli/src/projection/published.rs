//! Points that others have published, and what was measured elsewhere in this project, beside what the model says.

use peerless_functions::prices::{Money, PriceTable, UnknownPrice};
use serde::Serialize;

use super::inputs::Inputs;
use crate::model::{Constants, Link, STARTS, start_factor, store_all_reduce, store_scatter_reduce, usd};

/// How a figure came about that the model is held against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Origin {
    /// In a paper's abstract.
    Published,
    /// Told of a paper whose text was not at hand.
    PublishedSecondHand,
    /// By this project.
    Measured,
}

/// How the model's figure came about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Basis {
    /// By formulas from constants and measured units.
    Projected,
    /// List prices times published times.
    ListPrices,
    /// Made to agree, so that the error says nothing.
    Fitted,
}

/// One figure on both sides.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    pub(crate) reference: f64,
    pub(crate) origin: Origin,
    pub(crate) source: &'static str,
    pub(crate) ours: f64,
    pub(crate) basis: Basis,
    /// How much too high ours is, of the reference.
    pub(crate) error_percent: f64,
    pub(crate) note: String,
}

const SERVERLESS_PEERS: &str = "arXiv 2309.14139";
const LAMBDA_ML: &str = "arXiv 2105.07806";
const RECOVERY: &str = "docs/recovery.md";

/// VGG-11 on MNIST with 4 peers: 15 batches of 1,024 samples make a peer's epoch.
mod vgg {
    pub(super) const BATCHES: u32 = 15;
    pub(super) const BATCH: f64 = 1024.0;
    pub(super) const FUNCTION_MB: u32 = 4400;
    pub(super) const FUNCTIONS_S: f64 = 41.2;
    pub(super) const FUNCTIONS_USD: f64 = 0.03567;
    pub(super) const INSTANCE_S: f64 = 258.0;
    pub(super) const INSTANCE_USD: f64 = 0.00665;
    /// Of a t2.large.
    pub(super) const INSTANCE_CORES: f64 = 2.0;
    pub(super) const MOST_TIMES_THE_COST: f64 = 5.4;
    pub(super) const MOST_LESS_TIME: f64 = 0.9734;
    /// Of VGG-11 for one channel and ten classes, in bytes.
    pub(super) const VECTOR_BYTES: f64 = 4.0 * 128_806_154.0;
}

/// One round of LambdaML through S3: name, bytes, workers, seconds of AllReduce and of ScatterReduce.
const LAMBDA_ML_ROUNDS: [(&str, f64, u32, f64, f64); 3] = [
    ("ResNet, 89 MB, 10 workers", 89e6, 10, 17.3, 8.5),
    ("MobileNet, 12 MB, 10 workers", 12e6, 10, 3.3, 3.1),
    ("logistic regression, 224 B, 50 workers", 224.0, 50, 9.2, 9.8),
];

/// A silent peer of four, LeNet-5, units of 64 samples: milliseconds beyond a normal round, and stalled in all.
const SILENT_PEER_MS: (f64, f64) = (177.6, 350.8);

/// All points. Those that need a model that was not measured are left out.
pub(crate) fn rows(inputs: &Inputs, prices: &PriceTable, constants: &Constants) -> Result<Vec<Row>, UnknownPrice> {
    let mut rows = dollars(prices)?;
    rows.extend(times(inputs, constants));
    rows.extend(starts(constants));
    rows.extend(rounds());
    rows.extend(recovery(inputs));
    Ok(rows)
}

fn row(
    what: impl Into<String>,
    unit: &'static str,
    (reference, origin, source): (f64, Origin, &'static str),
    (ours, basis): (f64, Basis),
    note: &str,
) -> Row {
    let error_percent = 100.0 * (ours / reference - 1.0);
    Row { what: what.into(), unit, reference, origin, source, ours, basis, error_percent, note: note.to_owned() }
}

fn dollars(prices: &PriceTable) -> Result<Vec<Row>, UnknownPrice> {
    let machine = |name: &str, seconds: f64| -> Result<f64, UnknownPrice> {
        Ok(usd(Money::from(prices.machine(name)?.price.usd_per_hour)) * seconds / 3600.0)
    };
    let functions = |name: &str| -> Result<f64, UnknownPrice> {
        let price = prices.rate(name, None)?.price;
        let one = price.usd_per_gb_second.of_memory(vgg::FUNCTION_MB, (1000.0 * vgg::FUNCTIONS_S) as u64);
        let requests = price.usd_per_million_requests.of_million(vgg::BATCHES.into());
        Ok(usd(one.times(vgg::BATCHES.into()) + requests) + machine("t2.small", vgg::FUNCTIONS_S)?)
    };
    let second_hand = |value| (value, Origin::PublishedSecondHand, SERVERLESS_PEERS);
    let instance = machine("t2.large", vgg::INSTANCE_S)?;
    let arm = functions("lambda-arm64")?;
    Ok(vec![
        row(
            "VGG-11 on a t2.large, 258 s: dollars of an epoch and peer",
            "$",
            second_hand(vgg::INSTANCE_USD),
            (instance, Basis::ListPrices),
            "",
        ),
        row(
            "VGG-11, 15 functions of 4,400 MB for 41.2 s, and a t2.small: at arm64's price",
            "$",
            second_hand(vgg::FUNCTIONS_USD),
            (arm, Basis::ListPrices),
            "only this pair of list prices gives the figure; which one the paper took is not known",
        ),
        row(
            "the same at x86's price",
            "$",
            second_hand(vgg::FUNCTIONS_USD),
            (functions("lambda-x86")?, Basis::ListPrices),
            "",
        ),
        row(
            "functions against an instance: times the cost, at most",
            "times",
            (vgg::MOST_TIMES_THE_COST, Origin::Published, SERVERLESS_PEERS),
            (arm / instance, Basis::ListPrices),
            "from the two figures above",
        ),
    ])
}

fn times(inputs: &Inputs, constants: &Constants) -> Vec<Row> {
    let mut rows = Vec::new();
    let second_hand = |value| (value, Origin::PublishedSecondHand, SERVERLESS_PEERS);
    let what = "VGG-11 on a t2.large: an epoch of one of 4 peers";
    if let Some(vgg) = inputs.models.get("vgg11") {
        let samples = f64::from(vgg::BATCHES) * vgg::BATCH;
        let units = samples / f64::from(vgg.samples_per_unit);
        let ours = units * vgg.measured.gradient.busy_us / 1e6 / vgg::INSTANCE_CORES;
        let note = format!(
            "measured units on two cores here; their software and processor differ: factor {:.2}, which cancels out below",
            vgg::INSTANCE_S / ours
        );
        rows.push(row(what, "s", second_hand(vgg::INSTANCE_S), (ours, Basis::Projected), &note));
    }
    // From here on only ratios of the model count: a batch is what the t2.large took for it.
    let batch_s = vgg::INSTANCE_S / f64::from(vgg::BATCHES);
    rows.push(row(what, "s", second_hand(vgg::INSTANCE_S), (vgg::INSTANCE_S, Basis::Fitted), "speed from this point"));
    let function = |batch_s: f64, cores: f64| FunctionTime::of(batch_s, cores, constants);
    let cores = f64::from(vgg::FUNCTION_MB) / constants.core_mb.value;
    for (what, cores, note) in [
        ("with 15 functions of 4,400 MB, all their 2.49 cores at work", cores, "as PyTorch does by default"),
        ("the same, one core at work", 1.0, "the published point lies between the two"),
    ] {
        let time = function(batch_s, cores);
        rows.push(row(what, "s", second_hand(vgg::FUNCTIONS_S), (time.cold(vgg::BATCHES), Basis::Projected), note));
    }
    // A peer's 15,000 samples as batches of 64.
    let small = function(batch_s * 64.0 / vgg::BATCH, cores);
    let least = 1.0 - small.warm() / vgg::INSTANCE_S;
    let computing = 1.0 - small.compute_s / vgg::INSTANCE_S;
    rows.push(row(
        "less time than the instance, at most: 235 warm functions with 64 samples each",
        "%",
        (100.0 * vgg::MOST_LESS_TIME, Origin::Published, SERVERLESS_PEERS),
        (100.0 * least, Basis::Projected),
        &format!("which configuration it was is not known; without moving the vectors {:.2} %", 100.0 * computing),
    ));
    rows
}

/// A function that reads the model, computes one batch and writes a gradient.
struct FunctionTime {
    compute_s: f64,
    moving_s: f64,
    start_s: f64,
}

impl FunctionTime {
    /// For a batch that an instance needs `batch_s` for with all its cores.
    fn of(batch_s: f64, cores: f64, constants: &Constants) -> Self {
        let compute_s = batch_s * vgg::INSTANCE_CORES / cores;
        let moving_s = 2.0 * (constants.latency.value / 1e3 + vgg::VECTOR_BYTES / 1e6 / constants.bandwidth.value);
        Self { compute_s, moving_s, start_s: constants.cold_start.value / 1e3 }
    }

    fn warm(&self) -> f64 {
        self.compute_s + self.moving_s
    }

    fn cold(&self, functions: u32) -> f64 {
        self.warm() + self.start_s * start_factor(functions)
    }
}

fn starts(constants: &Constants) -> Vec<Row> {
    let (first, last) = (STARTS[0], STARTS[STARTS.len() - 1]);
    let slope = (last.1 - first.1) / f64::from(last.0 - first.0);
    let published = |seconds| (seconds, Origin::PublishedSecondHand, LAMBDA_ML);
    let line = STARTS.iter().map(|&(functions, seconds)| {
        let ours = first.1 + slope * f64::from(functions - first.0);
        let ends = functions == first.0 || functions == last.0;
        let (basis, note) = if ends {
            (Basis::Fitted, "a line through the first and the last point")
        } else {
            (Basis::Projected, "by that line; projections go through all four points")
        };
        row(format!("start of {functions} functions"), "s", published(seconds), (ours, basis), note)
    });
    let mut rows: Vec<Row> = line.collect();
    rows.push(row(
        "start of 200 functions, if they started as quickly as one",
        "s",
        published(last.1),
        (constants.cold_start.value / 1e3, Basis::Projected),
        "as peerless plan takes it",
    ));
    rows
}

fn rounds() -> Vec<Row> {
    // S3 as LambdaML gives it, whatever constants apply otherwise.
    let store = Link { bandwidth: 65.0, latency_us: 80_000.0 };
    let mut rows = Vec::new();
    for (name, bytes, workers, all_reduce, scatter_reduce) in LAMBDA_ML_ROUNDS {
        for (pattern, published, ours) in [
            ("AllReduce", all_reduce, store_all_reduce(workers, bytes, store)),
            ("ScatterReduce", scatter_reduce, store_scatter_reduce(workers, bytes, store)),
        ] {
            rows.push(row(
                format!("{pattern} through S3: {name}"),
                "s",
                (published, Origin::PublishedSecondHand, LAMBDA_ML),
                (ours / 1e6, Basis::Projected),
                "without listing, waiting and decoding",
            ));
        }
    }
    rows
}

fn recovery(inputs: &Inputs) -> Vec<Row> {
    let Some(lenet) = inputs.models.get("lenet5") else { return Vec::new() };
    // Four functions share two cores: a unit is there after twice its time.
    let unit_ms = 2.0 * lenet.measured.gradient.busy_us / 1e3;
    let ours = (2.0 * unit_ms + 100.0).min(1000.0) + unit_ms;
    let (next, stalled) = SILENT_PEER_MS;
    let measured = |value| (value, Origin::Measured, RECOVERY);
    vec![
        row(
            "a silent peer of 4, LeNet-5 on 2 cores: its round longer by",
            "ms",
            measured(next),
            (ours, Basis::Projected),
            "an upper bound: the deadline counts from the round's begin",
        ),
        row(
            "the same, time lost in all rounds until it is suspected",
            "ms",
            measured(stalled),
            (ours, Basis::Projected),
            "the model counts one such round",
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Vec<Row> {
        rows(&Inputs::built_in().unwrap(), &PriceTable::built_in().unwrap(), &Constants::default()).unwrap()
    }

    fn error(part: &str) -> f64 {
        let rows = all();
        rows.iter().find(|row| row.what.contains(part)).unwrap_or_else(|| panic!("{part}")).error_percent
    }

    fn about(found: f64, expected: f64) {
        assert!((found - expected).abs() < 0.05 + 0.01 * expected.abs(), "{found} % is not {expected} %");
    }

    #[test]
    fn published_figures_are_those_of_their_sources() {
        let published: Vec<(String, f64)> = all()
            .into_iter()
            .filter(|row| row.origin != Origin::Measured && row.basis != Basis::Fitted)
            .map(|row| (format!("{} {}", row.source, row.unit), row.reference))
            .collect();
        for figure in [0.00665, 0.03567, 5.4] {
            assert!(published.iter().any(|(source, value)| source.contains("2309.14139") && *value == figure));
        }
        for figure in [258.0, 41.2] {
            assert!(published.iter().any(|(source, value)| source == "arXiv 2309.14139 s" && *value == figure));
        }
        assert_eq!(STARTS, [(10, 1.2), (50, 11.0), (100, 18.0), (200, 35.0)]);
        let constants = Constants::default();
        assert_eq!([constants.bandwidth.value, constants.latency.value], [65.0, 80.0]);
    }

    #[test]
    fn list_prices_give_the_published_dollars() {
        // 258 s at $0.0928 an hour are $0.0066507.
        about(error("258 s: dollars"), 0.01);
        // 15 · 41.2 s · 4.296875 GB · $0.0000133334, 15 requests, and 41.2 s at $0.023 an hour: $0.035673.
        about(error("arm64's price"), 0.01);
        about(error("x86's price"), 24.84);
        about(error("times the cost"), -0.67);
    }

    #[test]
    fn times_of_functions_follow_from_that_of_the_instance() {
        // 17.2 s a batch; 2 · 8.0065 s for 515 MB; a start of 2.425 s: 13.830 + 16.013 + 2.425 = 32.268 s.
        about(error("2.49 cores"), -21.68);
        about(error("one core at work"), 28.23);
        // 0.8644 + 16.013 s of 258 s.
        about(error("at most: 235"), 93.459 / 97.34 * 100.0 - 100.0);
    }

    #[test]
    fn starts_and_rounds_of_lambda_ml_are_off_by_what_a_hand_computes() {
        about(error("start of 50"), (1.2 + 33.8 / 190.0 * 40.0) / 11.0 * 100.0 - 100.0);
        about(error("start of 100"), (1.2 + 33.8 / 190.0 * 90.0) / 18.0 * 100.0 - 100.0);
        about(error("as quickly as one"), 1.2 / 35.0 * 100.0 - 100.0);
        // 13 transfers of 89 MB, 28 of 8.9 MB.
        about(error("AllReduce through S3: ResNet"), 13.0 * (89.0 / 65.0 + 0.08) / 17.3 * 100.0 - 100.0);
        about(error("ScatterReduce through S3: ResNet"), 28.0 * (8.9 / 65.0 + 0.08) / 8.5 * 100.0 - 100.0);
    }

    #[test]
    fn every_row_says_where_it_is_from() {
        for row in all() {
            assert!(row.reference > 0.0 && row.ours.is_finite() && !row.source.is_empty(), "{row:?}");
            assert!((row.basis == Basis::Fitted) <= (row.error_percent.abs() < 1e-9), "{row:?}");
        }
    }
}
