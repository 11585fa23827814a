use peerless_aggregation::FixedPoint;
use redis::cmd;

use crate::fixtures::{Database, FRACTION_BITS, GRID, Random, add, exact_sum, f32_bytes, mean, sum_bytes};

/// Gradients of these units under `g:UNIT`.
fn write_gradients(database: &mut Database, random: &mut Random, units: &[u32], length: usize) -> Vec<Vec<f32>> {
    let gradients: Vec<_> = units.iter().map(|_| random.vector(length)).collect();
    for (unit, gradient) in units.iter().zip(&gradients) {
        database.set(&format!("g:{unit}"), &f32_bytes(gradient));
    }
    gradients
}

#[test]
fn sums_and_means_are_bit_for_bit_those_of_a_peer() {
    let Some(mut database) = Database::in_memory() else { return };
    let mut random = Random::new();
    for length in [1, 2, 16, 61, 4096, 4097, 20_011] {
        database.run::<()>(&cmd("FLUSHALL"));
        let fraction_bits = 8 + u32::try_from(random.below(33)).unwrap();
        let grid = FixedPoint::new(fraction_bits).unwrap();
        let mut units: Vec<u32> = (0..21).map(|i| i * 7 + u32::try_from(random.below(7)).unwrap()).collect();
        units.truncate(1 + random.below(20));
        let gradients = write_gradients(&mut database, &mut random, &units, length);
        let sums = exact_sum(grid, &gradients);
        let means = f32_bytes(&mean(grid, &sums, units.len() as u64));

        let mut shuffled = units.clone();
        random.shuffle(&mut shuffled);
        let mut rest = &shuffled[..];
        while !rest.is_empty() {
            let (now, later) = rest.split_at(1 + random.below(rest.len()));
            assert_eq!(database.run::<usize>(&add(fraction_bits, "sum", now)), now.len());
            rest = later;
        }
        assert_eq!(database.get("sum"), sum_bytes(fraction_bits, &sums, &units), "{length} elements");

        assert_eq!(database.run::<usize>(cmd("PEERLESS.MEAN").arg("mean").arg("sum")), length);
        assert_eq!(database.get("mean"), means);
        let keys: Vec<String> = units.iter().map(|unit| format!("g:{unit}")).collect();
        assert_eq!(database.run::<usize>(cmd("PEERLESS.AVERAGE").arg(fraction_bits).arg("mean").arg(&keys)), length);
        assert_eq!(database.get("mean"), means);
        database.run::<()>(cmd("PEERLESS.MEAN").arg("mean").arg("sum").arg(7));
        assert_eq!(database.get("mean"), f32_bytes(&mean(grid, &sums, 7)));

        let subset = 1 + random.below(units.len());
        let sum: Vec<u8> = database.run(cmd("PEERLESS.SUM").arg(fraction_bits).arg(&keys[..subset]));
        assert_eq!(sum, sum_bytes(fraction_bits, &exact_sum(grid, &gradients[..subset]), &[]));
    }
}

#[test]
fn a_unit_that_is_added_twice_counts_once() {
    let Some(mut database) = Database::in_memory() else { return };
    let gradients = write_gradients(&mut database, &mut Random::new(), &[0, 9, 300], 100);
    let add = |units: &[u32]| add(FRACTION_BITS, "sum", units);
    for (units, added) in [(&[9][..], 1), (&[9], 0), (&[300, 9], 1), (&[0, 9, 300], 1), (&[0, 9, 300], 0)] {
        assert_eq!(database.run::<i64>(&add(units)), added, "{units:?}");
    }
    assert_eq!(database.get("sum"), sum_bytes(FRACTION_BITS, &exact_sum(GRID, &gradients), &[0, 9, 300]));
    // A unit that is in needs no gradient any more.
    database.run::<()>(cmd("DEL").arg("g:9"));
    assert_eq!(database.run::<i64>(&add(&[9])), 0);
    let info: (String, u32, String, usize, String, Vec<u32>) = database.run(cmd("PEERLESS.INFO").arg("sum"));
    assert_eq!((info.1, info.3, info.5), (FRACTION_BITS, 100, vec![0, 9, 300]));
}

