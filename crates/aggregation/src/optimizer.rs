//! Optimizer steps in plain `f32`, one defined order of operations per element.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{ConfigError, StepError};

/// The rule that turns a mean gradient into new parameters, with PyTorch's formulas and defaults.
///
/// Hyperparameters are `f64` because differences such as `1 - beta2` lose a thousandth of a percent
/// when `beta2` is first rounded to `f32`; each factor is computed in `f64` once per step and rounded
/// once, and the loop over the elements is `f32`.
///
/// `weight_decay` is the L2 coefficient that is added to the gradient, except in
/// [`AdamW`](Self::AdamW), where it is decoupled from the gradient.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Optimizer {
    /// Stochastic gradient descent: `p -= lr * g`.
    Sgd {
        /// L2 coefficient, at least 0.
        weight_decay: f64,
    },
    /// SGD with momentum (Polyak 1964; Sutskever et al. 2013): `b = momentum * b + g`, then
    /// `p -= lr * b`, or `p -= lr * (g + momentum * b)` with Nesterov's look-ahead.
    Momentum {
        /// What remains of the velocity after a step, in `[0, 1)`.
        momentum: f64,
        /// Whether the step looks ahead along the velocity.
        nesterov: bool,
        /// L2 coefficient, at least 0.
        weight_decay: f64,
    },
    /// Adam (Kingma and Ba, arXiv 1412.6980, algorithm 1), with bias correction.
    Adam {
        /// Decay of the first moment, in `[0, 1)`.
        beta1: f64,
        /// Decay of the second moment, in `[0, 1)`.
        beta2: f64,
        /// Added to the root of the second moment, above 0.
        epsilon: f64,
        /// L2 coefficient, at least 0.
        weight_decay: f64,
    },
    /// AdamW (Loshchilov and Hutter, arXiv 1711.05101, algorithm 2): Adam whose weight decay shrinks
    /// the parameters directly, `p *= 1 - lr * weight_decay`.
    #[serde(rename = "adamw")]
    AdamW {
        /// Decay of the first moment, in `[0, 1)`.
        beta1: f64,
        /// Decay of the second moment, in `[0, 1)`.
        beta2: f64,
        /// Added to the root of the second moment, above 0.
        epsilon: f64,
        /// Decoupled decay coefficient, at least 0.
        weight_decay: f64,
    },
}

impl Optimizer {
    /// The names that [`FromStr`] understands.
    pub const NAMES: [&'static str; 5] = ["sgd", "momentum", "nesterov", "adam", "adamw"];

    /// Number of `f32` vectors, each as long as the parameters, that belong to the optimizer's state.
    /// They start as zeros.
    pub fn slots(&self) -> usize {
        match self {
            Self::Sgd { .. } => 0,
            Self::Momentum { .. } => 1,
            Self::Adam { .. } | Self::AdamW { .. } => 2,
        }
    }

    /// Moves `parameters` by one step along the mean `gradient`.
    ///
    /// `step_index` counts from 0 and `learning_rate` is the rate of this step. `parameters`,
    /// `gradient` and each of the [`slots`](Self::slots) have the same length; they may be any
    /// contiguous part of the model, since elements do not influence each other.
    ///
    /// # Errors
    /// [`StepError`] if lengths or the number of slots do not fit; nothing is changed.
    pub fn step(
        &self,
        step_index: u64,
        learning_rate: f32,
        parameters: &mut [f32],
        slots: &mut [&mut [f32]],
        gradient: &[f32],
    ) -> Result<(), StepError> {
        check_lengths(parameters.len(), slots, gradient.len())?;
        let wrong_slots = StepError::SlotCount { expected: self.slots(), actual: slots.len() };
        match (self, slots) {
            (Self::Sgd { weight_decay }, []) => {
                sgd(learning_rate, *weight_decay, parameters, gradient);
            }
            (Self::Momentum { momentum, nesterov, weight_decay }, [velocity]) => {
                let rule =
                    MomentumStep { learning_rate, momentum: *momentum as f32, weight_decay: *weight_decay as f32 };
                // Two loops instead of a branch per element.
                if *nesterov {
                    rule.apply::<true>(parameters, velocity, gradient);
                } else {
                    rule.apply::<false>(parameters, velocity, gradient);
                }
            }
            (Self::Adam { beta1, beta2, epsilon, weight_decay }, [mean, square]) => {
                AdamStep::new([*beta1, *beta2], *epsilon, step_index, learning_rate)
                    .with_l2(*weight_decay)
                    .apply(parameters, mean, square, gradient);
            }
            (Self::AdamW { beta1, beta2, epsilon, weight_decay }, [mean, square]) => {
                AdamStep::new([*beta1, *beta2], *epsilon, step_index, learning_rate)
                    .with_decoupled_decay(*weight_decay, learning_rate)
                    .apply(parameters, mean, square, gradient);
            }
            _ => return Err(wrong_slots),
        }
        Ok(())
    }

    /// Checks every hyperparameter against its range.
    ///
    /// # Errors
    /// [`ConfigError::OutOfRange`] names the first hyperparameter that is outside.
    pub fn validate(&self) -> Result<(), ConfigError> {
        match *self {
            Self::Sgd { weight_decay } => valid_weight_decay(weight_decay),
            Self::Momentum { momentum, weight_decay, .. } => {
                valid_decay("momentum", momentum)?;
                valid_weight_decay(weight_decay)
            }
            Self::Adam { beta1, beta2, epsilon, weight_decay }
            | Self::AdamW { beta1, beta2, epsilon, weight_decay } => {
                valid_decay("beta1", beta1)?;
                valid_decay("beta2", beta2)?;
                // A smaller epsilon vanishes in f32, and 0 / 0 would then be a NaN.
                ConfigError::unless(
                    epsilon.is_finite() && epsilon >= f64::from(f32::MIN_POSITIVE),
                    "epsilon",
                    epsilon,
                    "at least 1.2e-38",
                )?;
                valid_weight_decay(weight_decay)
            }
        }
    }
}

/// The optimizer of that name (see [`Optimizer::NAMES`]) with PyTorch's defaults: momentum 0.9,
/// betas 0.9 and 0.999, epsilon 1e-8, no weight decay except 0.01 for `adamw`.
impl FromStr for Optimizer {
    type Err = ConfigError;

