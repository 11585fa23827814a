//! A plan as tables for people and as JSON for programs.

use peerless_functions::prices::Money;
use peerless_protocol::RunSpec;
use serde_json::{Value, json};

use super::against::Comparison;
use super::grid::{LeftOut, plural};
use crate::model::{Configuration, Constant, Constants, Costs, Measured, Place, Prediction};
use crate::output::{Align, percent, table, thousands};

/// Version of the JSON; it grows when a field changes its meaning or goes.
const VERSION: u32 = 1;

/// A configuration with what it comes to.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) configuration: Configuration,
    /// Name of the price of functions; none where they cost nothing.
    pub(crate) price: Option<String>,
    pub(crate) prediction: Prediction,
    pub(crate) costs: Costs,
    /// Whether no other point is quicker and not dearer, or cheaper and not slower.
    pub(crate) on_front: bool,
    /// Whether it keeps within the limits on time and money that were given.
    pub(crate) allowed: bool,
}

/// Everything that a plan says.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a RunSpec,
    pub(crate) place: Place,
    pub(crate) measured: &'a Measured,
    pub(crate) constants: &'a Constants,
    pub(crate) points: Vec<Point>,
    pub(crate) left_out: Vec<LeftOut>,
    /// Show only the front.
    pub(crate) front_only: bool,
    /// Flags of the run, for commands.
    pub(crate) flags: Vec<String>,
}

impl Plan<'_> {
    pub(crate) fn text(&self) -> String {
        let spec = self.spec;
        let rounds = thousands(spec.rounds);
        let mut lines = vec![
            format!(
                "{} on {}: {rounds} {} of {} {} with {} samples each",
                spec.model,
                spec.dataset.name,
                if spec.rounds == 1 { "round" } else { "rounds" },
                spec.units_per_round,
                plural(spec.units_per_round, "unit"),
                spec.samples_per_unit
            ),
            measured(self.measured),
        ];
        if spec.early_stopping.is_some() || spec.until_correct.is_some() {
            lines.push("planned is the longest that the run can be: it may end earlier".to_owned());
        }
        lines.extend(self.left_out.iter().map(|left_out| format!("left out: {}: {}", left_out.what, left_out.reason)));
        lines.push(String::new());
        lines.push(self.table());
        lines.push(String::new());
        lines.push("* not both quicker and cheaper anywhere else in the table (Pareto front)".to_owned());
        lines.extend(self.suggestions().into_iter().map(|(what, command)| format!("{what}: {command}")));
        lines.join("\n")
    }

    fn shown(&self) -> impl Iterator<Item = &Point> {
        self.points.iter().filter(|point| point.allowed && (point.on_front || !self.front_only))
    }

    fn table(&self) -> String {
        let columns = [
            ("", Align::Left),
            ("price", Align::Left),
            ("memory", Align::Right),
            ("peers", Align::Right),
            ("functions", Align::Right),
            ("round", Align::Right),
            ("run", Align::Right),
            ("functions $", Align::Right),
            ("peers $", Align::Right),
            ("total $", Align::Right),
        ];
        let row = |point: &Point| {
            let Configuration { peers, functions, memory_mb } = point.configuration;
            let memory = || format!("{} MB", thousands(memory_mb.into()));
            vec![
                if point.on_front { "*" } else { "" }.to_owned(),
                point.price.clone().unwrap_or_else(|| "none".to_owned()),
                if point.price.is_some() { memory() } else { "-".to_owned() },
                peers.to_string(),
                format!("{peers} x {functions}"),
                milliseconds(point.prediction.round_us),
                seconds(point.prediction.total_us()),
                point.costs.functions().decimal(6),
                point.costs.peers.decimal(6),
                point.costs.total().decimal(6),
            ]
        };
        table(&columns, &self.shown().map(row).collect::<Vec<_>>())
    }

    /// The quickest and the cheapest point that are allowed, as commands.
    fn suggestions(&self) -> Vec<(&'static str, String)> {
        let front = || self.points.iter().filter(|point| point.allowed && point.on_front);
        let quickest = front().min_by(|a, b| a.prediction.total_us().total_cmp(&b.prediction.total_us()));
        let cheapest = front().min_by_key(|point| point.costs.total());
        let named = [("quickest", quickest), ("cheapest", cheapest)];
        named.into_iter().filter_map(|(what, point)| Some((what, self.command(point?)))).collect()
    }

    fn command(&self, point: &Point) -> String {
        let Configuration { peers, functions, memory_mb } = point.configuration;
        let mut words = vec!["peerless train".to_owned(), format!("--peers {peers} --functions {functions}")];
        words.extend(self.flags.iter().cloned());
        match (self.place, &point.price) {
            (Place::Local, None) => {}
            (Place::Local, Some(price)) => words.push(format!("--function-price {price}:{memory_mb}")),
            (Place::Lambda, price) => {
                let price = price.as_deref().map(|price| format!(" --function-price lambda={price}"));
                words.push(format!("--lambda NAME{}  (its MemorySize: {memory_mb})", price.unwrap_or_default()));
            }
        }
        words.join(" ")
    }

    pub(crate) fn document(&self) -> Value {
        let point = |point: &Point| {
            let Configuration { peers, functions, memory_mb } = point.configuration;
            json!({
                "peers": peers, "functions": functions, "price": point.price,
                "memory_mb": point.price.as_ref().map(|_| memory_mb),
                "prediction": prediction(&point.prediction), "costs": costs(&point.costs),
                "pareto": point.on_front,
            })
        };
        let commands: Vec<Value> =
            self.suggestions().into_iter().map(|(what, command)| json!({ "what": what, "command": command })).collect();
        json!({
            "version": VERSION, "run_id": self.spec.id(), "place": self.place, "measured": self.measured,
            "constants": self.constants.list(), "points": self.shown().map(point).collect::<Vec<_>>(),
            "left_out": self.left_out, "suggestions": commands,
        })
    }
}

