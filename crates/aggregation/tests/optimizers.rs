//! Every optimizer against the textbook formulas in `f64`, and against values computed by hand.

use peerless_aggregation::{ConfigError, Optimizer, StepError, clip_by_global_norm, clip_slices_by_global_norm};
use proptest::collection::vec;
use proptest::prelude::*;

const LEARNING_RATE: f32 = 0.05;
const STEPS: u64 = 12;

fn every_optimizer() -> Vec<Optimizer> {
    let (beta1, beta2, epsilon) = (0.9, 0.99, 1e-8);
    let mut optimizers = vec![];
    for weight_decay in [0.0, 0.1] {
        optimizers.push(Optimizer::Sgd { weight_decay });
        for nesterov in [false, true] {
            optimizers.push(Optimizer::Momentum { momentum: 0.9, nesterov, weight_decay });
        }
        optimizers.push(Optimizer::Adam { beta1, beta2, epsilon, weight_decay });
        optimizers.push(Optimizer::AdamW { beta1, beta2, epsilon, weight_decay });
    }
    optimizers
}

fn step(
    optimizer: &Optimizer,
    step_index: u64,
    parameters: &mut [f32],
    slots: &mut [Vec<f32>],
    gradient: &[f32],
) -> Result<(), StepError> {
    let mut slots: Vec<&mut [f32]> = slots.iter_mut().map(Vec::as_mut_slice).collect();
    optimizer.step(step_index, LEARNING_RATE, parameters, &mut slots, gradient)
}

/// One parameter's path under the papers' formulas with explicit bias-corrected moments, in `f64`.
fn reference_path(optimizer: &Optimizer, start: f64, gradients: &[f64]) -> f64 {
    let lr = f64::from(LEARNING_RATE);
    let (mut p, mut b, mut m, mut v) = (start, 0.0, 0.0, 0.0);
    let mut adam = |t: f64, g: f64, beta1: f64, beta2: f64, epsilon: f64| {
        m = beta1 * m + (1.0 - beta1) * g;
        v = beta2 * v + (1.0 - beta2) * g * g;
        let m_hat = m / (1.0 - libm::pow(beta1, t));
        let v_hat = v / (1.0 - libm::pow(beta2, t));
        lr * m_hat / (v_hat.sqrt() + epsilon)
    };
    for (index, &g) in gradients.iter().enumerate() {
        let t = index as f64 + 1.0;
        match *optimizer {
            Optimizer::Sgd { weight_decay } => p -= lr * (g + weight_decay * p),
            Optimizer::Momentum { momentum, nesterov, weight_decay } => {
                let g = g + weight_decay * p;
                b = if index == 0 { g } else { momentum * b + g };
                p -= lr * if nesterov { g + momentum * b } else { b };
            }
            Optimizer::Adam { beta1, beta2, epsilon, weight_decay } => {
                p -= adam(t, g + weight_decay * p, beta1, beta2, epsilon)
            }
            Optimizer::AdamW { beta1, beta2, epsilon, weight_decay } => {
                p = p - lr * weight_decay * p - adam(t, g, beta1, beta2, epsilon)
            }
        }
    }
    p
}

fn square(element: f32) -> f64 {
    f64::from(element) * f64::from(element)
}

