use peerless_aggregation::{Optimizer, clip_by_global_norm};
use redis::cmd;

use crate::fixtures::{Database, FRACTION_BITS, GRID, Random, exact_sum, f32_bytes, mean, sum_bytes};

const ELEMENTS: usize = 4096 + 77;
const BUFFERS: usize = 5;

/// An optimizer, and how it is named to the module.
fn optimizers() -> Vec<(Optimizer, &'static str)> {
    let custom = |name: &str| name.parse::<Optimizer>().unwrap();
    vec![
        (custom("sgd"), "sgd"),
        (Optimizer::Sgd { weight_decay: 0.01 }, "sgd weight_decay 0.01"),
        (custom("momentum"), "momentum"),
        (custom("nesterov"), "nesterov"),
        (
            Optimizer::Momentum { momentum: 0.8, nesterov: true, weight_decay: 1e-4 },
            "nesterov weight_decay 0.0001 momentum 0.8",
        ),
        (custom("adam"), "adam"),
        (
            Optimizer::Adam { beta1: 0.85, beta2: 0.99, epsilon: 1e-6, weight_decay: 0.1 },
            "adam beta1 0.85 beta2 0.99 epsilon 1e-6 weight_decay 0.1",
        ),
        (custom("adamw"), "adamw"),
        (
            Optimizer::AdamW { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1 },
            "adamw beta2 0.95 weight_decay 0.1",
        ),
    ]
}

#[test]
fn parameters_and_slots_are_bit_for_bit_those_of_a_peer() {
    let Some(mut database) = Database::in_memory() else { return };
    let mut random = Random::new();
    for (optimizer, named) in optimizers() {
        for clip_norm in [None, Some(0.5_f32)] {
            database.run::<()>(&cmd("FLUSHALL"));
            let mut vector = random.vector(ELEMENTS);
            let mut slots = vec![vec![0.0; ELEMENTS - BUFFERS]; optimizer.slots()];
            database.set("parameters", &f32_bytes(&vector));
            for step in 0..4_u64 {
                let learning_rate = 0.1_f32 / (step + 1) as f32;
                let gradients = [random.vector(ELEMENTS), random.vector(ELEMENTS)];
                for (unit, gradient) in gradients.iter().enumerate() {
                    database.set("g", &f32_bytes(gradient));
                    database.run::<()>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg("sum").arg(unit).arg("g"));
                }
                let mut gradient = mean(GRID, &exact_sum(GRID, &gradients), 2);
                let buffers = gradient.split_off(ELEMENTS - BUFFERS);
                vector.truncate(ELEMENTS - BUFFERS);
                if let Some(norm) = clip_norm {
                    clip_by_global_norm(&mut gradient, f64::from(norm));
                }
                let mut parts: Vec<&mut [f32]> = slots.iter_mut().map(Vec::as_mut_slice).collect();
                optimizer.step(step, learning_rate, &mut vector, &mut parts, &gradient).unwrap();
                vector.extend(buffers);

                let mut command = cmd("PEERLESS.STEP");
                command.arg(&["parameters", "slots", "sum"]).arg(learning_rate.to_string()).arg(step);
                command.arg(named.split(' ').collect::<Vec<_>>());
                command.arg("buffers").arg(BUFFERS);
                if let Some(norm) = clip_norm {
                    command.arg("clip_norm").arg(norm.to_string());
                }
                assert_eq!(database.run::<usize>(&command), ELEMENTS);
                assert_eq!(database.get("parameters"), f32_bytes(&vector), "{named}, step {step}, {clip_norm:?}");
                if !slots.is_empty() {
                    assert_eq!(database.get("slots"), f32_bytes(&slots.concat()), "{named}, step {step}");
                }
            }
        }
    }
}

#[test]
fn a_step_that_is_sent_twice_is_made_once() {
    let Some(mut database) = Database::in_memory() else { return };
    database.set("g", &f32_bytes(&[0.5, -1.0]));
    database.set("parameters", &f32_bytes(&[1.0, 2.0]));
    database.run::<()>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg("sum").arg(0).arg("g"));
    let mut step = cmd("PEERLESS.STEP");
    step.arg(&["parameters", "slots", "sum", "0.5", "0", "momentum"]);
    database.run::<()>(&step);
    let after = database.dump();
    let error = database.refused(&step);
    assert_eq!(error.code(), Some("NOUNITS"), "{error}");
    assert_eq!(database.dump(), after);
    assert_eq!(database.get("parameters"), f32_bytes(&[0.75, 2.5]));
    assert_eq!(&database.get("sum")[..32], sum_bytes(FRACTION_BITS, &[0, 0], &[]));
}

#[test]
fn slots_that_were_lost_are_not_taken_for_zeros() {
    let Some(mut database) = Database::in_memory() else { return };
    database.set("g", &f32_bytes(&[0.5]));
    database.set("parameters", &f32_bytes(&[1.0]));
    database.run::<()>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg("sum").arg(0).arg("g"));
    let before = database.dump();
    let error = database.refused(cmd("PEERLESS.STEP").arg(&["parameters", "slots", "sum", "0.5", "3", "adam"]));
    assert_eq!(error.code(), Some("NOKEY"), "{error}");
    assert_eq!(database.dump(), before);
}