/// Constants with their origins.
pub(crate) fn constants(constants: &[Constant]) -> String {
    let columns = [("constant", Align::Left), ("value", Align::Right), ("unit", Align::Left), ("origin", Align::Left)];
    let row = |constant: &Constant| {
        let value = format!("{}", constant.value);
        vec![
            constant.flag.to_owned(),
            value,
            constant.unit.to_owned(),
            format!("{}: {}", constant.origin, constant.source),
        ]
    };
    table(&columns, &constants.iter().map(row).collect::<Vec<_>>())
}

fn measured(measured: &Measured) -> String {
    let Measured { cores, units, gradient, evaluation, memory_bytes, .. } = measured;
    format!(
        "measured here ({units} units of each kind, {cores} {}): gradient {} alone ({} to {}), {} with all cores busy; \
         evaluation {} and {}; a function needs {} MiB",
        plural(*cores, "core"),
        milliseconds(gradient.alone_us),
        milliseconds(gradient.alone_p10_us),
        milliseconds(gradient.alone_p90_us),
        milliseconds(gradient.busy_us),
        milliseconds(evaluation.alone_us),
        milliseconds(evaluation.busy_us),
        memory_bytes.div_ceil(1 << 20),
    )
}

fn prediction(prediction: &Prediction) -> Value {
    json!({
        "round_ms": prediction.round_us / 1e3, "compute_ms": prediction.compute_us / 1e3,
        "exchange_ms": prediction.exchange_us / 1e3, "peer_ms": prediction.peer_us / 1e3,
        "start_s": prediction.start_us / 1e6, "rounds_s": prediction.rounds_us / 1e6,
        "total_s": prediction.total_us() / 1e6, "function_s": prediction.function_us() / 1e6,
        "invocations": prediction.invocations(),
    })
}

fn costs(costs: &Costs) -> Value {
    json!({
        "compute_usd": costs.compute, "requests_usd": costs.requests, "transfer_usd": costs.transfer,
        "peers_usd": costs.peers, "total_usd": costs.total(),
    })
}

fn milliseconds(us: f64) -> String {
    format!("{:.2} ms", us / 1e3)
}