proptest! {
    #[test]
    fn several_steps_follow_the_papers_formulas(
        start in vec(-1.0_f32..1.0, 5),
        gradients in vec(vec(-1.0_f32..1.0, 5), STEPS as usize))
    {
        for optimizer in every_optimizer() {
            let mut parameters = start.clone();
            let mut slots = vec![vec![0.0; 5]; optimizer.slots()];
            for (index, gradient) in (0..).zip(&gradients) {
                step(&optimizer, index, &mut parameters, &mut slots, gradient).unwrap();
            }
            for (element, &parameter) in parameters.iter().enumerate() {
                let path: Vec<f64> = gradients.iter().map(|g| g[element].into()).collect();
                let expected = reference_path(&optimizer, start[element].into(), &path);
                prop_assert!(
                    (f64::from(parameter) - expected).abs() < 1e-5,
                    "{:?}: {} is not {}", optimizer, parameter, expected
                );
            }
        }
    }

    #[test]
    fn stepping_slice_by_slice_gives_the_bits_of_stepping_at_once(
        gradient in vec(-1.0_f32..1.0, 37), cut in 0_usize..37)
    {
        for optimizer in every_optimizer() {
            let mut whole = vec![0.5; 37];
            let mut parts = whole.clone();
            let mut whole_slots = vec![vec![0.0; 37]; optimizer.slots()];
            let mut low_slots = vec![vec![0.0; cut]; optimizer.slots()];
            let mut high_slots = vec![vec![0.0; 37 - cut]; optimizer.slots()];
            for index in 0..3 {
                step(&optimizer, index, &mut whole, &mut whole_slots, &gradient).unwrap();
                let (low, high) = parts.split_at_mut(cut);
                step(&optimizer, index, low, &mut low_slots, &gradient[..cut]).unwrap();
                step(&optimizer, index, high, &mut high_slots, &gradient[cut..]).unwrap();
            }
            prop_assert_eq!(&whole, &parts);
        }
    }

    #[test]
    fn clipping_limits_the_norm_and_keeps_the_direction(
        gradient in vec(-10.0_f32..10.0, 1..100), max_norm in 0.1_f64..20.0)
    {
        let mut clipped = gradient.clone();
        let norm = clip_by_global_norm(&mut clipped, max_norm);
        let expected = gradient.iter().map(|&g| square(g)).sum::<f64>().sqrt();
        prop_assert!((norm - expected).abs() <= 1e-12 * expected);
        if norm <= max_norm {
            prop_assert_eq!(clipped, gradient);
        } else {
            let after = clipped.iter().map(|&g| square(g)).sum::<f64>().sqrt();
            prop_assert!((after - max_norm).abs() <= 1e-6 * max_norm);
            let factor = max_norm / norm;
            for (after, before) in clipped.iter().zip(gradient) {
                prop_assert!((f64::from(*after) - f64::from(before) * factor).abs() <= 1e-5);
            }
        }
    }
}

/// p = 1, g = 0.5 then g = 0.25, with numbers that binary fractions hold.
#[test]
fn two_steps_match_values_computed_by_hand() {
    let by_hand = |optimizer: Optimizer| {
        let mut parameters = [1.0];
        let mut slots = vec![vec![0.0]; optimizer.slots()];
        let mut slots: Vec<&mut [f32]> = slots.iter_mut().map(Vec::as_mut_slice).collect();
        let mut path = vec![];
        for (index, gradient) in (0..).zip([0.5, 0.25]) {
            optimizer.step(index, 0.5, &mut parameters, &mut slots, &[gradient]).unwrap();
            path.push(parameters[0]);
        }
        path
    };
    let momentum = |nesterov| Optimizer::Momentum { momentum: 0.5, nesterov, weight_decay: 0.0 };
    assert_eq!(by_hand(Optimizer::Sgd { weight_decay: 0.0 }), [0.75, 0.625]);
    assert_eq!(by_hand(Optimizer::Sgd { weight_decay: 0.5 }), [0.5, 0.25]);
    // Velocity 0.5, then 0.5 * 0.5 + 0.25 = 0.5.
    assert_eq!(by_hand(momentum(false)), [0.75, 0.5]);
    // Directions 0.5 + 0.25, then 0.25 + 0.25.
    assert_eq!(by_hand(momentum(true)), [0.625, 0.375]);
    // Adam's first step is the learning rate against the gradient's sign; AdamW first shrinks by
    // 1 - 0.5 * 0.5.
    let adamw = Optimizer::AdamW { beta1: 0.5, beta2: 0.75, epsilon: 1e-30, weight_decay: 0.5 };
    assert_eq!(by_hand(adamw)[0], 0.25);
}

