//! Softmax cross-entropy of one batch, in plain code with one order of operations.
//!
//! For logits z and label y: loss = ln(sum_j exp(z_j - m)) - (z_y - m) with m = max_j z_j, in `f64`,
//! with the exponential and logarithm of `libm`. Each sample is computed by itself, so a sample's loss
//! is the same bits in whatever batch it is. The tensor library's own loss reduces over the batch
//! in an order of its choice and gives only the mean.

use peerless_aggregation::FixedPoint;
use peerless_protocol::Tally;

use crate::TrainingError;

/// The totals of a batch; `names` says which samples they are, for errors.
pub(crate) fn tally(logits: &[f32], labels: &[u8], names: &[u32]) -> Result<Tally, TrainingError> {
    let classes = classes(logits, labels)?;
    let mut total = Tally::default();
    for ((logits, &label), &name) in logits.chunks_exact(classes).zip(labels).zip(names) {
        total = add(total, &Softmax::of(logits), label, name)?;
    }
    Ok(total)
}

/// The totals of a batch, and the gradient of its *mean* loss at the logits:
/// (softmax(z) - onehot(y)) / samples, rounded once to `f32`.
pub(crate) fn tally_and_gradient(
    logits: &[f32],
    labels: &[u8],
    names: &[u32],
) -> Result<(Tally, Vec<f32>), TrainingError> {
    let classes = classes(logits, labels)?;
    let samples = labels.len() as f64;
    let mut total = Tally::default();
    let mut gradient = Vec::with_capacity(logits.len());
    for ((logits, &label), &name) in logits.chunks_exact(classes).zip(labels).zip(names) {
        let softmax = Softmax::of(logits);
        total = add(total, &softmax, label, name)?;
        let target = |class| if class == usize::from(label) { 1.0 } else { 0.0 };
        let errors = softmax.exponentials.iter().enumerate();
        gradient.extend(errors.map(|(class, e)| ((e / softmax.sum - target(class)) / samples) as f32));
    }
    Ok((total, gradient))
}

fn classes(logits: &[f32], labels: &[u8]) -> Result<usize, TrainingError> {
    let classes = logits.len().checked_div(labels.len()).ok_or(TrainingError::NoSamples)?;
    let complete = classes * labels.len() == logits.len();
    if !complete || labels.iter().any(|&label| usize::from(label) >= classes) {
        return Err(TrainingError::Tensor(format!("{} logits for {} samples", logits.len(), labels.len())));
    }
    Ok(classes)
}

struct Softmax<'a> {
    logits: &'a [f32],
    /// The class with the largest logit; the lowest such class on ties.
    best: usize,
    exponentials: Vec<f64>,
    sum: f64,
}

impl<'a> Softmax<'a> {
    fn of(logits: &'a [f32]) -> Self {
        let best = (0..logits.len()).fold(0, |best, class| if logits[class] > logits[best] { class } else { best });
        let largest = f64::from(logits[best]);
        let exponentials: Vec<f64> = logits.iter().map(|&z| libm::exp(f64::from(z) - largest)).collect();
        let sum = exponentials.iter().sum();
        Self { logits, best, exponentials, sum }
    }

    fn loss(&self, label: u8) -> f64 {
        libm::log(self.sum) - (f64::from(self.logits[usize::from(label)]) - f64::from(self.logits[self.best]))
    }
}

fn add(total: Tally, softmax: &Softmax<'_>, label: u8, name: u32) -> Result<Tally, TrainingError> {
    let loss = softmax.loss(label);
    let numerics = || TrainingError::Numerics { what: format!("the loss of sample {name}"), value: loss };
    let loss_sum = FixedPoint::LOSS.round_scalar(loss).map_err(|_| numerics())?;
    let correct = u64::from(softmax.best == usize::from(label));
    total.checked_add(Tally { samples: 1, correct, loss_sum }).ok_or_else(numerics)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: [u32; 3] = [10, 11, 12];

    #[test]
    fn loss_and_gradient_match_the_formula() {
        let (tally, gradient) = tally_and_gradient(&[0.0, 0.0, 2.0, 0.0], &[0, 0], &NAMES[..2]).unwrap();
        let expected = 2_f64.ln() + (1.0 + (-2_f64).exp()).ln();
        assert!((tally.mean_loss() - expected / 2.0).abs() < 1e-11);
        assert_eq!((tally.samples, tally.correct), (2, 2));
        let p = 1.0 / (1.0 + (-2_f64).exp());
        let expected = [-0.25, 0.25, (p - 1.0) / 2.0, (1.0 - p) / 2.0];
        assert!(gradient.iter().zip(expected).all(|(&g, e)| (f64::from(g) - e).abs() < 1e-7), "{gradient:?}");
    }

    #[test]
    fn totals_do_not_depend_on_the_grouping() {
        let logits = [0.3, -1.7, 2.2, 0.1, 5.5, -0.4];
        let labels = [1, 0, 0];
        let whole = tally(&logits, &labels, &NAMES).unwrap();
        let first = tally(&logits[..2], &labels[..1], &NAMES[..1]).unwrap();
        let rest = tally(&logits[2..], &labels[1..], &NAMES[1..]).unwrap();
        assert_eq!(rest.checked_add(first), Some(whole));
    }

    #[test]
    fn the_lowest_class_wins_a_tie() {
        let tie = [1.0, 1.0];
        assert_eq!(tally(&tie, &[0], &NAMES[..1]).unwrap().correct, 1);
        assert_eq!(tally(&tie, &[1], &NAMES[..1]).unwrap().correct, 0);
    }

    #[test]
    fn large_logits_do_not_overflow() {
        let tally = tally(&[1e30, 0.0], &[0], &NAMES[..1]).unwrap();
        assert_eq!(tally.loss_sum, 0);
    }

    #[test]
    fn a_loss_without_a_value_names_its_sample() {
        for bad in [f32::NAN, f32::INFINITY, 1e30] {
            let error = tally(&[0.0, 0.0, bad, 0.0], &[0, 1], &NAMES[..2]).unwrap_err();
            assert!(matches!(&error, TrainingError::Numerics { what, .. } if what.ends_with("sample 11")), "{error}");
        }
    }

    #[test]
    fn labels_beyond_the_logits_are_refused() {
        assert!(tally(&[0.0, 0.0], &[2], &NAMES[..1]).is_err());
        assert!(tally(&[], &[], &[]).is_err());
    }
}
