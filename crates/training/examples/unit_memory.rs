//! Memory and time of a gradient unit.
//!
//! ```text
//! cargo run --release -p peerless-training --example unit_memory -- resnet18 cifar10 64
//! ```

use std::time::Instant;
use std::{env, fs};

use peerless_training::datasets::{Dataset, PullOptions, default_dir, pull};
use peerless_training::{Model, Trainer, use_threads};

/// Largest resident set of this process so far, in MB; 0 on other systems than Linux.
fn peak_mb() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) * 1024 / 1_000_000
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = env::args().skip(1);
    let model = arguments.next().unwrap_or_else(|| "resnet18".to_owned());
    let dataset = arguments.next().unwrap_or_else(|| "cifar10".to_owned());
    let samples: u32 = arguments.next().map_or(Ok(64), |samples| samples.parse())?;
    use_threads(1);
    pull(&dataset, &PullOptions::default(), &mut |_| ())?;
    let dataset = Dataset::open(&dataset, &default_dir())?;
    let model = Model::fitting(&model, dataset.info().shape, dataset.info().classes)?;
    let mut trainer = Trainer::new(model, dataset)?;
    let values = trainer.model().initial_values(1)?;
    let samples: Vec<u32> = (0..samples).collect();
    trainer.gradient(&values, &samples, 1)?;
    let start = Instant::now();
    trainer.gradient(&values, &samples, 2)?;
    let (name, count, seconds) = (trainer.model().info().name, samples.len(), start.elapsed().as_secs_f64());
    println!("{name}: {count} samples on one thread take {seconds:.3} s when warm, at most {} MB resident", peak_mb());
    Ok(())
}
