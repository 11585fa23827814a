//! Models: networks behind the flat vector that peers exchange.

mod lenet5;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use peerless_protocol::{Digest, Layout, Role};

pub use lenet5::LeNet5;

use crate::TrainingError;
use crate::flat::FlatMap;
use crate::initial::{initial_values, symmetric, words};
use crate::loss;

/// A Burn module that classifies images.
pub trait Network: Module + 'static {
    /// Logits of shape [batch, classes] for images of shape [batch, channels, height, width].
    fn forward(&self, images: Tensor<4>) -> Tensor<2>;
}

/// What is known about a model without building it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelInfo {
    /// Name in run specs.
    pub name: &'static str,
    /// One line for people.
    pub description: &'static str,
    /// Channels, height and width of an input.
    pub input: [usize; 3],
    /// Logits per input.
    pub classes: usize,
    /// Elements that the optimizer changes.
    pub parameters: u64,
}

/// Every model that a run spec can name.
pub fn models() -> Vec<ModelInfo> {
    vec![lenet5::INFO]
}

/// A network together with its place in the flat vector.
pub struct Model {
    info: ModelInfo,
    map: FlatMap,
    network: Box<dyn FlatNetwork>,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What `Model::gradient` asks of the loss: logits in, gradient of the loss at the logits out.
type LossGradient<'a> = dyn FnMut(&[f32]) -> Result<Vec<f32>, TrainingError> + 'a;

impl Model {
    /// Builds the model of that name.
    ///
    /// # Errors
    /// [`TrainingError::UnknownModel`], which lists the known ones.
    pub fn named(name: &str) -> Result<Self, TrainingError> {
        match name {
            "lenet5" => Ok(Self::from_network(lenet5::INFO, LeNet5::new)),
            _ => {
                let known: Vec<&str> = models().iter().map(|model| model.name).collect();
                Err(TrainingError::UnknownModel { name: name.to_owned(), known: known.join(", ") })
            }
        }
    }

    /// Makes a model of any network. Its tensors' names decide about their initial values: `weight`
    /// and `bias` of linear and convolutional layers, `gamma`, `beta`, `running_mean` and
    /// `running_var` of normalisations.
    pub fn from_network<N: Network>(info: ModelInfo, build: impl FnOnce(&Device) -> N) -> Self {
        let device = Device::flex().autodiff();
        let network = build(&device);
        let map = FlatMap::of(&network);
        Self { info, map, network: Box::new(Loaded { network, device }) }
    }

    /// Name, shapes and size.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Where each tensor lies in the flat vector.
    pub fn layout(&self) -> &Layout {
        self.map.layout()
    }

    /// The initial flat vector for a seed: the same bits on every machine.
    ///
    /// # Errors
    /// [`TrainingError::NoInitialValues`] for a tensor of an unknown kind.
    pub fn initial_values(&self, seed: u64) -> Result<Vec<f32>, TrainingError> {
        initial_values(self.info.name, self.layout(), seed)
    }

    /// Digest of a canonical gradient (16 made-up samples, initial values of seed 0): equal on
    /// machines that compute the same bits for this model. Costs a forward and a backward pass.
    ///
    /// # Errors
    /// As [`initial_values`](Self::initial_values); anything else would be a bug.
    pub fn fingerprint(&mut self) -> Result<Digest, TrainingError> {
        const SAMPLES: usize = 16;
        let elements = SAMPLES * self.info.input.iter().product::<usize>();
        let images = words(b"peerless fingerprint v1", 0, self.info.name, elements).map(symmetric).collect();
        let labels: Vec<u8> = (0..SAMPLES).map(|sample| (sample % self.info.classes) as u8).collect();
        let names: Vec<u32> = (0..SAMPLES as u32).collect();
        let values = self.initial_values(0)?;
        let gradient =
            self.gradient(&values, images, 0, &mut |logits| Ok(loss::tally_and_gradient(logits, &labels, &names)?.1))?;
        let bytes: Vec<u8> = gradient.iter().flat_map(|value| value.to_le_bytes()).collect();
        Ok(Digest::of(&bytes))
    }

    /// Takes the flat vector `values` for the calls of [`logits`](Self::logits) that follow.
    pub(crate) fn load(&mut self, values: &[f32]) -> Result<(), TrainingError> {
        let expected = self.layout().elements() as usize;
        if values.len() != expected {
            let model = self.info.name.to_owned();
            return Err(TrainingError::Length { model, expected, actual: values.len() });
        }
        self.network.load(&self.map, values);
        Ok(())
    }

    /// The logits of `images` (whole samples one after the other), without dropout and with the
    /// buffers' statistics.
    pub(crate) fn logits(&mut self, images: Vec<f32>) -> Result<Vec<f32>, TrainingError> {
        let images = self.batch(images)?;
        self.network.logits(images)
    }

