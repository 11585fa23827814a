//! Initial parameters: the same bits for a seed on every machine.
//!
//! By [`Initialisation::Uniform`] weights and biases are drawn from U(-b, b) with b = 1 / sqrt(fan_in). This is He et al. 2015
//! (arXiv 1502.01852, eq. 10 as a uniform distribution) with the gain 1/sqrt(3) that PyTorch uses for its
//! convolutions and linear layers (`kaiming_uniform_` with a = sqrt(5)).
//!
//! By [`Initialisation::He`] convolutions have b = sqrt(6 / fan_in), that paper's own gain of sqrt(2) for ReLU, which
//! deep networks without normalisation need for their signals not to vanish, and their biases are zero; linear layers
//! are as above.
//!
//! Each tensor has a random stream of its own, BLAKE3's extendable output keyed by (seed, name), so
//! that its values do not depend on what else the model holds. A 32-bit word w of it becomes
//! `(2 * (w >> 8) + 1 - 2^24) * 2^-24 * b`: one of 2^24 evenly spaced values, symmetric around zero.
//! All steps but the last product are exact, and `sqrt` and `/` are correctly rounded on every IEEE 754
//! machine; the tensor library's own initialisers promise neither.

use peerless_protocol::{Layout, LayoutEntry};

use crate::TrainingError;

/// How weights and biases begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Initialisation {
    /// Uniform in ±1 / sqrt(fan_in).
    Uniform,
    /// Convolutions uniform in ±sqrt(6 / fan_in), with biases of zero (He et al. 2015, arXiv 1502.01852).
    He,
}

/// The initial flat vector of a model for a seed.
pub(crate) fn initial_values(
    model: &str,
    layout: &Layout,
    initialisation: Initialisation,
    seed: u64,
) -> Result<Vec<f32>, TrainingError> {
    let mut values = Vec::with_capacity(layout.elements() as usize);
    for entry in &layout.entries {
        let elements = entry.elements() as usize;
        let rule = Rule::of(layout, entry, initialisation)
            .ok_or_else(|| TrainingError::NoInitialValues { model: model.to_owned(), name: entry.name.clone() })?;
        match rule {
            Rule::Constant(value) => values.resize(values.len() + elements, value),
            Rule::Uniform { bound } => {
                values
                    .extend(words(b"peerless parameter v1", seed, &entry.name, elements).map(|w| symmetric(w) * bound));
            }
        }
    }
    Ok(values)
}

enum Rule {
    Constant(f32),
    Uniform { bound: f32 },
}

impl Rule {
    fn of(layout: &Layout, entry: &LayoutEntry, initialisation: Initialisation) -> Option<Self> {
        let (layer, tensor) = entry.name.rsplit_once('.').unwrap_or(("", &entry.name));
        let he = |weight: &LayoutEntry| initialisation == Initialisation::He && weight.shape.len() > 2;
        match tensor {
            "gamma" | "running_var" => Some(Self::Constant(1.0)),
            "beta" | "running_mean" => Some(Self::Constant(0.0)),
            "weight" => Self::uniform(entry, if he(entry) { 6.0 } else { 1.0 }),
            "bias" => {
                let weight = format!("{layer}.weight");
                let weight = layout.entries.iter().find(|other| other.name == weight.trim_start_matches('.'))?;
                if he(weight) { Some(Self::Constant(0.0)) } else { Self::uniform(weight, 1.0) }
            }
            _ => None,
        }
    }

    fn uniform(weight: &LayoutEntry, numerator: f64) -> Option<Self> {
        fan_in(weight).map(|fan_in| Self::Uniform { bound: (numerator.sqrt() / (fan_in as f64).sqrt()) as f32 })
    }
}

/// Inputs that one output of a layer depends on: `[in, out]` for linear layers, `[out, in, kernel...]`
/// for convolutions.
fn fan_in(weight: &LayoutEntry) -> Option<u64> {
    let sides = weight.shape.as_slice();
    let product = |sides: &[u32]| sides.iter().map(|&side| u64::from(side)).product();
    match sides {
        [inputs, _] => Some(u64::from(*inputs)),
        [_, rest @ ..] if rest.len() >= 2 => Some(product(rest)),
        _ => None,
    }
}

