use std::fs;
use std::path::{Path, PathBuf};

use peerless_aggregation::SumError;
use peerless_protocol::{Digest, RoundPlan, UnitSet};
use peerless_store::{Cover, Part, Payload, PayloadError, PayloadFormat, RoundSums, SumsError};
use proptest::prelude::*;
use tempfile::TempDir;

use crate::fixtures::{Random, layout, spec};

const UNITS: u32 = 8;
const PLAN: RoundPlan = RoundPlan { gradient_units: UNITS, evaluation_units: 2 };

fn format() -> PayloadFormat {
    PayloadFormat::new(&spec(), &layout(50)).unwrap().with_shards(7)
}

fn sums() -> RoundSums {
    let mut sums = RoundSums::new(format(), 1 << 20);
    sums.begin(&PLAN).unwrap();
    sums
}

fn gradient(unit: u32) -> Vec<f32> {
    let mut random = Random(u64::from(unit));
    (0..format().elements()).map(|_| random.next() as i64 as f32 / 1e17).collect()
}

fn write(directory: &Path, unit: u32, gradient: &[f32]) -> (PathBuf, Digest) {
    let bytes: Vec<u8> = gradient.iter().flat_map(|element| element.to_le_bytes()).collect();
    let path = directory.join(format!("unit{unit}"));
    fs::write(&path, &bytes).unwrap();
    (path, Digest::of(&bytes))
}

fn add(sums: &mut RoundSums, directory: &Path, unit: u32) {
    let (path, digest) = write(directory, unit, &gradient(unit));
    sums.add_unit(unit, &path, digest).unwrap();
}

fn set(units: impl IntoIterator<Item = u32>) -> UnitSet {
    units.into_iter().collect()
}

/// What a peer that computed just `units` announces.
fn contribution(directory: &Path, units: &UnitSet) -> (Digest, Payload) {
    let mut sums = sums();
    for unit in units.iter().filter(|unit| *unit < UNITS) {
        add(&mut sums, directory, unit);
    }
    let (digest, payload) = sums.sum_of(units).unwrap().unwrap();
    (digest, Payload::clone(&payload))
}

fn total<'a>(sums: &'a mut RoundSums, cover: &[Part]) -> Result<Option<&'a [i64]>, SumsError> {
    sums.total(&Cover::Parts(cover.to_vec()))
}

