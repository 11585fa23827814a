//! Which work a round consists of.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;

use peerless_protocol::{
    DatasetSpec, Digest, EpochOrder, EvaluationSpec, LearningRate, RoundPlan, RunSpec, SPEC_VERSION, SpecError,
    UnitKind, UnitSet, evaluation_samples, unit_seed,
};
use proptest::prelude::*;

fn spec() -> RunSpec {
    RunSpec {
        version: SPEC_VERSION,
        model: "lenet5".into(),
        dataset: DatasetSpec { name: "mnist".into(), digest: Digest([1; 32]), train_samples: 1000, test_samples: 95 },
        seed: 42,
        units_per_round: 3,
        samples_per_unit: 16,
        rounds: 50,
        optimizer: "adam".parse().unwrap(),
        learning_rate: LearningRate::constant(0.1),
        clip_norm: None,
        fraction_bits: 40,
        evaluation: EvaluationSpec { every_rounds: 20, samples_per_unit: 10 },
        early_stopping: None,
        until_correct: None,
    }
}

#[test]
fn an_epoch_names_each_training_sample_at_most_once_and_misses_only_the_last_incomplete_batch() {
    let spec = spec();
    let order = EpochOrder::new(&spec, 0);
    let mut seen = BTreeSet::new();
    for round in 0..spec.rounds_per_epoch() {
        for unit in 0..spec.units_per_round {
            let samples = order.samples(&spec, round, unit);
            assert_eq!(samples.len(), 16);
            assert!(samples.iter().all(|sample| *sample < 1000 && seen.insert(*sample)), "round {round}, unit {unit}");
        }
    }
    assert_eq!(seen.len(), 1000 / 48 * 48);
}

#[test]
fn epochs_and_seeds_give_different_orders_and_the_same_seed_the_same() {
    let spec = spec();
    let first = |seed, epoch| EpochOrder::new(&RunSpec { seed, ..spec.clone() }, epoch).samples(&spec, 0, 0).to_vec();
    assert_eq!(first(42, 0), first(42, 0));
    assert_ne!(first(42, 0), first(42, 1));
    assert_ne!(first(42, 0), first(43, 0));
}

#[test]
fn the_order_of_an_epoch_is_part_of_the_format() {
    // A change of these numbers changes every model that was ever trained.
    assert_eq!(EpochOrder::new(&spec(), 3).samples(&spec(), 60, 1)[..4], [405, 533, 434, 144]);
}

#[test]
fn a_unit_that_the_round_does_not_have_names_no_samples() {
    let order = EpochOrder::new(&spec(), 0);
    assert!(order.samples(&spec(), 19, 50).is_empty());
}

#[test]
fn evaluation_units_cover_the_test_set_without_overlap() {
    let spec = spec();
    let samples: Vec<u32> = (0..spec.evaluation_units()).flat_map(|unit| evaluation_samples(&spec, unit)).collect();
    assert_eq!(samples, (0..95).collect::<Vec<_>>());
    assert!(evaluation_samples(&spec, u32::MAX).is_empty());
}

#[test]
fn a_state_is_evaluated_at_multiples_of_the_interval_and_at_the_end() {
    let plan = |round| RoundPlan::new(&spec(), round);
    assert_eq!((plan(0).gradient_units, plan(0).evaluation_units), (3, 0));
    assert_eq!((plan(20).gradient_units, plan(20).evaluation_units), (3, 10));
    assert_eq!((plan(50).gradient_units, plan(50).evaluation_units), (0, 10));
    assert_eq!((plan(20).kind(2), plan(20).kind(3)), (UnitKind::Gradient, UnitKind::Evaluation));
}

#[test]
fn each_unit_of_each_round_has_a_seed_of_its_own() {
    let spec = spec();
    let seeds: BTreeSet<u64> =
        (0..20).flat_map(|round| (0..20).map(move |unit| (round, unit))).map(|(r, u)| unit_seed(&spec, r, u)).collect();
    assert_eq!(seeds.len(), 400);
}

#[test]
fn specs_that_cannot_be_run_are_refused_with_the_field() {
    let field = |spec: RunSpec| match spec.validate() {
        Err(SpecError::OutOfRange { field, .. }) => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(RunSpec { units_per_round: 0, ..spec() }), "units_per_round");
    assert_eq!(field(RunSpec { samples_per_unit: 1001, ..spec() }), "samples_per_unit");
    assert_eq!(field(RunSpec { units_per_round: 1000, ..spec() }), "units_per_round x samples_per_unit");
    assert_eq!(field(RunSpec { rounds: 0, ..spec() }), "rounds");
    assert_eq!(field(RunSpec { model: "../etc".into(), ..spec() }), "model");
    assert_eq!(field(RunSpec { clip_norm: Some(f32::NAN), ..spec() }), "clip_norm");
    assert_eq!(field(RunSpec { fraction_bits: 60, ..spec() }), "fraction_bits");
    assert_eq!(field(RunSpec { until_correct: Some(96), ..spec() }), "until_correct");
}

#[test]
fn a_spec_survives_encoding_and_its_id_depends_on_every_field() {
    let decoded = RunSpec::decode(&spec().encode()).unwrap();
    assert_eq!(decoded.id(), spec().id());
    assert_ne!(RunSpec { seed: 43, ..spec() }.id(), spec().id());
    assert_ne!(RunSpec { clip_norm: Some(1.0), ..spec() }.id(), spec().id());
    let newer = RunSpec { version: SPEC_VERSION + 1, ..spec() }.encode();
    assert_eq!(RunSpec::decode(&newer), Err(SpecError::Version { found: SPEC_VERSION + 1 }));
}

proptest! {
    #[test]
    fn unit_sets_behave_like_sets(a in prop::collection::btree_set(0..300_u32, 0..40), b in prop::collection::btree_set(0..300_u32, 0..40)) {
        let (x, y): (UnitSet, UnitSet) = (a.iter().copied().collect(), b.iter().copied().collect());
        prop_assert_eq!(x.iter().collect::<BTreeSet<_>>(), a.clone());
        prop_assert_eq!(x.len() as usize, a.len());
        prop_assert_eq!(x.union(&y), a.union(&b).copied().collect());
        prop_assert_eq!(x.difference(&y), a.difference(&b).copied().collect());
        prop_assert_eq!(x.is_disjoint(&y), a.is_disjoint(&b));
        prop_assert_eq!(x.is_subset(&y), a.is_subset(&b));
        let highest = a.last().map_or(0, |unit| unit + 1);
        prop_assert!(x.is_valid(highest));
        prop_assert!(highest == 0 || !x.is_valid(highest - 1));
    }

    #[test]
    fn removing_units_leaves_the_canonical_form(units in prop::collection::vec(0..300_u32, 1..40), kept in 0..40_usize) {
        let mut set: UnitSet = units.iter().copied().collect();
        let kept: BTreeSet<u32> = units.iter().copied().take(kept).collect();
        units.iter().filter(|unit| !kept.contains(unit)).for_each(|unit| set.remove(*unit));
        prop_assert_eq!(set, kept.into_iter().collect());
    }
}
