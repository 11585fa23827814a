//! Samples per second of a plain training loop, by batch shape and number of threads; then the time
//! of one unit's gradient. Run with `cargo run --release -p peerless-training --example throughput`.

use std::time::Instant;

use peerless_training::baseline::{PlainLoop, plain_loop};
use peerless_training::datasets::{Dataset, PullOptions, default_dir, pull};
use peerless_training::{Model, Trainer, use_threads};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    pull("mnist", &PullOptions::default(), &mut |event| eprintln!("{event:?}"))?;
    let open = || Dataset::open("mnist", &default_dir());
    let mut dataset = open()?;
    let cores = std::thread::available_parallelism()?.get();
    println!("threads  batch  passes  samples/s  last loss");
    for threads in [1, cores] {
        for (batch, passes_per_step) in [(32, 8), (64, 4), (128, 2), (256, 1), (64, 1)] {
            let steps = 20 * 256 / (batch * passes_per_step);
            let plan = PlainLoop { batch, passes_per_step, steps, threads, learning_rate: 0.01, momentum: 0.9 };
            let result = plain_loop(&mut dataset, plan)?;
            let speed = result.samples_per_second();
            println!("{threads:7}  {batch:5}  {passes_per_step:6}  {speed:9.0}  {:9.3}", result.last_loss);
        }
    }
    use_threads(1);
    let mut trainer = Trainer::new(Model::named("lenet5")?, open()?)?;
    let values = trainer.model().initial_values(0)?;
    println!("samples  median of a gradient, ms  samples/s");
    for samples in [16, 32, 64, 128, 256] {
        let samples: Vec<u32> = (0..samples).collect();
        let time = median(|| trainer.gradient(&values, &samples, 0).map(drop))?;
        println!("{:7}  {:24.2}  {:9.0}", samples.len(), time * 1e3, samples.len() as f64 / time);
    }
    for samples in [64, 256, 1000] {
        let time = median(|| trainer.evaluate(&values, 0..samples).map(drop))?;
        println!("evaluation of {samples}: {:.2} ms, {:.0} samples/s", time * 1e3, f64::from(samples) / time);
    }
    Ok(())
}

/// The median time of a piece of work, in seconds.
fn median<E>(mut work: impl FnMut() -> Result<(), E>) -> Result<f64, E> {
    let mut times = Vec::new();
    for _ in 0..41 {
        let start = Instant::now();
        work()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