#[test]
fn sums_of_different_units_are_combined_once() {
    let Some(mut database) = Database::in_memory() else { return };
    let gradients = write_gradients(&mut database, &mut Random::new(), &[0, 1, 2, 200], 4100);
    for (sum, units) in [("a", &[0, 200][..]), ("b", &[1]), ("c", &[2])] {
        database.run::<()>(&add(FRACTION_BITS, sum, units));
    }
    let all = sum_bytes(FRACTION_BITS, &exact_sum(GRID, &gradients), &[0, 1, 2, 200]);
    assert_eq!(database.run::<i64>(cmd("PEERLESS.COMBINE").arg("new").arg(&["a", "b", "c"])), 4);
    assert_eq!(database.get("new"), all);
    assert_eq!(database.run::<i64>(cmd("PEERLESS.COMBINE").arg("b").arg(&["c"])), 2);
    assert_eq!(database.run::<i64>(cmd("PEERLESS.COMBINE").arg("b").arg(&["a"])), 4);
    assert_eq!(database.get("b"), all);
    let before = database.dump();
    let error = database.refused(cmd("PEERLESS.COMBINE").arg("b").arg(&["a"]));
    assert_eq!(error.code(), Some("UNITTWICE"), "{error}");
    assert_eq!(database.dump(), before);
}

#[test]
fn gradients_of_any_encoding_of_the_server_are_read() {
    let Some(mut database) = Database::in_memory() else { return };
    // Kept as an integer, within the key's object, and as a string of its own.
    for digits in ["1234", "12345678", "-123456789012345", &"12345678".repeat(10)] {
        database.set("g", digits.as_bytes());
        let expected: Vec<f32> = digits.as_bytes().as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        database.run::<()>(cmd("PEERLESS.AVERAGE").arg(FRACTION_BITS).arg("mean").arg("g"));
        let sums = exact_sum(GRID, [&expected]);
        assert_eq!(database.get("mean"), f32_bytes(&mean(GRID, &sums, 1)), "{digits}");
        assert_eq!(database.get("g"), digits.as_bytes());
    }
}

#[test]
fn a_cleared_sum_serves_the_next_round() {
    let Some(mut database) = Database::in_memory() else { return };
    let gradients = write_gradients(&mut database, &mut Random::new(), &[0, 1], 5000);
    database.run::<()>(&add(FRACTION_BITS, "sum", &[0, 1]));
    assert_eq!(database.run::<i64>(cmd("PEERLESS.CLEAR").arg("sum")), 2);
    assert_eq!(database.get("sum")[..16 + 8 * 5000], sum_bytes(FRACTION_BITS, &[0; 5000], &[]));
    assert_eq!(database.run::<i64>(&add(FRACTION_BITS, "sum", &[1])), 1);
    assert_eq!(database.get("sum"), sum_bytes(FRACTION_BITS, &exact_sum(GRID, &gradients[1..]), &[1]));
    assert_eq!(database.run::<i64>(cmd("PEERLESS.CLEAR").arg("nothing")), 0);
}

#[test]
fn the_digest_of_a_value_is_that_of_its_bytes_and_changes_nothing() {
    let Some(mut database) = Database::in_memory() else { return };
    let mut random = Random::new();
    for length in [1, 4097, 300_001] {
        let gradient = f32_bytes(&random.vector(length));
        database.set("g", &gradient);
        let before = database.dump();
        let expected = blake3::hash(&gradient).to_hex().to_string();
        assert_eq!(database.run::<String>(cmd("PEERLESS.DIGEST").arg("g")), expected);
        assert_eq!(database.dump(), before);
    }
    assert_eq!(database.refused(cmd("PEERLESS.DIGEST").arg("nothing")).code(), Some("NOKEY"));
    database.run::<()>(cmd("RPUSH").arg("list").arg("x"));
    assert_eq!(database.refused(cmd("PEERLESS.DIGEST").arg("list")).code(), Some("WRONGTYPE"));
    database.refused(&cmd("PEERLESS.DIGEST"));
}