    /// The gradient at `values` of the loss whose gradient at the logits is `loss`, as a flat vector
    /// with the buffers' new values behind the gradient.
    pub(crate) fn gradient(
        &mut self,
        values: &[f32],
        images: Vec<f32>,
        seed: u64,
        loss: &mut LossGradient<'_>,
    ) -> Result<Vec<f32>, TrainingError> {
        self.load(values)?;
        let images = self.batch(images)?;
        let gradient = self.network.gradient(&self.map, images, seed, loss)?;
        match gradient.iter().position(|element| !element.is_finite()) {
            None => Ok(gradient),
            Some(index) => Err(self.not_finite(index, gradient[index])),
        }
    }

    fn batch(&self, images: Vec<f32>) -> Result<TensorData, TrainingError> {
        let [channels, height, width] = self.info.input;
        let sample = channels * height * width;
        match images.len() {
            0 => Err(TrainingError::NoSamples),
            length if length % sample != 0 => Err(TrainingError::Tensor(format!("{length} pixels"))),
            length => Ok(TensorData::new(images, [length / sample, channels, height, width])),
        }
    }

    fn not_finite(&self, index: usize, value: f32) -> TrainingError {
        let holds = |offset: u64| offset <= index as u64;
        let entry = self.layout().entries.iter().rfind(|entry| holds(entry.offset));
        let what = entry.map_or_else(String::new, |entry| match entry.role {
            Role::Parameter => format!("the gradient of {}", entry.name),
            Role::Buffer => format!("buffer {}", entry.name),
        });
        TrainingError::Numerics { what, value: f64::from(value) }
    }
}

/// A [`Network`] of some type.
trait FlatNetwork: Send {
    fn load(&mut self, map: &FlatMap, values: &[f32]);

    fn logits(&self, images: TensorData) -> Result<Vec<f32>, TrainingError>;

    fn gradient(
        &self,
        map: &FlatMap,
        images: TensorData,
        seed: u64,
        loss: &mut LossGradient<'_>,
    ) -> Result<Vec<f32>, TrainingError>;
}

struct Loaded<N> {
    network: N,
    device: Device,
}

impl<N: Network> FlatNetwork for Loaded<N> {
    fn load(&mut self, map: &FlatMap, values: &[f32]) {
        self.network = map.load(self.network.clone(), values, &self.device);
    }

    fn logits(&self, images: TensorData) -> Result<Vec<f32>, TrainingError> {
        let images = Tensor::from_data(images, &self.device.clone().without_autodiff());
        read(self.network.valid().forward(images))
    }

    fn gradient(
        &self,
        map: &FlatMap,
        images: TensorData,
        seed: u64,
        loss: &mut LossGradient<'_>,
    ) -> Result<Vec<f32>, TrainingError> {
        // Dropout draws from the device's generator.
        self.device.seed(seed);
        let logits = self.network.forward(Tensor::from_data(images, &self.device));
        let shape = logits.dims();
        let at_logits = TensorData::new(loss(&read(logits.clone().inner())?)?, shape);
        // The gradient of sum(z * g) with constant g is the chain rule applied to g: the library
        // differentiates the network, and the loss stays ours.
        let gradients = (logits * Tensor::from_data(at_logits, &self.device)).sum().backward();
        map.collect(&self.network, &self.network.valid(), gradients)
    }
}

fn read(logits: Tensor<2>) -> Result<Vec<f32>, TrainingError> {
    logits
        .into_data()
        .try_into_vec()
        .map_err(|error| TrainingError::Tensor(format!("logits of another type: {error:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_model_is_refused_with_the_known_ones() {
        let error = Model::named("lenet6").unwrap_err();
        assert_eq!(error.to_string(), "model \"lenet6\" is unknown, use one of lenet5");
    }

    #[test]
    fn every_listed_model_can_be_built_and_is_as_large_as_it_says() {
        for info in models() {
            let model = Model::named(info.name).unwrap();
            assert_eq!(model.layout().parameters(), info.parameters, "{}", info.name);
            assert!(model.layout().is_valid());
            assert_eq!(model.initial_values(1).unwrap().len() as u64, model.layout().elements());
        }
    }

    #[test]
    fn a_fingerprint_is_the_same_for_another_instance() {
        let digest = Model::named("lenet5").unwrap().fingerprint().unwrap();
        assert_eq!(Model::named("lenet5").unwrap().fingerprint().unwrap(), digest);
    }

    #[test]
    fn a_vector_of_another_length_is_refused() {
        let mut model = Model::named("lenet5").unwrap();
        let error = model.load(&[0.0; 3]).unwrap_err();
        assert_eq!(error.to_string(), "model lenet5 has 61706 elements, but the parameters have 3");
    }
}
