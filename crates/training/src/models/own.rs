//! Models of other crates: what a function program of its own can compute besides the models in here.

use burn::tensor::Device;
use peerless_protocol::RunSpec;

use super::{Model, ModelInfo, Network};
use crate::TrainingError;
use crate::datasets::dataset;

/// A network of another crate. A run trains it under its name, with the datasets of this crate.
pub trait OwnNetwork: Network {
    /// The name in run specs, as in `peerless train --model NAME`. One of a model in here is passed over.
    const NAME: &'static str;

    /// The network for images of a shape (channels, height, width) and so many classes. What its parameters begin
    /// with does not matter: [`Network::initialisation`] decides.
    fn new(device: &Device, shape: [usize; 3], classes: usize) -> Self;
}

/// Builds a model for images of a shape and so many classes.
type Build = fn([usize; 3], usize) -> Model;

/// The models that a program can compute: those in here, and own ones.
#[derive(Debug, Clone, Default)]
pub struct Models {
    own: Vec<(&'static str, Build)>,
}

impl Models {
    /// These models and one more.
    #[must_use]
    pub fn with<N: OwnNetwork>(mut self) -> Self {
        self.own.push((N::NAME, build::<N>));
        self
    }

    /// Builds the model that a run trains, for the shape and classes of the run's dataset.
    ///
    /// # Errors
    /// [`TrainingError::UnknownModel`], which lists the known ones, or [`TrainingError::Dataset`] for an unknown dataset.
    pub fn of(&self, spec: &RunSpec) -> Result<Model, TrainingError> {
        match (Model::of(spec), self.own.iter().find(|(name, _)| *name == spec.model)) {
            (Err(TrainingError::UnknownModel { .. }), Some((_, build))) => {
                let dataset = dataset(&spec.dataset.name)?;
                Ok(build(dataset.shape, dataset.classes))
            }
            (Err(TrainingError::UnknownModel { name, known }), None) => {
                let own = self.own.iter().map(|(name, _)| *name);
                let known = std::iter::once(known.as_str()).chain(own).collect::<Vec<_>>().join(", ");
                Err(TrainingError::UnknownModel { name, known })
            }
            (known, _) => known,
        }
    }
}

fn build<N: OwnNetwork>(shape: [usize; 3], classes: usize) -> Model {
    let info = ModelInfo {
        name: N::NAME,
        description: "a model of another crate",
        input: shape,
        classes,
        parameters: 0,
        buffers: 0,
    };
    let mut built = Model::from_network(info, |device| N::new(device, shape, classes));
    built.info.parameters = built.layout().parameters();
    built.info.buffers = built.layout().elements() - built.info.parameters;
    built
}

#[cfg(test)]
mod tests {
    use burn::module::Module;
    use burn::nn::{Linear, LinearConfig};
    use burn::tensor::Tensor;
    use peerless_protocol::{EvaluationSpec, LearningRate, SPEC_VERSION};

    use super::*;

    #[derive(Module, Debug)]
    struct Softmax {
        linear: Linear,
    }

    impl Network for Softmax {
        fn forward(&self, images: Tensor<4>) -> Tensor<2> {
            self.linear.forward(images.flatten(1, 3))
        }
    }

    impl OwnNetwork for Softmax {
        const NAME: &'static str = "softmax";

        fn new(device: &Device, shape: [usize; 3], classes: usize) -> Self {
            Self { linear: LinearConfig::new(shape.iter().product(), classes).init(device) }
        }
    }

    fn spec(model: &str) -> RunSpec {
        RunSpec {
            version: SPEC_VERSION,
            model: model.into(),
            dataset: dataset("cifar10").unwrap().spec(),
            seed: 1,
            units_per_round: 4,
            samples_per_unit: 8,
            rounds: 100,
            optimizer: "sgd".parse().unwrap(),
            learning_rate: LearningRate::constant(0.1),
            clip_norm: None,
            fraction_bits: 40,
            evaluation: EvaluationSpec { every_rounds: 50, samples_per_unit: 25 },
            early_stopping: None,
            until_correct: None,
        }
    }

    #[test]
    fn an_own_model_is_built_for_the_dataset_of_the_run() {
        let models = Models::default().with::<Softmax>();
        let model = models.of(&spec("softmax")).unwrap();
        assert_eq!((model.info().input, model.info().classes), ([3, 32, 32], 10));
        assert_eq!(model.info().parameters, 3 * 32 * 32 * 10 + 10);
        assert_eq!(model.initial_values(1).unwrap().len() as u64, model.info().parameters);
        assert_eq!(models.of(&spec("lenet5")).unwrap().info().name, "lenet5");
    }

    #[test]
    fn a_model_that_is_neither_is_refused_with_all_that_are_known() {
        let error = Models::default().with::<Softmax>().of(&spec("hardmax")).unwrap_err().to_string();
        assert!(error.contains("lenet5") && error.ends_with(", softmax"), "{error}");
    }
}