/// The total of the round at a peer that computed everything itself.
fn whole(directory: &Path) -> Vec<i64> {
    contribution(directory, &set(0..UNITS)).1.sums().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn the_total_does_not_depend_on_who_computed_what_and_when_it_arrived(
        owners in prop::collection::vec(0_u32..4, UNITS as usize),
        early in prop::collection::vec(any::<bool>(), 4),
        backups in prop::collection::vec(0..UNITS, 0..3),
    ) {
        let directory = TempDir::new().unwrap();
        let mut sums = sums();
        let of = |peer: u32| set((0..UNITS).filter(|unit| owners[*unit as usize] == peer));
        for unit in of(0).iter() {
            add(&mut sums, directory.path(), unit);
        }
        let mut cover: Vec<Part> = Vec::new();
        if let Some((digest, _)) = sums.sum_of(&of(0)).unwrap() {
            cover.push((of(0), digest));
        }
        for peer in (1..4).filter(|peer| !of(*peer).is_empty()) {
            // Some peers first announce something that overlaps and that the cover does not use.
            if early[peer as usize] {
                let units = set(0..=peer);
                let (digest, payload) = contribution(directory.path(), &units);
                sums.hold(digest, payload).unwrap();
                sums.accumulate(&units, digest).unwrap();
            }
            let (digest, payload) = contribution(directory.path(), &of(peer));
            sums.hold(digest, payload).unwrap();
            sums.accumulate(&of(peer), digest).unwrap();
            cover.push((of(peer), digest));
        }
        // Own units that are computed after the sum was announced do not change what was announced.
        for unit in backups {
            add(&mut sums, directory.path(), unit);
        }
        prop_assert_eq!(sums.total(&Cover::Parts(cover)).unwrap().unwrap(), whole(directory.path()));
    }

    #[test]
    fn a_total_put_together_from_shards_is_the_total(
        owners in prop::collection::vec(0_u32..4, UNITS as usize),
        whole_from in 0_u32..4,
    ) {
        let directory = TempDir::new().unwrap();
        let of = |peer: u32| set((0..UNITS).filter(|unit| owners[*unit as usize] == peer));
        let mut receiver = sums();
        let mut covers: Vec<Vec<Part>> = vec![Vec::new(); format().shape().shards as usize];
        for peer in (0..4).filter(|peer| !of(*peer).is_empty()) {
            let mut sender = sums();
            of(peer).iter().for_each(|unit| add(&mut sender, directory.path(), unit));
            // One peer sends its sum whole, the others shard by shard.
            if peer == whole_from {
                let (digest, payload) = sender.sum_of(&of(peer)).unwrap().unwrap();
                receiver.hold(digest, Payload::clone(&payload)).unwrap();
                covers.iter_mut().for_each(|cover| cover.push((of(peer), digest)));
            } else {
                for (cover, (digest, payload)) in covers.iter_mut().zip(sender.split(&of(peer)).unwrap()) {
                    receiver.hold(digest, Payload::clone(&payload)).unwrap();
                    cover.push((of(peer), digest));
                }
            }
        }
        let totals: Vec<Digest> =
            (0..).zip(&covers).map(|(shard, cover)| receiver.combine(shard, cover).unwrap().0).collect();
        prop_assert_eq!(receiver.total(&Cover::Shards(totals)).unwrap().unwrap(), whole(directory.path()));
    }

    #[test]
    fn the_sum_of_a_subset_is_what_a_peer_with_just_these_units_announces(
        subset in prop::collection::btree_set(0..UNITS, 1..UNITS as usize),
    ) {
        let directory = TempDir::new().unwrap();
        let mut sums = sums();
        (0..UNITS).for_each(|unit| add(&mut sums, directory.path(), unit));
        let subset = set(subset);
        let (digest, payload) = sums.sum_of(&subset).unwrap().unwrap();
        let (expected, _) = contribution(directory.path(), &subset);
        prop_assert_eq!(digest, expected);
        prop_assert_eq!(sums.payload(&digest).unwrap(), payload);
    }

    #[test]
    fn arbitrary_bytes_are_no_payload(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        let digest = Digest::of(&bytes);
        prop_assert!(Payload::decode(&bytes, &format(), digest).is_err());
    }
}

#[test]
fn a_payload_survives_being_sent() {
    let payload = format().encode(&vec![-3; format().elements()]).unwrap();
    let bytes = payload.as_bytes();
    assert_eq!(bytes.len(), format().bytes());
    assert_eq!(Payload::decode(bytes, &format(), payload.digest()), Ok(payload.clone()));
    let mut buffer = format().buffer();
    buffer.bytes_mut().copy_from_slice(bytes);
    assert_eq!(buffer.finish(&format(), payload.digest()), Ok(payload));
}

#[test]
fn payloads_of_another_grid_model_or_content_are_refused() {
    let payload = format().zeros();
    let other_grid =
        PayloadFormat::new(&peerless_protocol::RunSpec { fraction_bits: 30, ..spec() }, &layout(50)).unwrap();
    let other_model = PayloadFormat::new(&spec(), &layout(51)).unwrap();
    let decode = |format, digest| Payload::decode(payload.as_bytes(), format, digest);
    assert!(matches!(decode(&other_grid, payload.digest()), Err(PayloadError::Header { .. })));
    assert!(matches!(decode(&other_model, payload.digest()), Err(PayloadError::Length { .. })));
    assert!(matches!(decode(&format(), Digest::of(b"")), Err(PayloadError::Digest { .. })));
    assert!(matches!(Payload::decode_verified(payload.as_bytes(), &other_grid), Err(PayloadError::Header { .. })));
    assert!(matches!(Payload::decode_verified(payload.as_bytes(), &other_model), Err(PayloadError::Length { .. })));
    assert_eq!(Payload::decode_verified(payload.as_bytes(), &format()), Ok(payload.clone()));
    let buffer = other_model.buffer();
    assert!(matches!(buffer.finish(&format(), payload.digest()), Err(PayloadError::Length { .. })));
}

