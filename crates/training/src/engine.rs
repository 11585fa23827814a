//! What computes tensors: backends of the tensor library.

use std::fmt;
use std::str::FromStr;

use burn::tensor::Device;
use thiserror::Error;

/// A backend of the tensor library. All but [`Engine::Flex`] are there only if this crate was built with their cargo
/// feature. Each has bits of its own, which [`Model::fingerprint`](crate::Model::fingerprint) tells apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Engine {
    /// The CPU, with the layers of [`ops`](crate::ops): the same bits on every machine.
    #[default]
    Flex,
    /// PyTorch's library, on the CPU. Cargo feature `engine-libtorch`.
    LibTorch,
    /// The GPU that is there, by Vulkan, Metal or DirectX. Cargo feature `engine-wgpu`.
    Wgpu,
    /// The first NVIDIA GPU. Cargo feature `engine-cuda`.
    Cuda,
}

/// An engine that cannot compute.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// No engine has this name.
    #[error("engine {0:?} is unknown, use one of flex, libtorch, wgpu, cuda")]
    Unknown(String),
    /// This program was built without it.
    #[error("this program was built without engine {0} (cargo feature `engine-{0}`)")]
    NotBuilt(Engine),
}

impl Engine {
    /// All engines, built in or not.
    pub const ALL: [Self; 4] = [Self::Flex, Self::LibTorch, Self::Wgpu, Self::Cuda];

    /// What it is called on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::LibTorch => "libtorch",
            Self::Wgpu => "wgpu",
            Self::Cuda => "cuda",
        }
    }

    /// Whether it was built in. Nothing is asked of the machine.
    ///
    /// # Errors
    /// [`EngineError::NotBuilt`].
    pub fn check(self) -> Result<(), EngineError> {
        self.device().map(|_| ())
    }

    /// Where its tensors are. GPUs are opened when they are first used.
    pub(crate) fn device(self) -> Result<Device, EngineError> {
        match self {
            Self::Flex => Ok(Device::flex()),
            #[cfg(feature = "engine-libtorch")]
            #[allow(
                deprecated,
                reason = "the tensor library is going to drop it, and has nothing else that is PyTorch's"
            )]
            Self::LibTorch => Ok(Device::libtorch()),
            #[cfg(feature = "engine-wgpu")]
            Self::Wgpu => Ok(Device::wgpu(burn::tensor::DeviceKind::DefaultDevice)),
            #[cfg(feature = "engine-cuda")]
            Self::Cuda => Ok(Device::cuda(burn::tensor::DeviceIndex::Default)),
            #[cfg(not(all(feature = "engine-libtorch", feature = "engine-wgpu", feature = "engine-cuda")))]
            missing => Err(EngineError::NotBuilt(missing)),
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Engine {
    type Err = EngineError;

    fn from_str(name: &str) -> Result<Self, EngineError> {
        let known = Self::ALL.into_iter().find(|engine| engine.name() == name);
        known.ok_or_else(|| EngineError::Unknown(name.to_owned()))
    }
}

/// Limits the threads of engines that have a pool of their own, for what the calling thread computes.
pub(crate) fn limit_threads(threads: usize) {
    #[cfg(feature = "engine-libtorch")]
    tch::set_num_threads(i32::try_from(threads).unwrap_or(i32::MAX));
    #[cfg(not(feature = "engine-libtorch"))]
    let _ = threads;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_are_known_by_their_names() {
        for engine in Engine::ALL {
            assert_eq!(engine.to_string().parse(), Ok(engine));
        }
        let error = "tpu".parse::<Engine>().unwrap_err();
        assert_eq!(error.to_string(), "engine \"tpu\" is unknown, use one of flex, libtorch, wgpu, cuda");
    }

    #[test]
    fn an_engine_is_there_exactly_if_its_feature_is() {
        let built = Engine::ALL.map(|engine| engine.check().is_ok());
        let (torch, wgpu, cuda) =
            (cfg!(feature = "engine-libtorch"), cfg!(feature = "engine-wgpu"), cfg!(feature = "engine-cuda"));
        assert_eq!(built, [true, torch, wgpu, cuda]);
        let error = EngineError::NotBuilt(Engine::Wgpu).to_string();
        assert_eq!(error, "this program was built without engine wgpu (cargo feature `engine-wgpu`)");
    }
}
