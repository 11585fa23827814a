//! The errors of computing with a model.

use thiserror::Error;

use crate::EngineError;
use crate::datasets::DatasetError;

/// Why a model could not be built or a unit could not be computed.
#[derive(Debug, Error)]
pub enum TrainingError {
    /// No model has this name.
    #[error("model {name:?} is unknown, use one of {known}")]
    UnknownModel {
        /// The name that was given.
        name: String,
        /// The names that are known, comma-separated.
        known: String,
    },
    /// The engine is not there.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// The dataset is missing, damaged or cannot be read.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The model cannot work on samples of the dataset.
    #[error(
        "model {model} takes inputs of shape {model_shape:?} and {model_classes} classes, \
         but {dataset} has shape {dataset_shape:?} and {dataset_classes} classes"
    )]
    Mismatch {
        /// The model's name.
        model: String,
        /// Channels, height, width.
        model_shape: [usize; 3],
        /// Logits per sample.
        model_classes: usize,
        /// The dataset's name.
        dataset: String,
        /// Channels, height, width.
        dataset_shape: [usize; 3],
        /// Classes in the dataset.
        dataset_classes: usize,
    },
    /// A flat vector of another length than the model's.
    #[error("model {model} has {expected} elements, but the parameters have {actual}")]
    Length {
        /// The model's name.
        model: String,
        /// Parameters and buffers of the model.
        expected: usize,
        /// Elements of the vector that was given.
        actual: usize,
    },
    /// A unit without samples has no mean gradient.
    #[error("the unit has no samples")]
    NoSamples,
    /// A tensor for which no rule of initialisation is known.
    #[error(
        "tensor {name} of model {model} has no rule for its initial values; \
         name it weight, bias, gamma, beta, running_mean or running_var"
    )]
    NoInitialValues {
        /// The model's name.
        model: String,
        /// Dotted path of the tensor.
        name: String,
    },
    /// NaN or infinity, or a value beyond the grid of losses. The same on every attempt.
    #[error("{what} is {value}; lower the learning rate, add a warm-up or clip the gradient")]
    Numerics {
        /// What went wrong, such as `the loss of sample 17`.
        what: String,
        /// Its value.
        value: f64,
    },
    /// The tensor library gave a tensor of another type or size than it was asked for.
    #[error("the tensor library returned {0}")]
    Tensor(String),
}
