//! How near to memory speed sums and optimizer steps run.
//!
//! Throughput is bytes moved: every element read plus every element written, counted once each.
//! Compare with `copy`, which moves the bytes of `accumulate` (20 per element) with `memcpy`.

use std::hint::black_box;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use peerless_aggregation::{FixedPoint, Optimizer, add, clip_by_global_norm};

/// ResNet-18 for CIFAR-10 (beyond every cache) and LeNet-5 (fits into a core's L2).
const LENGTHS: [usize; 2] = [11_000_000, 61_706];

fn gradient(length: usize) -> Vec<f32> {
    (0..length).map(|i| ((i * 7919) % 100_003) as f32 / 100_003.0 - 0.5).collect()
}

fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, bytes_moved: usize, routine: impl FnMut()) {
    let mut routine = routine;
    group.throughput(Throughput::Bytes(bytes_moved as u64));
    group.bench_function(name, |bencher| bencher.iter(&mut routine));
}

fn sums(criterion: &mut Criterion) {
    let grid = FixedPoint::DEFAULT;
    for length in LENGTHS {
        let mut group = criterion.benchmark_group(format!("{length}"));
        group.sample_size(30);

        let source = vec![1_u8; 10 * length];
        let mut target = vec![0_u8; 10 * length];
        measure(&mut group, "copy", 20 * length, || {
            black_box(&mut target).copy_from_slice(black_box(&source));
        });
        drop((source, target));

        let gradient = gradient(length);
        let mut float_sum = vec![0.0_f32; length];
        measure(&mut group, "add f32 (not exact)", 12 * length, || {
            for (sum, element) in black_box(&mut float_sum).iter_mut().zip(black_box(&gradient)) {
                *sum += element;
            }
        });

        let mut accumulator = vec![0_i64; length];
        measure(&mut group, "accumulate", 20 * length, || {
            grid.accumulate(black_box(&mut accumulator), black_box(&gradient), 0)
                .unwrap_or_else(|_| accumulator.fill(0));
        });
        accumulator.fill(1 << 39);
        let zeros = vec![0_i64; length];
        measure(&mut group, "add i64", 24 * length, || {
            black_box(add(black_box(&mut accumulator), black_box(&zeros))).ok();
        });
        measure(&mut group, "mean", 12 * length, || {
            black_box(grid.mean(black_box(&accumulator), 3, black_box(&mut float_sum))).ok();
        });
        group.finish();
    }
}

fn steps(criterion: &mut Criterion) {
    for length in LENGTHS {
        let mut group = criterion.benchmark_group(format!("{length}"));
        group.sample_size(30);
        let mut gradient = gradient(length);
        let mut parameters = vec![0.1_f32; length];

        measure(&mut group, "global norm", 4 * length, || {
            black_box(clip_by_global_norm(black_box(&mut gradient), f64::MAX));
        });
        for (name, bytes_moved) in [("momentum", 20), ("adam", 28)] {
            let optimizer: Optimizer = match name.parse() {
                Ok(optimizer) => optimizer,
                Err(error) => panic!("{error}"),
            };
            let mut slots = vec![vec![0.0_f32; length]; optimizer.slots()];
            let mut slots: Vec<&mut [f32]> = slots.iter_mut().map(Vec::as_mut_slice).collect();
            measure(&mut group, name, bytes_moved * length, || {
                black_box(optimizer.step(
                    100,
                    1e-6,
                    black_box(&mut parameters),
                    black_box(&mut slots),
                    black_box(&gradient),
                ))
                .ok();
            });
        }
        group.finish();
    }
}

criterion_group!(benches, sums, steps);
criterion_main!(benches);
