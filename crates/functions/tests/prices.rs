//! Prices and money: exact, in any order, and refused where they make no sense.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use peerless_functions::prices::{Money, Price, PriceError, PriceTable, TableError, Tariff, Usage};
use proptest::prelude::*;

fn price(text: &str) -> Price {
    text.parse().unwrap()
}

/// A tariff that charges the attempts on one platform.
fn tariff(platform: &str, name: &str, memory_mb: Option<u32>) -> Tariff {
    let rate = PriceTable::built_in().unwrap().rate(name, memory_mb).unwrap();
    Tariff { platforms: [(platform.to_owned(), rate)].into(), ..Tariff::default() }
}

#[test]
fn the_built_in_table_has_the_public_list_prices() {
    let table = PriceTable::built_in().unwrap();
    let function = |name: &str| {
        let price = &table.function[name];
        (price.usd_per_gb_second.to_string(), price.usd_per_million_requests.to_string())
    };
    assert_eq!(function("lambda-x86"), ("0.0000166667".into(), "0.2".into()));
    assert_eq!(function("lambda-arm64"), ("0.0000133334".into(), "0.2".into()));
    assert_eq!(table.machine["t2.large"].usd_per_hour, price("0.0928"));
    assert_eq!(table.machine["g4dn.xlarge"].usd_per_hour, price("0.526"));
    assert_eq!(table.bucket["s3"].usd_per_thousand_puts, price("0.005"));
    assert_eq!(table.bucket["s3"].usd_per_thousand_gets, price("0.0004"));
    assert_eq!(table.egress["aws-internet"].usd_per_gb, price("0.09"));
}

#[test]
fn quantities_cost_what_the_units_say() {
    assert_eq!(price("3").of_memory(1024, 1000), price("3").into());
    assert_eq!(price("3").of_memory(512, 2000), price("3").into());
    assert_eq!(price("0.20").of_million(1_000_000), price("0.2").into());
    assert_eq!(price("0.005").of_thousand(1000), price("0.005").into());
    assert_eq!(price("0.09").of_bytes(1 << 30), price("0.09").into());
    assert_eq!(price("0.0928").of_microseconds(3_600_000_000), price("0.0928").into());
    // A third of a picodollar is kept: three of them are one.
    let third = price("0.000000000001").of_microseconds(1_200_000_000);
    assert_eq!([third; 3].into_iter().sum::<Money>(), price("0.000000000001").into());
}

#[test]
fn money_is_rounded_only_when_it_is_printed() {
    let one = price("0.0000166667").of_memory(1769, 1);
    assert_eq!(one.to_string(), "$0.000000");
    assert_eq!(format!("{one:.12}"), "$0.000000028792");
    assert_eq!(one.times(1_000_000_000).decimal(6), "28.792375");
    assert_eq!(Money::from(price("0.0000005")).to_string(), "$0.000001", "half is rounded up");
    assert_eq!(Money::from(price("1234.5")).decimal(0), "1235");
    assert_eq!(serde_json::to_string(&Money::from(price("0.5"))).unwrap(), "\"0.500000000000\"");
}

#[test]
fn an_amount_beyond_all_bounds_saturates_and_exceeds_every_budget() {
    let dearest = price("18000000").of_memory(u32::MAX, u64::MAX);
    assert!(dearest > price("18000000").into());
    assert_eq!(dearest + dearest, dearest);
}

#[test]
fn what_is_no_price_is_refused() {
    for (text, error) in [
        ("", PriceError::NotANumber),
        (".", PriceError::NotANumber),
        ("1e-3", PriceError::NotANumber),
        ("NaN", PriceError::NotANumber),
        ("+1", PriceError::NotANumber),
        ("-0.5", PriceError::Negative),
        ("0.0000000000001", PriceError::TooFine),
        ("18000000.1", PriceError::TooLarge),
        ("99999999999999999999999999", PriceError::TooLarge),
    ] {
        assert_eq!(text.parse::<Price>(), Err(error), "{text:?}");
    }
}