#[test]
fn a_truncated_file_is_refused_with_its_length() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    let (path, digest) = write(directory.path(), 3, &gradient(3));
    fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(100).unwrap();
    let error = sums.add_unit(3, &path, digest).unwrap_err();
    assert!(matches!(error, SumsError::GradientLength { unit: 3, found: 100, expected: 420, .. }), "{error}");
    fs::remove_file(&path).unwrap();
    assert!(matches!(sums.add_unit(3, &path, digest), Err(SumsError::File(_))));
    assert!(sums.own_units().is_empty());
}

#[test]
fn a_gradient_that_cannot_be_added_leaves_the_sum_as_it_was() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    (0..UNITS - 1).for_each(|unit| add(&mut sums, directory.path(), unit));
    let mut bad = gradient(7);
    bad[90] = f32::NAN;
    let (path, digest) = write(directory.path(), 7, &bad);
    let error = sums.add_unit(7, &path, digest).unwrap_err();
    assert!(matches!(error, SumsError::Sum(SumError::NotANumber { unit: 7, index: 90 })), "{error}");
    let error = sums.add_unit(7, &path, Digest::of(b"")).unwrap_err();
    assert!(matches!(error, SumsError::GradientDigest { unit: 7, .. }), "{error}");
    add(&mut sums, directory.path(), 7);
    let (digest, payload) = sums.sum_of(&set(0..UNITS)).unwrap().unwrap();
    assert_eq!(payload.sums(), whole(directory.path()));
    assert_eq!(total(&mut sums, &[(set(0..UNITS), digest)]).unwrap().unwrap(), whole(directory.path()));
}

#[test]
fn a_second_result_of_a_unit_is_removed_if_equal_and_an_error_if_not() {
    let directory = TempDir::new().unwrap();
    let other = TempDir::new().unwrap();
    let mut sums = sums();
    add(&mut sums, directory.path(), 2);
    let (path, digest) = write(other.path(), 2, &gradient(2));
    sums.add_unit(2, &path, digest).unwrap();
    assert!(!path.exists());
    let (path, digest) = write(other.path(), 2, &gradient(3));
    assert!(matches!(sums.add_unit(2, &path, digest), Err(SumsError::NotDeterministic { unit: 2, .. })));
    let (_, payload) = sums.sum_of(&set([2])).unwrap().unwrap();
    assert_eq!(*payload, contribution(directory.path(), &set([2])).1);
}

#[test]
fn what_is_no_cover_is_refused() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    (0..4).for_each(|unit| add(&mut sums, directory.path(), unit));
    let (own, _) = sums.sum_of(&set(0..4)).unwrap().unwrap();
    let own = (set(0..4), own);
    let absent = (set(4..UNITS), Digest::of(b"absent"));
    let missing = total(&mut sums, std::slice::from_ref(&own)).unwrap_err();
    assert!(matches!(missing, SumsError::NotACover { reason: "units are missing", .. }));
    let overlapping = total(&mut sums, &[own.clone(), (set(3..UNITS), own.1)]).unwrap_err();
    assert!(matches!(overlapping, SumsError::NotACover { reason: "they overlap", .. }));
    assert!(matches!(total(&mut sums, &[own, absent]), Err(SumsError::MissingPayload { .. })));
    assert!(matches!(sums.sum_of(&set(3..6)), Err(SumsError::MissingUnit { unit: 4 })));
    assert!(matches!(sums.add_unit(UNITS, directory.path(), Digest::of(b"")), Err(SumsError::UnknownUnit { .. })));
}

