//! The computation of one unit.

use std::ops::Range;

use peerless_protocol::Tally;

use crate::datasets::{Dataset, Split};
use crate::{Model, TrainingError, engine, loss};

/// Samples that are evaluated together: with LeNet-5, larger batches are no faster and need more memory.
const EVALUATION_BATCH: usize = 64;

/// The result of a gradient unit.
#[derive(Debug, Clone, PartialEq)]
pub struct UnitGradient {
    /// Totals over the unit's samples.
    pub tally: Tally,
    /// Gradient of the mean loss over the unit's samples, as a flat vector; behind it the buffers' new values.
    pub gradient: Vec<f32>,
}

/// A model and the dataset it is trained on, kept warm between units.
#[derive(Debug)]
pub struct Trainer {
    model: Model,
    dataset: Dataset,
}

impl Trainer {
    /// Brings a model and a dataset together.
    ///
    /// # Errors
    /// [`TrainingError::Mismatch`] when the shapes or classes differ.
    pub fn new(model: Model, dataset: Dataset) -> Result<Self, TrainingError> {
        let (taken, given) = (model.info(), dataset.info());
        if (taken.input, taken.classes) == (given.shape, given.classes) {
            return Ok(Self { model, dataset });
        }
        Err(TrainingError::Mismatch {
            model: taken.name.to_owned(),
            model_shape: taken.input,
            model_classes: taken.classes,
            dataset: given.name.to_owned(),
            dataset_shape: given.shape,
            dataset_classes: given.classes,
        })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The dataset.
    pub fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The dataset, to be read by other means.
    pub fn dataset_mut(&mut self) -> &mut Dataset {
        &mut self.dataset
    }

    /// The gradient of the mean cross-entropy over training samples, at the flat vector `values`.
    /// All samples form one batch; `seed` decides about dropout and the dataset's augmentation.
    ///
    /// # Errors
    /// [`TrainingError::Numerics`] for a loss or gradient that is not finite,
    /// [`TrainingError::Length`], [`TrainingError::NoSamples`] and [`TrainingError::Dataset`].
    pub fn gradient(&mut self, values: &[f32], samples: &[u32], seed: u64) -> Result<UnitGradient, TrainingError> {
        let (images, labels) = self.dataset.read_augmented(samples, seed)?;
        let mut tally = Tally::default();
        let gradient = self.model.gradient(values, images, seed, &mut |logits| {
            let (totals, at_logits) = loss::tally_and_gradient(logits, &labels, samples)?;
            tally = totals;
            Ok(at_logits)
        })?;
        Ok(UnitGradient { tally, gradient })
    }

    /// The totals over a range of test samples, at the flat vector `values`. A sample counts the same bits
    /// in whatever range it is (tested with LeNet-5 on x86-64; the tensor library does not promise it).
    ///
    /// # Errors
    /// As [`gradient`](Self::gradient).
    pub fn evaluate(&mut self, values: &[f32], samples: Range<u32>) -> Result<Tally, TrainingError> {
        let samples: Vec<u32> = samples.collect();
        self.model.load(values)?;
        let mut total = Tally::default();
        for batch in samples.chunks(EVALUATION_BATCH) {
            let (images, labels) = self.dataset.read(Split::Test, batch)?;
            let logits = self.model.logits(images)?;
            let tally = loss::tally(&logits, &labels, batch)?;
            let overflow = || TrainingError::Numerics { what: "the sum of losses".to_owned(), value: f64::INFINITY };
            total = total.checked_add(tally).ok_or_else(overflow)?;
        }
        Ok(total)
    }
}

/// Makes the tensor library compute with `threads` threads, the calling one among them. To be called
/// once, before anything is computed; returns whether it had an effect.
///
/// With one thread this is more than a limit: work started outside a thread pool is handed over to
/// it and waited for, so that even a pool of one thread costs two context switches per operation.
pub fn use_threads(threads: usize) -> bool {
    engine::limit_threads(threads);
    rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build_global().is_ok()
}

/// The same for the calling thread alone, as long as what is returned lives: for processes in which
/// several threads compute different things. `None` if the thread computes with other threads already,
/// or none can be started.
pub fn use_own_threads(threads: usize) -> Option<OwnThreads> {
    engine::limit_threads(threads);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).use_current_thread().build().ok()?;
    Some(OwnThreads { _pool: pool })
}

/// See [`use_own_threads`].
#[derive(Debug)]
pub struct OwnThreads {
    _pool: rayon::ThreadPool,
}