#[test]
fn a_gradient_of_zeros_moves_no_optimizer_without_weight_decay() {
    for name in ["sgd", "momentum", "nesterov", "adam"] {
        let optimizer: Optimizer = name.parse().unwrap();
        let mut parameters = [0.3, -0.7];
        let mut slots = vec![vec![0.0; 2]; optimizer.slots()];
        step(&optimizer, 0, &mut parameters, &mut slots, &[0.0, 0.0]).unwrap();
        assert_eq!(parameters, [0.3, -0.7], "{name}");
    }
}

#[test]
fn vectors_that_do_not_fit_are_refused_and_nothing_moves() {
    let optimizer: Optimizer = "momentum".parse().unwrap();
    let mut parameters = [1.0, 2.0];
    let mut refuse = |slots: &mut [Vec<f32>], gradient: &[f32]| {
        let error = step(&optimizer, 0, &mut parameters, slots, gradient).unwrap_err();
        assert_eq!(parameters, [1.0, 2.0]);
        error
    };
    assert_eq!(
        refuse(&mut [vec![0.0; 2]], &[1.0]),
        StepError::LengthMismatch { what: "gradient", expected: 2, actual: 1 }
    );
    assert_eq!(
        refuse(&mut [vec![0.0; 3]], &[1.0, 1.0]),
        StepError::LengthMismatch { what: "slot", expected: 2, actual: 3 }
    );
    assert_eq!(refuse(&mut [], &[1.0, 1.0]), StepError::SlotCount { expected: 1, actual: 0 });
}

#[test]
fn every_name_parses_to_a_valid_optimizer_that_survives_serialization() {
    for name in Optimizer::NAMES {
        let optimizer: Optimizer = name.parse().unwrap();
        optimizer.validate().unwrap();
        let encoded = postcard::to_allocvec(&optimizer).unwrap();
        assert_eq!(postcard::from_bytes::<Optimizer>(&encoded).unwrap(), optimizer);
    }
    assert_eq!(
        "lion".parse::<Optimizer>().unwrap_err().to_string(),
        "optimizer \"lion\" is unknown, use one of sgd, momentum, nesterov, adam, adamw"
    );
}

#[test]
fn hyperparameters_out_of_range_are_named() {
    let adam = |beta1, beta2, epsilon, weight_decay| Optimizer::Adam { beta1, beta2, epsilon, weight_decay };
    let momentum = |momentum| Optimizer::Momentum { momentum, nesterov: true, weight_decay: 0.0 };
    for (optimizer, expected) in [
        (Optimizer::Sgd { weight_decay: -0.1 }, "weight_decay"),
        (Optimizer::Sgd { weight_decay: f64::NAN }, "weight_decay"),
        (momentum(1.0), "momentum"),
        (momentum(f64::NAN), "momentum"),
        (adam(-0.1, 0.9, 1e-8, 0.0), "beta1"),
        (adam(0.9, 1.0, 1e-8, 0.0), "beta2"),
        (adam(0.9, 0.9, 0.0, 0.0), "epsilon"),
        (adam(0.9, 0.9, 1e-60, 0.0), "epsilon"),
        (adam(0.9, 0.9, 1e-8, f64::INFINITY), "weight_decay"),
    ] {
        let Err(ConfigError::OutOfRange { name, .. }) = optimizer.validate() else {
            panic!("{optimizer:?} is accepted");
        };
        assert_eq!(name, expected);
    }
}

#[test]
fn the_norm_spans_all_slices_and_scales_them_alike() {
    let (mut low, mut high) = ([3.0_f32], [0.0, 4.0_f32]);
    let norm = clip_slices_by_global_norm(&mut [&mut low, &mut high], 2.5);
    assert_eq!(norm, 5.0);
    assert_eq!((low, high), ([1.5], [0.0, 2.0]));
}

#[test]
fn the_norm_is_summed_in_the_documented_order() {
    let gradient: Vec<f32> = (0..100).map(|i| (i * 37 % 101) as f32 / 101.0).collect();
    let mut lanes = [0.0_f64; 16];
    for (i, &element) in gradient.iter().enumerate() {
        lanes[i % 16] += square(element);
    }
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    let norm = clip_by_global_norm(&mut gradient.clone(), 1e9);
    assert_eq!(norm.to_bits(), lanes[0].sqrt().to_bits());
}