#[test]
fn equal_sums_of_different_units_count_twice() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    sums.begin(&RoundPlan { gradient_units: 2, evaluation_units: 0 }).unwrap();
    let (path, digest) = write(directory.path(), 0, &gradient(0));
    sums.add_unit(0, &path, digest).unwrap();
    let (digest, payload) = sums.sum_of(&set([0])).unwrap().unwrap();
    sums.accumulate(&set([1]), digest).unwrap();
    let total = total(&mut sums, &[(set([0]), digest), (set([1]), digest)]).unwrap().unwrap();
    assert_eq!(total, payload.sums().iter().map(|sum| 2 * sum).collect::<Vec<_>>());
}

#[test]
fn evaluation_units_have_no_sum() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    assert!(sums.sum_of(&set([UNITS, UNITS + 1])).unwrap().is_none());
    (0..UNITS).for_each(|unit| add(&mut sums, directory.path(), unit));
    let (digest, _) = sums.sum_of(&set(0..=UNITS)).unwrap().unwrap();
    let evaluated = (set([UNITS + 1]), Digest::of(b"nothing"));
    assert!(total(&mut sums, &[(set(0..=UNITS), digest), evaluated.clone()]).unwrap().is_some());
    sums.begin(&RoundPlan { gradient_units: 0, evaluation_units: 2 }).unwrap();
    assert!(total(&mut sums, &[evaluated]).unwrap().is_none());
}

#[test]
fn a_round_starts_empty_and_without_the_files_of_the_one_before() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    (0..UNITS).for_each(|unit| add(&mut sums, directory.path(), unit));
    let (first, _) = sums.sum_of(&set(0..UNITS)).unwrap().unwrap();
    sums.drop_payloads(&[first]);
    assert!(sums.payload(&first).is_none());
    sums.begin(&PLAN).unwrap();
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    assert!(sums.own_units().is_empty());
    (0..UNITS).for_each(|unit| add(&mut sums, directory.path(), unit));
    assert_eq!(sums.sum_of(&set(0..UNITS)).unwrap().unwrap().0, first);
}

#[test]
fn payloads_beyond_the_memory_limit_are_refused() {
    let format = format();
    let mut sums = RoundSums::new(format, 2 * format.bytes() as u64);
    let hold = |sums: &mut RoundSums, value: i64| {
        let payload = format.encode(&vec![value; format.elements()]).unwrap();
        sums.hold(payload.digest(), payload)
    };
    hold(&mut sums, 1).unwrap();
    hold(&mut sums, 2).unwrap();
    hold(&mut sums, 2).unwrap();
    assert!(matches!(hold(&mut sums, 3), Err(SumsError::Memory { .. })));
    let digest = format.encode(&vec![1; format.elements()]).unwrap().digest();
    sums.drop_payloads(&[digest]);
    hold(&mut sums, 3).unwrap();
}

#[test]
fn shards_that_are_missing_incomplete_or_of_another_length_are_refused() {
    let directory = TempDir::new().unwrap();
    let mut sums = sums();
    (0..UNITS).for_each(|unit| add(&mut sums, directory.path(), unit));
    let shards = sums.split(&set(0..UNITS)).unwrap();
    let digests: Vec<Digest> = shards.iter().map(|(digest, _)| *digest).collect();
    let missing = sums.total(&Cover::Shards(digests[1..].to_vec())).unwrap_err();
    assert!(matches!(missing, SumsError::NotACover { .. }), "{missing}");
    let incomplete = sums.combine(0, &[(set(1..UNITS), digests[0])]).unwrap_err();
    assert!(matches!(incomplete, SumsError::NotACover { .. }), "{incomplete}");
    sums.drop_payloads(&digests[..1]);
    let absent = sums.combine(0, &[(set(0..UNITS), digests[0])]).unwrap_err();
    assert!(matches!(absent, SumsError::MissingPayload { .. }), "{absent}");
}
