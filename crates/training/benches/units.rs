//! The gradient of one unit, by model and batch, on one thread. `peerless bench unit` measures the same with the
//! allocator's settings of functions, and shows parts and GFLOP/s.

#![allow(missing_docs, reason = "criterion's macros make undocumented items")]
#![allow(clippy::expect_used, reason = "a benchmark that fails may panic")]

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use peerless_training::{Model, measured_cnn, use_threads};

const UNITS: [(&str, usize); 5] =
    [("lenet5", 64), ("lenet5", 256), ("cnn-1.2m", 64), ("mobilenet-v3-small", 32), ("resnet18", 32)];

fn units(criterion: &mut Criterion) {
    use_threads(1);
    let mut group = criterion.benchmark_group("unit");
    group.sample_size(10);
    for (name, batch) in UNITS {
        let mut model =
            if name == "cnn-1.2m" { Ok(measured_cnn()) } else { Model::named(name) }.expect("a known model");
        let values = model.initial_values(0).expect("all its tensors have initial values");
        let pixels = batch * model.info().input.iter().product::<usize>();
        let images: Vec<f32> = (0..pixels).map(|pixel| (pixel * 37 % 255) as f32 / 127.0 - 1.0).collect();
        group.throughput(Throughput::Elements(batch as u64));
        group.bench_function(BenchmarkId::new(name, batch), |bencher| {
            let gradient = |images| model.time_of_gradient(&values, images).expect("finite numbers");
            bencher.iter_batched(|| images.clone(), gradient, BatchSize::LargeInput);
        });
    }
    group.finish();
}

criterion_group!(benches, units);
criterion_main!(benches);