    fn from_str(name: &str) -> Result<Self, ConfigError> {
        let momentum = |nesterov| Self::Momentum { momentum: 0.9, nesterov, weight_decay: 0.0 };
        match name {
            "sgd" => Ok(Self::Sgd { weight_decay: 0.0 }),
            "momentum" => Ok(momentum(false)),
            "nesterov" => Ok(momentum(true)),
            "adam" => Ok(Self::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 }),
            "adamw" => Ok(Self::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 }),
            _ => Err(ConfigError::UnknownOptimizer { name: name.to_owned(), known: Self::NAMES.join(", ") }),
        }
    }
}

fn valid_decay(name: &'static str, value: f64) -> Result<(), ConfigError> {
    ConfigError::unless((0.0..1.0).contains(&value), name, value, "in [0, 1)")
}

fn valid_weight_decay(value: f64) -> Result<(), ConfigError> {
    ConfigError::unless(value.is_finite() && value >= 0.0, "weight_decay", value, "finite and at least 0")
}

fn check_lengths(parameters: usize, slots: &[&mut [f32]], gradient: usize) -> Result<(), StepError> {
    let lengths = slots.iter().map(|slot| ("slot", slot.len()));
    for (what, actual) in lengths.chain([("gradient", gradient)]) {
        if actual != parameters {
            return Err(StepError::LengthMismatch { what, expected: parameters, actual });
        }
    }
    Ok(())
}

fn sgd(learning_rate: f32, weight_decay: f64, parameters: &mut [f32], gradient: &[f32]) {
    let weight_decay = weight_decay as f32;
    for (p, &g) in parameters.iter_mut().zip(gradient) {
        *p -= learning_rate * (g + weight_decay * *p);
    }
}

struct MomentumStep {
    learning_rate: f32,
    momentum: f32,
    weight_decay: f32,
}

impl MomentumStep {
    /// The velocity starts as zeros, so that after the first step it is the gradient, as in PyTorch.
    fn apply<const NESTEROV: bool>(&self, parameters: &mut [f32], velocity: &mut [f32], gradient: &[f32]) {
        for ((p, b), &g) in parameters.iter_mut().zip(velocity).zip(gradient) {
            let g = g + self.weight_decay * *p;
            *b = self.momentum * *b + g;
            let direction = if NESTEROV { g + self.momentum * *b } else { *b };
            *p -= self.learning_rate * direction;
        }
    }
}

/// The factors of one Adam step, formed in `f64` and rounded once.
struct AdamStep {
    beta1: f32,
    beta2: f32,
    one_minus_beta1: f32,
    one_minus_beta2: f32,
    epsilon: f32,
    /// `lr / (1 - beta1^t)`.
    step_size: f32,
    /// `sqrt(1 - beta2^t)`.
    root_correction: f32,
    /// Added to the gradient, times the parameter.
    l2: f32,
    /// `1 - lr * weight_decay`; 1 without decoupled decay, which keeps the parameter's bits.
    shrink: f32,
}

impl AdamStep {
    fn new(betas: [f64; 2], epsilon: f64, step_index: u64, learning_rate: f32) -> Self {
        let t = step_index as f64 + 1.0;
        let [correction1, correction2] = betas.map(|beta| 1.0 - libm::pow(beta, t));
        Self {
            beta1: betas[0] as f32,
            beta2: betas[1] as f32,
            one_minus_beta1: (1.0 - betas[0]) as f32,
            one_minus_beta2: (1.0 - betas[1]) as f32,
            epsilon: epsilon as f32,
            step_size: (f64::from(learning_rate) / correction1) as f32,
            root_correction: correction2.sqrt() as f32,
            l2: 0.0,
            shrink: 1.0,
        }
    }

    fn with_l2(mut self, weight_decay: f64) -> Self {
        self.l2 = weight_decay as f32;
        self
    }

    fn with_decoupled_decay(mut self, weight_decay: f64, learning_rate: f32) -> Self {
        self.shrink = (1.0 - f64::from(learning_rate) * weight_decay) as f32;
        self
    }

    fn apply(&self, parameters: &mut [f32], mean: &mut [f32], square: &mut [f32], gradient: &[f32]) {
        let slots = mean.iter_mut().zip(square);
        for ((p, (m, v)), &g) in parameters.iter_mut().zip(slots).zip(gradient) {
            let g = g + self.l2 * *p;
            *m = self.beta1 * *m + self.one_minus_beta1 * g;
            *v = self.beta2 * *v + self.one_minus_beta2 * (g * g);
            let denominator = v.sqrt() / self.root_correction + self.epsilon;
            *p = self.shrink * *p - self.step_size * (*m / denominator);
        }
    }
}
