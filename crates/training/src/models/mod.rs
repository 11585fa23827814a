//! Models: networks behind the flat vector that peers exchange.

mod blocks;
mod cnn;
mod densenet121;
mod lenet5;
mod mobilenet_v3;
mod numerics;
mod own;
mod resnet18;
mod squeezenet;
mod vgg11;

use std::time::{Duration, Instant};

use burn::module::Module;
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use peerless_protocol::{Layout, Role, RunSpec};

pub use cnn::measured_cnn;
pub use densenet121::DenseNet121;
pub use lenet5::LeNet5;
pub use mobilenet_v3::MobileNetV3Small;
pub use own::{Models, OwnNetwork};
pub use resnet18::ResNet18;
pub use squeezenet::SqueezeNet;
pub use vgg11::Vgg11;

use crate::datasets::dataset;
use crate::flat::FlatMap;
use crate::import::{self, ImportError};
pub use crate::initial::Initialisation;
use crate::initial::initial_values;
use crate::loss;
use crate::{Engine, TrainingError};

/// A Burn module that classifies images.
pub trait Network: Module + 'static {
    /// Logits of shape [batch, classes] for images of shape [batch, channels, height, width].
    fn forward(&self, images: Tensor<4>) -> Tensor<2>;

    /// The same while a unit with this seed is computed: the place for dropout, which must depend on nothing but the
    /// seed.
    fn forward_training(&self, images: Tensor<4>, _seed: u64) -> Tensor<2> {
        self.forward(images)
    }

    /// How weights and biases begin.
    fn initialisation() -> Initialisation {
        Initialisation::Uniform
    }

    /// What a layer of this dotted path is called in the definition that weights are imported from, see
    /// [`Model::import`].
    fn reference_name(layer: &str) -> String {
        layer.to_owned()
    }
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
    /// Elements that are averaged: running means and variances of normalisations.
    pub buffers: u64,
}

/// Every model that a run spec can name, for the inputs and classes that it takes by default.
pub fn models() -> Vec<ModelInfo> {
    vec![lenet5::INFO, squeezenet::INFO, mobilenet_v3::INFO, resnet18::INFO, densenet121::INFO, vgg11::INFO]
}

/// The model of that name, for the inputs and classes that it takes by default.
///
/// # Errors
/// [`TrainingError::UnknownModel`], which lists the known ones.
pub fn model(name: &str) -> Result<ModelInfo, TrainingError> {
    models().into_iter().find(|model| model.name == name).ok_or_else(|| {
        let known: Vec<&str> = models().iter().map(|model| model.name).collect();
        TrainingError::UnknownModel { name: name.to_owned(), known: known.join(", ") }
    })
}

/// Where the time of one unit's gradient goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnitTimes {
    /// From the flat vector into the network's tensors.
    pub load: Duration,
    /// From the images to the logits.
    pub forward: Duration,
    /// Loss, and from the logits to the gradients.
    pub backward: Duration,
    /// From the gradients into one flat vector.
    pub flatten: Duration,
}

impl UnitTimes {
    /// All of it.
    pub fn total(&self) -> Duration {
        self.load + self.forward + self.backward + self.flatten
    }
}

/// A network together with its place in the flat vector.
pub struct Model {
    info: ModelInfo,
    engine: Engine,
    map: FlatMap,
    network: Box<dyn FlatNetwork>,
    initialisation: Initialisation,
    reference_name: fn(&str) -> String,
}

impl std::fmt::Debug for Model {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Model").field("info", &self.info).finish_non_exhaustive()
    }
}

/// What `Model::gradient` asks of the loss: logits in, gradient of the loss at the logits out.
type LossGradient<'a> = dyn FnMut(&[f32]) -> Result<Vec<f32>, TrainingError> + 'a;

impl Model {
    /// Builds the model of that name for the inputs and classes that it takes by default.
    ///
    /// # Errors
    /// [`TrainingError::UnknownModel`], which lists the known ones.
    pub fn named(name: &str) -> Result<Self, TrainingError> {
        let info = model(name)?;
        Self::fitting(name, info.input, info.classes)
    }

