//! What spans say. Names are those of OpenTelemetry's semantic conventions where it has one
//! (<https://opentelemetry.io/docs/specs/semconv/faas/faas-spans/>); seconds and bytes as there.

use opentelemetry::{KeyValue, Value};
use peerless_peer::waste::Fate;
use peerless_store::{EventRecord, RoundRecord};

use super::Attempt;

/// Longest text that others wrote, in characters.
const MAX_TEXT: usize = 500;
/// Most particulars of an event.
const MAX_PARTICULARS: usize = 16;
/// Bytes of a megabyte in which platforms count memory.
const MB: u64 = 1 << 20;

/// Those of a peer's round.
pub fn of_round(round: u64, record: Option<&RoundRecord>) -> Vec<KeyValue> {
    let mut all = vec![number("peerless.round", round), KeyValue::new("peerless.round.applied", record.is_some())];
    let Some(record) = record else { return all };
    let times = &record.times;
    all.extend([
        KeyValue::new("peerless.round.state_digest", record.state_digest.to_string()),
        number("peerless.round.units_computed", record.units_computed.into()),
        number("peerless.round.backup_units", record.backup_units.into()),
        seconds("peerless.round.compute_s", times.compute_us),
        seconds("peerless.round.sum_s", times.sum_us),
        seconds("peerless.round.transfer_s", times.transfer_us),
        seconds("peerless.round.update_s", times.update_us),
        seconds("peerless.round.digest_s", times.digest_us),
        seconds("peerless.round.wait_s", times.wait_us),
        number("peerless.training.samples", record.training_samples),
    ]);
    all.extend(record.training_loss.map(|loss| KeyValue::new("peerless.training.loss", loss)));
    if let Some(evaluation) = record.evaluation {
        all.push(number("peerless.evaluation.samples", evaluation.samples));
        all.push(number("peerless.evaluation.correct", evaluation.correct));
        all.extend(evaluation.loss.map(|loss| KeyValue::new("peerless.evaluation.loss", loss)));
    }
    all
}

/// Those of a unit with so many attempts.
pub fn of_unit(round: u64, unit: u32, kind: &str, attempts: usize) -> Vec<KeyValue> {
    vec![
        number("peerless.round", round),
        number("peerless.unit", unit.into()),
        KeyValue::new("peerless.work", kind.to_owned()),
        number("peerless.unit.attempts", attempts as u64),
    ]
}

/// Those of an attempt.
pub fn of_invocation(attempt: &Attempt) -> Vec<KeyValue> {
    let record = &attempt.record;
    let billing = &record.billing;
    // The conventions have values for clouds alone, and allow others.
    let provider = if record.platform == "lambda" { "aws" } else { record.platform.as_str() };
    let mut all = vec![
        KeyValue::new("faas.invoked_provider", provider.to_owned()),
        KeyValue::new("faas.coldstart", record.cold),
        KeyValue::new("peerless.platform", record.platform.clone()),
        KeyValue::new("peerless.work", record.kind.clone()),
        KeyValue::new("peerless.outcome", record.outcome.clone()),
        number("peerless.attempt", record.attempt.into()),
        seconds("peerless.queue_s", record.queue_us),
        number("peerless.task_bytes", record.bytes_in),
        number("peerless.report_bytes", record.bytes_out),
    ];
    all.extend(record.round.map(|round| number("peerless.round", round)));
    all.extend(record.unit.map(|unit| number("peerless.unit", unit.into())));
    if !record.function.is_empty() {
        all.push(KeyValue::new("faas.invoked_name", record.function.clone()));
    }
    if Fate::of(&record.outcome) == Fate::Failed {
        all.push(KeyValue::new("error.type", record.outcome.clone()));
    }
    let measured = [
        ("faas.max_memory", u64::from(billing.memory_mb) * MB),
        ("peerless.peak_memory_bytes", record.peak_memory_bytes),
        ("peerless.tensor_bytes_in", billing.tensor_bytes_in),
        ("peerless.tensor_bytes_out", billing.tensor_bytes_out),
    ];
    all.extend(measured.into_iter().filter(|(_, value)| *value > 0).map(|(name, value)| number(name, value)));
    let times = [("peerless.init_s", billing.init_us), ("peerless.billed_s", billing.billed_ms.saturating_mul(1_000))];
    all.extend(times.into_iter().filter(|(_, us)| *us > 0).map(|(name, us)| seconds(name, us)));
    let dollars = attempt.cost.decimal(12).parse::<f64>().ok().filter(|dollars| *dollars > 0.0);
    all.extend(dollars.map(|dollars| KeyValue::new("peerless.cost_usd", dollars)));
    all
}

/// The particulars of an event.
pub fn of_event(record: &EventRecord) -> Vec<KeyValue> {
    let Ok(serde_json::Value::Object(particulars)) = serde_json::from_str(&record.detail) else { return Vec::new() };
    let attribute = |(name, value): (String, serde_json::Value)| {
        let value: Value = match value {
            serde_json::Value::Null => return None,
            serde_json::Value::Bool(value) => value.into(),
            serde_json::Value::Number(value) => match value.as_i64() {
                Some(value) => value.into(),
                None => value.as_f64()?.into(),
            },
            serde_json::Value::String(value) => short(&value).into(),
            value => short(&value.to_string()).into(),
        };
        Some(KeyValue::new(format!("peerless.event.{name}"), value))
    };
    particulars.into_iter().take(MAX_PARTICULARS).filter_map(attribute).collect()
}

/// The beginning of a text.
pub fn short(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

fn number(name: &'static str, value: u64) -> KeyValue {
    KeyValue::new(name, i64::try_from(value).unwrap_or(i64::MAX))
}

fn seconds(name: &'static str, us: u64) -> KeyValue {
    KeyValue::new(name, us as f64 / 1e6)
}
