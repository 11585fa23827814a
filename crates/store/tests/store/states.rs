use peerless_aggregation::Optimizer;
use peerless_protocol::{Digest, FinishReason, Layout, LayoutEntry, Role, RunSpec};
use peerless_store::{State, StateError};
use proptest::prelude::*;

use crate::fixtures::{layout, spec, spec_with, state, tally};

fn optimizers() -> impl Strategy<Value = Optimizer> {
    prop::sample::select(Optimizer::NAMES.to_vec()).prop_map(|name| name.parse().unwrap())
}

fn layouts() -> impl Strategy<Value = Layout> {
    let shapes = prop::collection::vec(prop::collection::vec(0_u32..5, 0..4), 0..6);
    (shapes, 0_usize..7).prop_map(|(shapes, parameters)| {
        let mut offset = 0;
        let entries = shapes.into_iter().enumerate().map(|(index, shape)| {
            let role = if index < parameters { Role::Parameter } else { Role::Buffer };
            let entry = LayoutEntry { name: format!("tensor{index}"), shape, offset, role };
            offset += entry.elements();
            entry
        });
        Layout { entries: entries.collect() }
    })
}

fn states() -> impl Strategy<Value = (RunSpec, State)> {
    (optimizers(), layouts(), any::<u32>(), any::<u64>(), any::<Option<i64>>()).prop_map(
        |(optimizer, layout, bits, round, loss)| {
            let spec = spec_with(optimizer);
            let elements = layout.elements();
            // Arbitrary bits, NaNs included: what was trained must come back as it was.
            let value = |index: u64| f32::from_bits(bits.wrapping_mul(index as u32 + 1));
            let mut state = State::initial(&spec, layout, (0..elements).map(value).collect()).unwrap();
            state.slots.iter_mut().for_each(|slot| slot.fill(f32::from_bits(bits)));
            state.header.round = round;
            state.header.training = tally(round, 1, loss.unwrap_or_default());
            state.header.finished = loss.map(|_| FinishReason::EarlyStopping);
            (spec, state)
        },
    )
}

proptest! {
    #[test]
    fn a_state_survives_being_encoded_and_decoded((spec, state) in states()) {
        let bytes = state.encode();
        prop_assert_eq!(bytes.len() as u64, state.encoded_len());
        prop_assert_eq!(state.digest(), Digest::of(&bytes));
        let decoded = State::decode(&bytes, &spec).unwrap();
        // NaNs are equal to nothing, so compare the bytes.
        prop_assert_eq!(decoded.encode(), bytes);
    }

    #[test]
    fn the_vector_lies_at_its_offset((_, state) in states()) {
        let bytes = state.encode();
        let offset = state.vector_offset() as usize;
        prop_assert_eq!(offset % 64, 0);
        let vector: Vec<u8> = state.vector.iter().flat_map(|element| element.to_le_bytes()).collect();
        prop_assert_eq!(&bytes[offset..offset + vector.len()], &vector);
    }

    #[test]
    fn arbitrary_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(State::decode(&bytes, &spec()).is_err());
    }

    #[test]
    fn a_changed_byte_is_refused_or_gives_another_state(
        (spec, state) in states(), at in any::<prop::sample::Index>(), change in 1_u8..,
    ) {
        let mut bytes = state.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        if let Ok(decoded) = State::decode(&bytes, &spec) {
            prop_assert_eq!(decoded.encode(), bytes);
        }
    }

    #[test]
    fn a_truncated_state_is_refused((spec, state) in states(), at in any::<prop::sample::Index>()) {
        let bytes = state.encode();
        prop_assert!(State::decode(&bytes[..at.index(bytes.len())], &spec).is_err());
    }
}

#[test]
fn trailing_bytes_are_refused() {
    let mut bytes = state(&spec(), 4, 1).encode();
    bytes.push(0);
    assert!(matches!(State::decode(&bytes, &spec()), Err(StateError::Length { .. })));
}

#[test]
fn the_state_of_another_run_is_refused() {
    let bytes = state(&spec(), 4, 1).encode();
    let other = RunSpec { seed: 8, ..spec() };
    assert!(matches!(State::decode(&bytes, &other), Err(StateError::OtherRun { .. })));
}

#[test]
fn another_version_is_refused_by_number() {
    let mut bytes = state(&spec(), 4, 1).encode();
    bytes[8] = 9;
    assert!(matches!(State::decode(&bytes, &spec()), Err(StateError::Version { found: 9 })));
}

#[test]
fn a_header_that_claims_more_than_is_there_is_refused_without_allocating_it() {
    let mut bytes = state(&spec(), 4, 1).encode();
    bytes[12..16].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(matches!(State::decode(&bytes, &spec()), Err(StateError::Header(_))));
}

#[test]
fn layouts_that_cannot_be_stored_are_refused() {
    let change = |change: fn(&mut Layout)| {
        let mut layout = layout(4);
        change(&mut layout);
        let vector = vec![0.0; layout.elements().min(100) as usize];
        State::initial(&spec(), layout, vector)
    };
    assert!(change(|_| ()).is_ok());
    let invalid: [fn(&mut Layout); 7] = [
        |layout| layout.entries[1].offset += 1,
        |layout| layout.entries[0].role = Role::Buffer,
        |layout| layout.entries[0].name = layout.entries[1].name.clone(),
        |layout| layout.entries[0].name = "optimizer.slot0.x".into(),
        |layout| layout.entries[0].name = String::new(),
        |layout| layout.entries[2].shape = vec![u32::MAX; 4],
        |layout| layout.entries[2].shape = vec![1; 40],
    ];
    for (number, invalid) in invalid.into_iter().enumerate() {
        let result = change(invalid);
        assert!(matches!(result, Err(StateError::Layout(_))), "case {number}: {result:?}");
    }
}

#[test]
fn a_vector_that_does_not_fit_the_layout_is_refused() {
    let result = State::initial(&spec(), layout(4), vec![0.0; 12]);
    assert!(matches!(result, Err(StateError::Length { found: 12, expected: 13, .. })), "{result:?}");
}

#[test]
fn the_optimizer_starts_with_slots_of_zeros() {
    let state = State::initial(&spec_with("adam".parse().unwrap()), layout(4), vec![1.0; 13]).unwrap();
    assert_eq!(state.slots, vec![vec![0.0; 11]; 2]);
}
