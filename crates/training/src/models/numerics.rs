//! Whose bits a model has: its engine, and the fingerprint by which engines and machines are told apart.

use peerless_protocol::Digest;

use super::Model;
use crate::initial::{symmetric, words};
use crate::{Engine, EngineError, TrainingError, loss};

impl Model {
    /// The same model, computed by that engine instead of [`Engine::Flex`].
    ///
    /// # Errors
    /// [`EngineError::NotBuilt`].
    pub fn on(mut self, engine: Engine) -> Result<Self, EngineError> {
        self.network.move_to(engine.device()?.autodiff());
        self.engine = engine;
        Ok(self)
    }

    /// Digest of a canonical gradient (16 made-up samples, initial values of seed 0): equal on
    /// machines that compute the same bits for this model. Other engines than [`Engine::Flex`] add their name: bits
    /// that are equal by chance would not stay so. Costs a forward and a backward pass.
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
        let mut bytes: Vec<u8> = gradient.iter().flat_map(|value| value.to_le_bytes()).collect();
        if self.engine != Engine::Flex {
            bytes.extend_from_slice(self.engine.name().as_bytes());
        }
        Ok(Digest::of(&bytes))
    }
}
