//! Engines against the default one, with units of real models: those that the tests are built with.

#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, not in their helpers")]

use peerless_training::{Engine, EngineError, Model};

#[test]
fn an_engine_that_was_not_built_in_is_refused() {
    // Those that are there may need a GPU.
    for engine in Engine::ALL.into_iter().filter(|engine| engine.check().is_err()) {
        assert_eq!(Model::named("lenet5").unwrap().on(engine).unwrap_err(), EngineError::NotBuilt(engine));
    }
    assert!(Model::named("lenet5").unwrap().on(Engine::Flex).is_ok());
}

#[cfg(any(feature = "engine-libtorch", feature = "engine-wgpu", feature = "engine-cuda"))]
mod built {
    use peerless_training::datasets::{Dataset, PullOptions, default_dir, pull};
    use peerless_training::{Trainer, UnitGradient, models};

    use super::*;

    const SAMPLES: [u32; 6] = [0, 937, 1874, 2811, 3748, 4685];

    fn model(name: &str, engine: Engine) -> Model {
        Model::fitting(name, [1, 28, 28], 10).unwrap().on(engine).unwrap()
    }

    fn unit(name: &str, engine: Engine) -> UnitGradient {
        pull("mnist", &PullOptions::default(), &mut |event| eprintln!("{event:?}")).unwrap();
        let model = model(name, engine);
        let values = model.initial_values(1).unwrap();
        let mut trainer = Trainer::new(model, Dataset::open("mnist", &default_dir()).unwrap()).unwrap();
        trainer.gradient(&values, &SAMPLES, 5).unwrap()
    }

    /// The largest difference of a tensor of a gradient, in the Euclidean norm and relative to that of the tensor. In deep
    /// networks with few samples a ReLU near zero that falls to the other side is seen up to the first layer.
    const NEAR: [(&str, f64); 2] = [("lenet5", 1e-5), ("", 2e-2)];

    fn assert_near(name: &str, engine: Engine) {
        let (found, expected) = (unit(name, engine), unit(name, Engine::Flex));
        assert_eq!(found.tally.samples, expected.tally.samples);
        let loss = (found.tally.mean_loss() - expected.tally.mean_loss()).abs();
        assert!(loss < 1e-4, "{name} on {engine}: the loss differs by {loss}");
        let flex = model(name, Engine::Flex);
        let layout = flex.layout();
        // Some are zero but for what was rounded: shifts in front of a normalisation.
        let rounding = 1e-3 * norm(&expected.gradient[..layout.parameters() as usize]);
        let allowed = NEAR.iter().find(|(model, _)| name.starts_with(model)).unwrap().1;
        for entry in &layout.entries {
            let range = entry.offset as usize..(entry.offset + entry.elements()) as usize;
            let (found, expected) = (&found.gradient[range.clone()], &expected.gradient[range]);
            let difference: Vec<f32> = found.iter().zip(expected).map(|(found, expected)| found - expected).collect();
            let relative = norm(&difference) / (norm(expected) + rounding);
            assert!(relative <= allowed, "{name} on {engine}: {} differs by {relative}", entry.name);
        }
    }

    fn norm(values: &[f32]) -> f64 {
        values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt()
    }

    fn assert_computes_as_flex_with_other_bits(engine: Engine) {
        for info in models() {
            assert_near(info.name, engine);
        }
        let fingerprint = |engine| model("lenet5", engine).fingerprint().unwrap();
        assert_ne!(fingerprint(engine), fingerprint(Engine::Flex));
        assert_eq!(fingerprint(engine), fingerprint(engine), "another instance");
    }

    #[cfg(feature = "engine-libtorch")]
    #[test]
    fn libtorch_computes_as_flex_with_other_bits() {
        assert_computes_as_flex_with_other_bits(Engine::LibTorch);
    }

    /// Needs a GPU, or a driver that plays one.
    #[cfg(feature = "engine-wgpu")]
    #[test]
    #[ignore = "needs a GPU or a software driver"]
    fn wgpu_computes_as_flex_with_other_bits() {
        assert_computes_as_flex_with_other_bits(Engine::Wgpu);
    }

    #[cfg(feature = "engine-cuda")]
    #[test]
    #[ignore = "needs an NVIDIA GPU"]
    fn cuda_computes_as_flex_with_other_bits() {
        assert_computes_as_flex_with_other_bits(Engine::Cuda);
    }
}