#[test]
fn a_table_with_a_mistake_is_refused_with_file_and_line() {
    let good = "version = 1\n\n[machine.mine]\nusd_per_hour = \"0.1\"\ndate = \"2026-01-31\"\nsource = \"invoice\"\n";
    let table = PriceTable::parse(good, "p.toml").unwrap();
    assert_eq!(table.machine["mine"].usd_per_hour, price("0.1"));
    for (from, to, line, part) in [
        ("usd_per_hour", "usd_per_day", 4, "unknown field `usd_per_day`"),
        ("\"0.1\"", "\"-0.1\"", 4, "negative"),
        ("\"0.1\"", "nan", 4, "decimal number"),
        ("\"0.1\"", "inf", 4, "decimal number"),
        ("\"0.1\"", "true", 4, "dollars"),
        ("date = \"2026-01-31\"\n", "", 3, "missing field `date`"),
        ("2026-01-31", "31.1.2026", 3, "date"),
        ("2026-01-31", "2026-13-01", 3, "date"),
        ("invoice", " ", 3, "no source"),
        ("machine.mine", "machine.\"a:b\"", 3, "no name"),
        ("machine.mine", "machine.\"0.5\"", 3, "no name"),
        ("machine.mine", "machines.mine", 3, "unknown field `machines`"),
    ] {
        let text = good.replacen(from, to, 1);
        match PriceTable::parse(&text, "p.toml").unwrap_err() {
            TableError::Invalid { origin, line: at, message } => {
                assert_eq!((origin.as_str(), at), ("p.toml", line), "{text}: {message}");
                assert!(message.contains(part), "{part:?} is not in {message:?}");
            }
            other => panic!("{other}"),
        }
    }
    let newer = PriceTable::parse(&good.replace("version = 1", "version = 2"), "p.toml").unwrap_err();
    assert!(matches!(newer, TableError::Version { found: 2, .. }));
}

#[test]
fn plain_numbers_mean_the_decimals_that_were_written() {
    let text = "version = 1\n[machine.a]\nusd_per_hour = 0.0000166667\ndate = \"2026-01-01\"\nsource = \"s\"\n";
    assert_eq!(PriceTable::parse(text, "p").unwrap().machine["a"].usd_per_hour, price("0.0000166667"));
}

#[test]
fn own_entries_take_the_place_of_those_with_the_same_name_and_reprice_a_tariff() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("mine.toml");
    let entry = "usd_per_gb_second = \"1\"\nusd_per_million_requests = \"2\"\ndate = \"2026-01-01\"\nsource = \"s\"\n";
    fs::write(&path, format!("version = 1\n[function.lambda-x86]\n{entry}")).unwrap();
    let mine = PriceTable::read(&path).unwrap();
    let mut tariff = tariff("lambda", "lambda-x86", None);
    tariff.reprice(&mine);
    assert_eq!(tariff.platforms["lambda"].price.usd_per_gb_second, price("1"));
    let both = PriceTable::built_in().unwrap().with(mine);
    assert_eq!(both.function["lambda-x86"].usd_per_million_requests, price("2"));
    assert!(both.function.contains_key("lambda-arm64"));
    assert!(matches!(PriceTable::read(&directory.path().join("none")), Err(TableError::Read { .. })));
    fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(PriceTable::read(&path), Err(TableError::TooLarge { .. })));
}

#[test]
fn what_a_platform_bills_is_charged_and_what_it_does_not_bill_is_charged_as_if() {
    let billed = Usage { memory_mb: 1024, billed_ms: 1000, requests: 1, duration_us: 77, ..Usage::default() };
    let lambda = tariff("lambda", "lambda-x86", None);
    assert_eq!(lambda.charge("lambda", &billed).compute, price("0.0000166667").into());
    assert_eq!(lambda.charge("lambda", &billed).requests, price("0.0000002").into());
    assert_eq!(lambda.charge("process", &billed).total(), Money::ZERO, "another platform");
    // A request that was throttled is not billed, and a local function has no bill.
    let local = Usage { duration_us: 1001, ..Usage::default() };
    let throttled = Usage { memory_mb: 1024, ..local };
    assert_eq!(lambda.charge("lambda", &throttled).total(), Money::ZERO);
    assert_eq!(lambda.charge("lambda", &local).total(), Money::ZERO);
    let as_if = tariff("process", "lambda-x86", Some(1769));
    let charge = as_if.charge("process", &local);
    assert_eq!(charge.mb_ms, 2 * 1769, "1.001 ms are billed as 2");
    assert_eq!(charge.total(), price("0.0000166667").of_memory(1769, 2) + price("0.0000002").into());
    assert_eq!(as_if.charge("process", &throttled).total(), Money::ZERO);
    assert_eq!(as_if.charge("process", &Usage::default()).total(), Money::ZERO, "left in the queue");
}

#[test]
fn a_request_that_is_billed_without_a_word_on_its_length_is_charged_for_what_was_measured() {
    let unsaid = Usage { requests: 1, duration_us: 1001, ..Usage::default() };
    let known = tariff("lambda", "lambda-x86", Some(1769)).charge("lambda", &unsaid);
    assert_eq!((known.estimated, known.mb_ms), (1, 2 * 1769));
    assert_eq!(known.total(), price("0.0000166667").of_memory(1769, 2) + price("0.0000002").into());
    let unknown = tariff("lambda", "lambda-x86", None).charge("lambda", &unsaid);
    assert_eq!((unknown.estimated, unknown.compute), (1, Money::ZERO), "nobody knows the memory");
    assert_eq!(unknown.requests, price("0.0000002").into());
    let said = Usage { memory_mb: 1769, billed_ms: 2, ..unsaid };
    assert_eq!(tariff("lambda", "lambda-x86", None).charge("lambda", &said).estimated, 0);
}