fn seconds(us: f64) -> String {
    format!("{:.1} s", us / 1e6)
}

/// A figure that was predicted, and what it was.
struct Figure {
    name: &'static str,
    predicted: f64,
    actual: f64,
    /// Both for people.
    texts: [String; 2],
}

impl Figure {
    fn time(name: &'static str, predicted_us: f64, actual_us: f64, text: fn(f64) -> String) -> Self {
        Self { name, predicted: predicted_us, actual: actual_us, texts: [text(predicted_us), text(actual_us)] }
    }

    fn money(name: &'static str, predicted: Money, actual: Money) -> Self {
        let number = |money: Money| money.decimal(12).parse().unwrap_or_default();
        let texts = [predicted, actual].map(|money| money.to_string());
        Self { name, predicted: number(predicted), actual: number(actual), texts }
    }

    /// How much too high (or low) the prediction is, of what was.
    fn error(&self) -> Option<f64> {
        (self.actual > 0.0).then(|| self.predicted / self.actual - 1.0)
    }
}

impl Comparison {
    fn figures(&self) -> Vec<Figure> {
        let Self { past, prediction, costs } = self;
        let invocations = [prediction.invocations(), past.invocations];
        vec![
            Figure::time("round", prediction.round_us, past.round_us, milliseconds),
            Figure::time("all rounds", prediction.rounds_us, past.rounds_us, seconds),
            Figure::time("functions", prediction.function_us(), past.function_us, seconds),
            Figure {
                name: "invocations",
                predicted: invocations[0] as f64,
                actual: invocations[1] as f64,
                texts: invocations.map(thousands),
            },
            Figure::money("functions $", costs.functions(), past.costs.functions()),
            Figure::money("peers $", costs.peers, past.costs.peers),
            Figure::money("total $", costs.total(), past.costs.total()),
        ]
    }

    pub(crate) fn text(&self, from: &Measured) -> String {
        let Configuration { peers, functions, memory_mb } = self.past.configuration;
        let place = match self.past.place {
            Place::Local => "on this machine's cores".to_owned(),
            Place::Lambda => format!("on Lambda with {} MB", thousands(memory_mb.into())),
        };
        let columns = [("", Align::Left), ("predicted", Align::Right), ("was", Align::Right), ("off by", Align::Right)];
        let row = |figure: &Figure| {
            let [predicted, actual] = figure.texts.clone();
            let error = figure
                .error()
                .map_or_else(|| "-".to_owned(), |error| format!("{}{}", sign(error), percent(error.abs())));
            vec![figure.name.to_owned(), predicted, actual, error]
        };
        let rows: Vec<_> = self.figures().iter().map(row).collect();
        format!(
            "{} rounds, {peers} {} with up to {functions} {} at work each, {place}\n{}\n\n{}",
            thousands(self.past.rounds.len() as u64),
            plural(peers, "peer"),
            plural(functions, "function"),
            measured(from),
            table(&columns, &rows)
        )
    }

    pub(crate) fn document(&self, measured: &Measured, constants: &Constants) -> Value {
        let past = &self.past;
        let errors = self.figures().into_iter().map(|figure| {
            (figure.name.replace(" $", "_usd").replace(' ', "_"), figure.error().map(|error| 100.0 * error).into())
        });
        json!({
            "version": VERSION, "place": past.place, "peers": past.configuration.peers,
            "functions": past.configuration.functions, "memory_mb": past.configuration.memory_mb,
            "rounds": past.rounds.len(), "measured": measured, "constants": constants.list(),
            "predicted": { "prediction": prediction(&self.prediction), "costs": costs(&self.costs) },
            "actual": {
                "round_ms": past.round_us / 1e3, "rounds_s": past.rounds_us / 1e6,
                "function_s": past.function_us / 1e6, "invocations": past.invocations, "costs": costs(&past.costs),
            },
            "error_percent": errors.collect::<serde_json::Map<String, Value>>(),
        })
    }
}

fn sign(error: f64) -> &'static str {
    if error < 0.0 { "-" } else { "+" }
}
