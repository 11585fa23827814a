//! Models, datasets and the gradient of one unit: the only crate that knows the tensor library.
//!
//! # What is guaranteed
//!
//! On machines with the same numerics, [`Trainer::gradient`] is a pure function of the spec's names,
//! the parameters, the samples and the seed, bit for bit: however often it is repeated, in whichever
//! process, and with however many threads. The layers that take the time are those of [`ops`], with the same
//! bits for every instruction set; the loss, its gradient at the logits, normalisation, initial
//! parameters and totals are plain code with one order of operations and `libm` instead of the
//! platform's mathematics. What is left of the forward and backward pass is the tensor library's. Machines whose passes
//! differ after all are told apart by [`Model::fingerprint`]. All this holds for the default [`Engine`]; others have bits of
//! their own.
//!
//! # Adding a model
//!
//! Implement [`Network`] for a Burn module. [`Model::from_network`] gives it the flat vector that
//! peers exchange, with initial parameters and buffers; [`Trainer`] does the rest. Weights of another program come in
//! by [`Model::import`]. A model in a crate of its own is an [`OwnNetwork`], which a function program of its own computes.

pub mod baseline;
pub mod datasets;
mod engine;
mod error;
mod flat;
mod import;
mod initial;
mod loss;
mod models;
pub mod ops;
mod trainer;

pub use burn;
pub use engine::{Engine, EngineError};
pub use error::TrainingError;
pub use import::ImportError;
pub use models::{
    DenseNet121, Initialisation, LeNet5, MobileNetV3Small, Model, ModelInfo, Models, Network, OwnNetwork, ResNet18,
    SqueezeNet, UnitTimes, Vgg11, measured_cnn, model, models,
};
pub use trainer::{OwnThreads, Trainer, UnitGradient, use_own_threads, use_threads};
