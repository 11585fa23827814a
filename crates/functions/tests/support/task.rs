//! Tasks for the scripted function.

use peerless_protocol::RunId;
use peerless_protocol::function::{FUNCTION_PROTOCOL, Task, Work};
use serde_json::json;

/// A ping whose model name tells the scripted function how to behave.
pub fn task(model: &str, invocation: u64) -> Task {
    let spec = json!({
        "version": 1,
        "model": model,
        "dataset": { "name": "none", "digest": "0".repeat(64), "train_samples": 8, "test_samples": 8 },
        "seed": 1,
        "units_per_round": 1,
        "samples_per_unit": 1,
        "rounds": 1,
        "optimizer": { "sgd": { "weight_decay": 0.0 } },
        "learning_rate": { "base": 1.0, "warm_up_rounds": 0, "schedule": "constant" },
        "clip_norm": null,
        "fraction_bits": 40,
        "evaluation": { "every_rounds": 1, "samples_per_unit": 8 },
        "early_stopping": null,
        "until_correct": null,
    });
    let spec = serde_json::from_value(spec).expect("the spec has the fields of this version");
    Task { version: FUNCTION_PROTOCOL, invocation, run: RunId([0; 32]), spec, work: Work::Ping }
}
