//! A function program for a model of one's own. Everything that Peerless needs of it is in this file: a Burn module, how
//! it is built, and a `main` that computes tasks.
//!
//! ```sh
//! cargo build --release -p peerless-example-own-model
//! cargo run --release -- train --model two-towers --function-program target/release/own-model --rounds 300
//! ```

use std::process::ExitCode;

use peerless_function_host::{Options, serve_tasks};
use peerless_training::burn;
use peerless_training::burn::module::Module;
use peerless_training::burn::nn::conv::{Conv2d, Conv2dConfig};
use peerless_training::burn::nn::pool::{AdaptiveAvgPool2d, AdaptiveAvgPool2dConfig};
use peerless_training::burn::nn::{Linear, LinearConfig, PaddingConfig2d};
use peerless_training::burn::tensor::activation::relu;
use peerless_training::burn::tensor::{Device, Tensor};
use peerless_training::{Models, Network, OwnNetwork};

/// Looks at an image twice, with small and with large filters, and decides from both.
#[derive(Module, Debug)]
struct TwoTowers {
    near: Conv2d,
    far: Conv2d,
    pool: AdaptiveAvgPool2d,
    hidden: Linear,
    output: Linear,
}

const CHANNELS: usize = 12;
const SIDE: usize = 7;

impl Network for TwoTowers {
    fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        let near = self.pool.forward(relu(self.near.forward(images.clone())));
        let far = self.pool.forward(relu(self.far.forward(images)));
        let seen = Tensor::cat(vec![near, far], 1).flatten(1, 3);
        self.output.forward(relu(self.hidden.forward(seen)))
    }
}

impl OwnNetwork for TwoTowers {
    const NAME: &'static str = "two-towers";

    fn new(device: &Device, [channels, ..]: [usize; 3], classes: usize) -> Self {
        let tower = |side: usize| {
            let around = side / 2;
            Conv2dConfig::new([channels, CHANNELS], [side, side])
                .with_padding(PaddingConfig2d::Explicit(around, around, around, around))
                .init(device)
        };
        Self {
            near: tower(3),
            far: tower(7),
            pool: AdaptiveAvgPool2dConfig::new([SIDE, SIDE]).init(),
            hidden: LinearConfig::new(2 * CHANNELS * SIDE * SIDE, 64).init(device),
            output: LinearConfig::new(64, classes).init(device),
        }
    }
}

fn main() -> ExitCode {
    serve_tasks(Options { models: Models::default().with::<TwoTowers>(), ..Options::default() })
}