#[test]
fn buckets_and_bytes_cost_only_where_they_have_a_price() {
    let table = PriceTable::built_in().unwrap();
    let used = Usage { bucket_puts: 2, bucket_gets: 5, tensor_bytes_out: 1 << 29, ..Usage::default() };
    let mut tariff = Tariff::default();
    assert_eq!(tariff.charge("lambda", &used).total(), Money::ZERO);
    tariff.bucket = Some(table.bucket("s3").unwrap());
    assert_eq!(tariff.charge("lambda", &used).transfer, price("0.000012").into());
    tariff.egress = Some(table.egress("aws-internet").unwrap());
    assert_eq!(tariff.charge("lambda", &used).total(), price("0.045012").into());
}

#[test]
fn a_machine_is_priced_by_name_or_in_dollars_per_hour() {
    let table = PriceTable::built_in().unwrap();
    let hour = |text: &str| {
        let tariff = Tariff { machine: Some(table.machine(text).unwrap()), ..Tariff::default() };
        tariff.machine_time(3_600_000_000)
    };
    assert_eq!(hour("t2.large"), price("0.0928").into());
    assert_eq!(hour("0.25"), price("0.25").into());
    let unknown = table.machine("t2.huge").unwrap_err().to_string();
    assert_eq!(
        unknown,
        "there is no machine price \"t2.huge\"; there are: c5.2xlarge-spot, g4dn.xlarge, t2.large, t2.small"
    );
}

#[test]
fn a_tariff_survives_being_written_as_json() {
    let mut tariff = tariff("process", "lambda-arm64", Some(512));
    tariff.machine = Some(PriceTable::built_in().unwrap().machine("t2.large").unwrap());
    let text = serde_json::to_string(&tariff).unwrap();
    assert_eq!(serde_json::from_str::<Tariff>(&text).unwrap(), tariff);
}

proptest! {
    #[test]
    fn a_sum_is_the_same_in_any_order_and_grouping(
        items in prop::collection::vec((0_u64..2_000_000, 1_u32..10_241, 0_u64..1_000_000), 1..50),
        seed in any::<u64>(),
    ) {
        let pico = |pico: u64| price(&format!("0.{pico:012}"));
        let amounts: Vec<Money> = items.iter().map(|&(unit, mb, ms)| pico(unit).of_memory(mb, ms)).collect();
        let mut shuffled = amounts.clone();
        let length = shuffled.len();
        for index in 0..length {
            shuffled.swap(index, (seed as usize).wrapping_mul(index + 1) % length);
        }
        let whole: Money = amounts.iter().copied().sum();
        prop_assert_eq!(whole, shuffled.iter().copied().sum());
        let (left, right) = amounts.split_at(length / 2);
        prop_assert_eq!(whole, left.iter().copied().sum::<Money>() + right.iter().copied().sum());
    }

    #[test]
    fn cost_is_linear_in_every_quantity(
        pico in 0_u64..1_000_000_000_000, mb in 0_u32..20_000, a in 0_u64..10_000_000, b in 0_u64..10_000_000,
    ) {
        let price = price(&format!("0.{pico:012}"));
        prop_assert_eq!(price.of_memory(mb, a) + price.of_memory(mb, b), price.of_memory(mb, a + b));
        prop_assert_eq!(price.of_million(a) + price.of_million(b), price.of_million(a + b));
        prop_assert_eq!(price.of_thousand(a) + price.of_thousand(b), price.of_thousand(a + b));
        prop_assert_eq!(price.of_bytes(a) + price.of_bytes(b), price.of_bytes(a + b));
        prop_assert_eq!(price.of_microseconds(a) + price.of_microseconds(b), price.of_microseconds(a + b));
    }

    #[test]
    fn a_price_survives_being_printed(pico in 0_u64..18_000_000_000_000_000_000) {
        let text = format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000);
        let read = price(&text);
        prop_assert_eq!(read.to_string().parse::<Price>(), Ok(read));
        prop_assert_eq!(Money::from(read).rounded_down(), read);
        prop_assert_eq!(Money::from(read).decimal(12), text);
    }

    #[test]
    fn shares_never_add_up_to_more_than_the_whole(pico in 0_u64..10_000_000_000_000, parts in 1_u64..300) {
        let whole = Money::from(price(&format!("{}.{:012}", pico / 1_000_000_000_000, pico % 1_000_000_000_000)));
        let share = Money::from(whole.part(parts).rounded_down());
        prop_assert!(share.times(parts) <= whole);
        prop_assert!(whole.part(parts).times(parts) <= whole);
    }

    #[test]
    fn no_text_makes_the_table_panic(text in "\\PC{0,200}") {
        let _ = PriceTable::parse(&text, "t");
        let _ = PriceTable::parse(&format!("version = 1\n[machine.\"{text}\"]\nusd_per_hour = \"{text}\""), "t");
    }
}