/// Evenly spaced in (-1, 1) and exact.
pub(crate) fn symmetric(word: u32) -> f32 {
    (2 * (word >> 8) as i32 + 1 - (1 << 24)) as f32 / (1 << 24) as f32
}

/// `count` random words of the stream named by `context`, `seed` and `name`.
pub(crate) fn words(context: &[u8], seed: u64, name: &str, count: usize) -> impl Iterator<Item = u32> {
    let mut hasher = blake3::Hasher::new();
    hasher.update(context).update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut stream = hasher.finalize_xof();
    // In pieces, because a layer may have a hundred million of them.
    let piece = move |_| {
        let mut bytes = [0; 4 * PIECE];
        stream.fill(&mut bytes);
        let words: [u32; PIECE] =
            std::array::from_fn(|word| u32::from_le_bytes(std::array::from_fn(|b| bytes[4 * word + b])));
        words
    };
    (0..count.div_ceil(PIECE)).flat_map(piece).take(count)
}

/// Words that are drawn together.
const PIECE: usize = 1024;

#[cfg(test)]
mod tests {
    use peerless_protocol::Role;

    use super::*;

    fn layout(tensors: &[(&str, &[u32])]) -> Layout {
        let mut layout = Layout::default();
        for (name, shape) in tensors {
            let offset = layout.elements();
            let (name, shape) = ((*name).to_owned(), shape.to_vec());
            layout.entries.push(LayoutEntry { name, shape, offset, role: Role::Parameter });
        }
        layout
    }

    #[test]
    fn values_lie_within_the_bound_of_their_layer_and_fill_it() {
        let layout = layout(&[("conv.weight", &[8, 4, 5, 5]), ("conv.bias", &[8]), ("norm.gamma", &[3])]);
        let values = initial_values("m", &layout, Initialisation::Uniform, 7).unwrap();
        let bound = 1.0 / 100_f32.sqrt();
        let weights = &values[..800];
        assert!(weights.iter().all(|value| value.abs() < bound));
        assert!(
            weights.iter().any(|&value| value > 0.98 * bound) && weights.iter().any(|&value| value < -0.98 * bound)
        );
        let mean = weights.iter().sum::<f32>() / 800.0;
        assert!(mean.abs() < 0.1 * bound, "mean {mean}");
        assert!(values[800..808].iter().all(|value| value.abs() < bound));
        assert_eq!(values[808..], [1.0; 3]);
    }

    #[test]
    fn a_tensor_does_not_depend_on_its_neighbours_but_on_seed_and_name() {
        let alone = initial_values("m", &layout(&[("b.weight", &[3, 2])]), Initialisation::Uniform, 1).unwrap();
        let behind =
            initial_values("m", &layout(&[("a.weight", &[9, 2]), ("b.weight", &[3, 2])]), Initialisation::Uniform, 1)
                .unwrap();
        assert_eq!(alone, behind[18..]);
        assert_ne!(alone, initial_values("m", &layout(&[("b.weight", &[3, 2])]), Initialisation::Uniform, 2).unwrap());
        assert_ne!(alone, initial_values("m", &layout(&[("c.weight", &[3, 2])]), Initialisation::Uniform, 1).unwrap());
    }

    #[test]
    fn the_extremes_of_the_stream_are_symmetric_and_inside_the_open_interval() {
        assert_eq!(symmetric(0), -symmetric(u32::MAX));
        assert!(symmetric(u32::MAX) < 1.0);
    }

    #[test]
    fn a_tensor_without_a_rule_is_named() {
        let error = initial_values("m", &layout(&[("scale", &[3])]), Initialisation::Uniform, 1).unwrap_err();
        assert!(error.to_string().contains("tensor scale of model m"), "{error}");
    }
}