    /// Builds the model that a run trains: for the shape and classes of the run's dataset, if it can take them.
    ///
    /// # Errors
    /// [`TrainingError::UnknownModel`], or [`TrainingError::Dataset`] for an unknown dataset.
    pub fn of(spec: &RunSpec) -> Result<Self, TrainingError> {
        model(&spec.model)?;
        let dataset = dataset(&spec.dataset.name)?;
        Self::fitting(&spec.model, dataset.shape, dataset.classes)
    }

    /// Builds the model of that name for inputs of a shape (channels, height, width) and so many classes. A model that
    /// cannot take them is built for those that it takes by default: LeNet-5 for all others than its own, the rest for
    /// images that are not square, have less than 28 or more than 256 pixels a side or more than 16 channels.
    ///
    /// # Errors
    /// [`TrainingError::UnknownModel`], which lists the known ones.
    pub fn fitting(name: &str, shape: [usize; 3], classes: usize) -> Result<Self, TrainingError> {
        let info = model(name)?;
        let [channels, height, width] = shape;
        let taken = (1..=16).contains(&channels) && (28..=256).contains(&height) && height == width && classes > 0;
        let (shape, classes) = if taken { (shape, classes) } else { (info.input, info.classes) };
        let fitted = |info: ModelInfo| ModelInfo { input: shape, classes, ..info };
        let mut built = match info.name {
            "squeezenet1.1" => Self::from_network(fitted(info), |device| SqueezeNet::new(device, shape, classes)),
            "mobilenet-v3-small" => {
                Self::from_network(fitted(info), |device| MobileNetV3Small::new(device, shape, classes))
            }
            "resnet18" => Self::from_network(fitted(info), |device| ResNet18::new(device, shape, classes)),
            "densenet121" => Self::from_network(fitted(info), |device| DenseNet121::new(device, shape, classes)),
            "vgg11" => Self::from_network(fitted(info), |device| Vgg11::new(device, shape, classes)),
            _ => Self::from_network(info, LeNet5::new),
        };
        built.info.parameters = built.layout().parameters();
        Ok(built)
    }

    /// Makes a model of any network. Its tensors' names decide about their initial values: `weight`
    /// and `bias` of linear and convolutional layers, `gamma`, `beta`, `running_mean` and
    /// `running_var` of normalisations.
    pub fn from_network<N: Network>(info: ModelInfo, build: impl FnOnce(&Device) -> N) -> Self {
        let device = Device::flex().autodiff();
        let network = build(&device);
        let map = FlatMap::of(&network);
        Self {
            info,
            engine: Engine::Flex,
            map,
            network: Box::new(Loaded { network, device }),
            initialisation: N::initialisation(),
            reference_name: N::reference_name,
        }
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
        initial_values(self.info.name, self.layout(), self.initialisation, seed)
    }

    /// The flat vector of weights in safetensors' format, under the names and in the shapes of torchvision's
    /// definition of the model: linear weights are [outputs, inputs] there and [inputs, outputs] here, convolutions
    /// [outputs, inputs, height, width] on both sides. Counts of batches (`num_batches_tracked`) are left out.
    ///
    /// # Errors
    /// [`ImportError`], which names the tensor.
    pub fn import(&self, file: &[u8]) -> Result<Vec<f32>, ImportError> {
        import::import(self.layout(), self.reference_name, file)
    }

    /// The logits at the flat vector `values` of `images`, whole samples one after the other: without dropout, and
    /// with the buffers' statistics.
    ///
    /// # Errors
    /// [`TrainingError::Length`], [`TrainingError::NoSamples`] or [`TrainingError::Tensor`] for images of another size.
    pub fn predict(&mut self, values: &[f32], images: Vec<f32>) -> Result<Vec<f32>, TrainingError> {
        self.load(values)?;
        self.logits(images)
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
        let gradients = self.network.gradients(images, seed, loss)?;
        let gradient = self.network.flatten(&self.map, gradients)?;
        match gradient.iter().position(|element| !element.is_finite()) {
            None => Ok(gradient),
            Some(index) => Err(self.not_finite(index, gradient[index])),
        }
    }

