//! The dataset's files in the bucket.

use std::collections::BTreeMap;
use std::fs;

use peerless_peer::data_path::{Bucket, BucketConfig, DataPath, DataPathError};
use peerless_protocol::Digest;
use tempfile::TempDir;

use crate::bench::{Bench, bytes, config, peer, random_run, shared};
use crate::weed::Weed;

/// A dataset of two files that no other test has.
struct Data {
    folder: TempDir,
    files: BTreeMap<String, Vec<u8>>,
}

impl Data {
    fn new(seed: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let files = [("images", 100_001), ("labels", 10)];
        let files = files.map(|(name, length)| (name.to_owned(), bytes(length, &format!("{name} of {seed}"))));
        files.iter().for_each(|(name, bytes)| fs::write(folder.path().join(name), bytes).unwrap());
        Self { folder, files: files.into() }
    }

    fn config(&self, weed: &Weed) -> BucketConfig {
        let dataset = self.files.keys().map(|name| (name.clone(), self.folder.path().join(name))).collect();
        BucketConfig { dataset, ..config(weed) }
    }

    fn keys(&self) -> Vec<String> {
        self.files.iter().map(|(name, bytes)| format!("runs/datasets/{}/{name}", Digest::of(bytes))).collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_read_ranges_of_the_dataset_that_peers_write_once_and_leave() {
    let Some(weed) = shared() else { return };
    let data = Data::new("two peers");
    let first = Bench::of(data.config(weed), random_run(), peer(1)).await;
    assert_eq!(first.bucket.snapshot().bytes_out, 100_011);
    let second = Bench::of(data.config(weed), random_run(), peer(2)).await;
    assert_eq!(second.bucket.snapshot().bytes_out, 0, "it was there already");
    let grant = second.offer(&bytes(4000, "state"), "gradient").await;
    for (name, expected) in &data.files {
        let (status, found) = second.get(&grant.places().dataset[name]);
        assert!(status == 206 && found == *expected, "{name}: {status}, {} bytes", found.len());
    }
    assert_ne!(second.put(&grant.places().dataset["labels"], b"others"), 200, "a function may write the dataset");
    first.bucket.close().await;
    second.bucket.close().await;
    let left = weed.objects();
    assert!(data.keys().iter().all(|key| left.contains_key(key)), "{:?} are not in {left:?}", data.keys());
    let evaluation =
        second.bucket.offer(peerless_peer::data_path::Offer { dataset: false, ..second.unit(&[0; 4], "x") });
    assert!(evaluation.await.unwrap().places().dataset.is_empty(), "work without samples gets no right to them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataset_that_got_lost_is_written_again() {
    let Some(weed) = shared() else { return };
    let data = Data::new("a rule that removes old objects");
    let bench = Bench::of(data.config(weed), random_run(), peer(1)).await;
    let mut grant = bench.offer(&bytes(4000, "state"), "gradient").await;
    weed.lose(&data.keys()[0]);
    assert_eq!(bench.get(&grant.places().dataset["images"]).0, 404);
    grant.check().await.unwrap();
    assert!(bench.get(&grant.places().dataset["images"]).1 == data.files["images"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataset_that_is_not_there_is_named() {
    let Some(weed) = shared() else { return };
    let data = Data::new("nowhere");
    fs::remove_file(data.folder.path().join("labels")).unwrap();
    let error = Bucket::open(&data.config(weed), &random_run(), &peer(1)).await.err().unwrap();
    assert!(matches!(&error, DataPathError::File { path, .. } if path.ends_with("labels")), "{error}");
}
