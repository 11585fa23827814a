//! Fashion-MNIST and CIFAR-10 through the real puller. Without their package clients a test says so and ends.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use peerless_training::datasets::{
    Augmentation, ByteRanges, Dataset, DatasetError, PullOptions, Split, dataset, default_dir, files, pull, verify,
};

/// The opened dataset, pulled when it is not there yet. `None` where no source has it.
fn open(name: &str) -> Option<Dataset> {
    match pull(name, &PullOptions::default(), &mut |event| eprintln!("{event:?}")) {
        Ok(_) => Some(Dataset::open(name, &default_dir()).unwrap()),
        Err(error @ DatasetError::NoSource { .. }) => {
            println!("SKIPPED: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn label_counts(dataset: &mut Dataset, split: Split, samples: u32) -> [u32; 10] {
    let (_, labels) = dataset.read(split, &(0..samples).collect::<Vec<_>>()).unwrap();
    labels.iter().fold([0; 10], |mut counts, &label| {
        counts[usize::from(label)] += 1;
        counts
    })
}

/// Mean and variance of a channel over some samples.
fn moments(values: &[f32], [channels, height, width]: [usize; 3], channel: usize) -> (f32, f32) {
    let planes = values.chunks(height * width).skip(channel).step_by(channels);
    let all: Vec<f32> = planes.flatten().copied().collect();
    let mean = all.iter().sum::<f32>() / all.len() as f32;
    (mean, all.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / all.len() as f32)
}

#[test]
fn fashion_mnist_is_complete_balanced_and_normalised() {
    let Some(mut fashion) = open("fashion-mnist") else { return };
    verify("fashion-mnist", &default_dir()).unwrap();
    assert_eq!(label_counts(&mut fashion, Split::Train, 60_000), [6_000; 10]);
    assert_eq!(label_counts(&mut fashion, Split::Test, 10_000), [1_000; 10]);
    let (values, labels) = fashion.read(Split::Train, &(0..2_000).collect::<Vec<_>>()).unwrap();
    assert_eq!(labels[..4], [9, 0, 0, 3]);
    let (mean, variance) = moments(&values, [1, 28, 28], 0);
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
}

#[test]
fn cifar10_is_complete_balanced_and_normalised() {
    let Some(mut cifar) = open("cifar10") else { return };
    verify("cifar10", &default_dir()).unwrap();
    assert_eq!(label_counts(&mut cifar, Split::Train, 50_000), [5_000; 10]);
    assert_eq!(label_counts(&mut cifar, Split::Test, 10_000), [1_000; 10]);
    // Airplane, automobile, bird, cat, deer, dog, frog, horse, ship, truck: a frog and two trucks come first.
    let (values, labels) = cifar.read(Split::Train, &(0..3_000).collect::<Vec<_>>()).unwrap();
    assert_eq!(labels[..3], [6, 9, 9]);
    // The frog's first red, green and blue pixel are 59, 62 and 63.
    let first = |channel: usize, byte: f32, mean: f32, deviation: f32| {
        assert_eq!(values[channel * 1024], (byte / 255.0 - mean) / deviation);
    };
    first(0, 59.0, 0.4914, 0.2470);
    first(1, 62.0, 0.4822, 0.2435);
    first(2, 63.0, 0.4465, 0.2616);
    for channel in 0..3 {
        let (mean, variance) = moments(&values, [3, 32, 32], channel);
        assert!(mean.abs() < 0.05 && (variance - 1.0).abs() < 0.05, "channel {channel}: {mean} {variance}");
    }
}

#[test]
fn samples_to_train_on_are_augmented_by_the_units_seed_and_those_of_evaluations_are_not() {
    let (Some(mut cifar), Some(mut plain)) = (open("cifar10"), open("cifar10-plain")) else { return };
    let samples: Vec<u32> = (0..64).map(|index| index * 769 % 50_000).collect();
    let (original, labels) = plain.read(Split::Train, &samples).unwrap();
    let (augmented, same_labels) = cifar.read_augmented(&samples, 7).unwrap();
    assert_eq!(labels, same_labels);
    assert_eq!(cifar.read_augmented(&samples, 7).unwrap().0, augmented);
    assert_ne!(cifar.read_augmented(&samples, 8).unwrap().0, augmented);
    let changed = augmented.chunks(3072).zip(original.chunks(3072)).filter(|(now, before)| now != before).count();
    assert!(changed > 56, "{changed} of 64 images were changed");
    assert_eq!(plain.read_augmented(&samples, 7).unwrap().0, original, "a plain dataset was augmented");
    let test: Vec<u32> = (0..64).collect();
    assert_eq!(cifar.read(Split::Test, &test).unwrap(), plain.read(Split::Test, &test).unwrap());
}

#[test]
fn both_names_of_cifar10_have_the_same_files_but_are_different_specs() {
    let (augmented, plain) = (dataset("cifar10").unwrap(), dataset("cifar10-plain").unwrap());
    assert_eq!((augmented.folder, augmented.digest), (plain.folder, plain.digest));
    assert_eq!(augmented.augmentation, Augmentation::CropAndFlip { padding: 4 });
    assert_ne!(augmented.spec(), plain.spec());
}

/// Bytes that were read of each file.
type Counts = Arc<Mutex<BTreeMap<String, usize>>>;

/// Reads pieces of the files that are here, and counts the bytes.
#[derive(Debug)]
struct Pieces(Counts);

impl ByteRanges for Pieces {
    fn read(&mut self, name: &str, length: u64, offsets: &[u64], bytes: &mut [u8]) -> Result<(), DatasetError> {
        let file = File::open::<&PathBuf>(&files("cifar10", &default_dir())?[name]).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
        *self.0.lock().unwrap().entry(name.to_owned()).or_default() += bytes.len();
        let size = bytes.len() / offsets.len();
        for (offset, piece) in offsets.iter().zip(bytes.chunks_exact_mut(size)) {
            file.read_exact_at(piece, *offset).unwrap();
        }
        Ok(())
    }
}

#[test]
fn of_a_dataset_elsewhere_only_the_samples_of_a_unit_are_read() {
    let Some(mut here) = open("cifar10") else { return };
    let read = Counts::default();
    let mut elsewhere = Dataset::elsewhere("cifar10", Box::new(Pieces(Arc::clone(&read)))).unwrap();
    let samples = [49_999, 0, 10_000, 1, 25_000];
    assert_eq!(elsewhere.read_augmented(&samples, 3).unwrap(), here.read_augmented(&samples, 3).unwrap());
    let test: Vec<u32> = (250..500).collect();
    assert_eq!(elsewhere.read(Split::Test, &test).unwrap(), here.read(Split::Test, &test).unwrap());
    let expected =
        [("1", 2), ("2", 1), ("3", 1), ("5", 1)].map(|(n, count)| (format!("data_batch_{n}.bin"), count * 3_073));
    let expected = expected.into_iter().chain([("test_batch.bin".to_owned(), 250 * 3_073)]).collect();
    assert_eq!(*read.lock().unwrap(), expected);
    assert!(matches!(elsewhere.read(Split::Train, &[50_000]), Err(DatasetError::NoSample { sample: 50_000, .. })));
}