    /// Where the time of a gradient goes, for made-up `images` of which sample i has the label
    /// i modulo the number of classes.
    ///
    /// # Errors
    /// As for a unit.
    pub fn time_of_gradient(&mut self, values: &[f32], images: Vec<f32>) -> Result<UnitTimes, TrainingError> {
        let images = self.batch(images)?;
        let samples = images.shape()[0];
        let labels: Vec<u8> = (0..samples).map(|sample| (sample % self.info.classes) as u8).collect();
        let names: Vec<u32> = (0..samples as u32).collect();
        let begin = Instant::now();
        self.load(values)?;
        let loaded = Instant::now();
        let mut computed = loaded;
        let gradients = self.network.gradients(images, 0, &mut |logits| {
            computed = Instant::now();
            Ok(loss::tally_and_gradient(logits, &labels, &names)?.1)
        })?;
        let differentiated = Instant::now();
        self.network.flatten(&self.map, gradients)?;
        Ok(UnitTimes {
            load: loaded - begin,
            forward: computed - loaded,
            backward: differentiated - computed,
            flatten: differentiated.elapsed(),
        })
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
    fn move_to(&mut self, device: Device);

    fn load(&mut self, map: &FlatMap, values: &[f32]);

    fn logits(&self, images: TensorData) -> Result<Vec<f32>, TrainingError>;

    fn gradients(&self, images: TensorData, seed: u64, loss: &mut LossGradient<'_>)
    -> Result<Gradients, TrainingError>;

    fn flatten(&self, map: &FlatMap, gradients: Gradients) -> Result<Vec<f32>, TrainingError>;
}

struct Loaded<N> {
    network: N,
    device: Device,
}

impl<N: Network> FlatNetwork for Loaded<N> {
    fn move_to(&mut self, device: Device) {
        self.network = self.network.clone().to_device(&device);
        self.device = device;
    }

    fn load(&mut self, map: &FlatMap, values: &[f32]) {
        self.network = map.load(self.network.clone(), values, &self.device);
    }

    fn logits(&self, images: TensorData) -> Result<Vec<f32>, TrainingError> {
        let images = Tensor::from_data(images, &self.device.clone().without_autodiff());
        read(self.network.valid().forward(images))
    }

    fn gradients(
        &self,
        images: TensorData,
        seed: u64,
        loss: &mut LossGradient<'_>,
    ) -> Result<Gradients, TrainingError> {
        // For networks that draw from the library's generator after all. It is the process's: they are
        // deterministic in processes that compute one unit at a time.
        self.device.seed(seed);
        let logits = self.network.forward_training(Tensor::from_data(images, &self.device), seed);
        let shape = logits.dims();
        let at_logits = TensorData::new(loss(&read(logits.clone().inner())?)?, shape);
        // The gradient of sum(z * g) with constant g is the chain rule applied to g: the library
        // differentiates the network, and the loss stays ours.
        Ok((logits * Tensor::from_data(at_logits, &self.device)).sum().backward())
    }

    fn flatten(&self, map: &FlatMap, gradients: Gradients) -> Result<Vec<f32>, TrainingError> {
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
    use crate::initial::{symmetric, words};

    #[test]
    fn an_unknown_model_is_refused_with_the_known_ones() {
        let error = Model::named("lenet6").unwrap_err();
        assert_eq!(
            error.to_string(),
            "model \"lenet6\" is unknown, use one of lenet5, squeezenet1.1, mobilenet-v3-small, resnet18, densenet121, vgg11"
        );
    }

    #[test]
    fn every_listed_model_can_be_built_and_is_as_large_as_it_says() {
        for info in models() {
            let model = Model::named(info.name).unwrap();
            let layout = model.layout();
            assert_eq!(layout.parameters(), info.parameters, "{}", info.name);
            assert_eq!(layout.elements() - layout.parameters(), info.buffers, "{}", info.name);
            assert!(layout.is_valid());
            assert_eq!(model.info(), &info);
        }
    }

    #[test]
    fn with_a_thousand_classes_and_large_images_parameters_are_those_of_the_published_definitions() {
        let published = [
            ("squeezenet1.1", 1_235_496),
            ("mobilenet-v3-small", 2_542_856),
            ("resnet18", 11_689_512),
            ("densenet121", 7_978_856),
            ("vgg11", 132_863_336),
        ];
        for (name, parameters) in published {
            let model = Model::fitting(name, [3, 224, 224], 1000).unwrap();
            assert_eq!(model.layout().parameters(), parameters, "{name}");
            assert_eq!((model.info().input, model.info().classes), ([3, 224, 224], 1000));
        }
    }

    #[test]
    fn the_gradient_of_every_model_but_the_largest_is_the_slope_of_its_loss() {
        for info in models().into_iter().filter(|info| info.parameters < 100_000_000) {
            let mut model = Model::named(info.name).unwrap();
            let (rise, expected) = slope(&mut model);
            assert!((rise / expected - 1.0).abs() < 0.1, "{}: {rise}, not {expected}", info.name);
        }
    }

    #[test]
    fn every_model_takes_mnist() {
        for info in models() {
            let mut model = Model::fitting(info.name, [1, 28, 28], 10).unwrap();
            let values = vec![0.01; model.layout().elements() as usize];
            assert_eq!(model.predict(&values, vec![0.5; 28 * 28]).unwrap().len(), 10, "{}", info.name);
        }
    }

    /// How much the loss rises along the gradient per step, measured and as the gradient says. In f32 through deep
    /// networks with kinks, so that a few per cent are to be expected.
    fn slope(model: &mut Model) -> (f64, f64) {
        const SAMPLES: usize = 4;
        let pixels = SAMPLES * model.info.input.iter().product::<usize>();
        let images: Vec<f32> = words(b"slope", 1, model.info.name, pixels).map(symmetric).collect();
        let labels: Vec<u8> = (0..SAMPLES as u8).collect();
        let names: Vec<u32> = (0..SAMPLES as u32).collect();
        let values = model.initial_values(1).unwrap();
        let parameters = model.layout().parameters() as usize;
        let mut run = |values: &[f32]| {
            let mut loss = 0.0;
            let gradient = model.gradient(values, images.clone(), 5, &mut |logits| {
                let (tally, at_logits) = loss::tally_and_gradient(logits, &labels, &names)?;
                loss = tally.mean_loss();
                Ok(at_logits)
            });
            (gradient.unwrap(), loss)
        };
        let (gradient, _) = run(&values);
        assert_eq!(run(&values).0, gradient, "the same unit again has another result");
        let squared: f64 = gradient[..parameters].iter().map(|&g| f64::from(g).powi(2)).sum();
        let step = 1e-2 / squared;
        let mut loss_at = |step: f64| {
            let mut moved = values.clone();
            moved.iter_mut().zip(&gradient[..parameters]).for_each(|(v, &g)| *v += (step * f64::from(g)) as f32);
            run(&moved).1
        };
        ((loss_at(step) - loss_at(-step)) / (2.0 * step), squared)
    }

    #[test]
    fn threads_and_other_work_in_the_process_do_not_change_a_gradient() {
        for name in ["lenet5", "mobilenet-v3-small", "resnet18", "densenet121", "squeezenet1.1", "vgg11"] {
            let compute = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| Model::named(name).unwrap().fingerprint().unwrap())
            };
            let one = compute(1);
            assert_eq!([compute(2), compute(4)], [one; 2], "{name}");
            assert_eq!(
                std::thread::scope(|scope| [(); 2].map(|()| scope.spawn(|| compute(1))).map(|t| t.join().unwrap())),
                [one; 2]
            );
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
