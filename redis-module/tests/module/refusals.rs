use redis::cmd;

use crate::fixtures::{Database, FRACTION_BITS, Random, add, f32_bytes, sum_bytes};

#[test]
fn a_gradient_that_cannot_be_added_is_named_and_changes_nothing() {
    let Some(mut database) = Database::in_memory() else { return };
    let mut random = Random::new();
    let length = 3 * 4096 + 11;
    for unit in 0..6 {
        database.set(&format!("g:{unit}"), &f32_bytes(&random.vector(length)));
    }
    database.run::<()>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg("sum").arg(0).arg("g:0"));
    database.set("mean", b"what was there before");
    for (value, code) in
        [(f32::NAN, "NAN"), (f32::INFINITY, "INFINITE"), (f32::NEG_INFINITY, "INFINITE"), (2048.0, "OUTOFRANGE")]
    {
        let (unit, at) = (1 + random.below(5), random.below(length));
        let mut gradient = random.vector(length);
        gradient[at] = value;
        database.set(&format!("g:{unit}"), &f32_bytes(&gradient));
        let before = database.dump();
        let keys: Vec<String> = (1..6).map(|unit| format!("g:{unit}")).collect();
        let mut average = cmd("PEERLESS.AVERAGE");
        average.arg(FRACTION_BITS).arg("mean").arg(&keys);
        let mut sum = cmd("PEERLESS.SUM");
        sum.arg(FRACTION_BITS).arg(&keys);
        let mut new = cmd("PEERLESS.ADD");
        new.arg(FRACTION_BITS).arg("new").arg(unit).arg(format!("g:{unit}"));
        for command in [add(FRACTION_BITS, "sum", &[1, 2, 3, 4, 5]), average, sum, new] {
            let error = database.refused(&command);
            assert_eq!(error.code(), Some(code), "{error}");
            let message = error.to_string();
            assert!(message.contains(&format!("'g:{unit}'")), "{message}");
            assert!(message.contains(&format!("at element {at}")), "{message}");
            assert_eq!(database.dump(), before, "{message}");
        }
        database.set(&format!("g:{unit}"), &f32_bytes(&random.vector(length)));
    }
}

#[test]
fn what_does_not_fit_together_is_refused_and_changes_nothing() {
    let Some(mut database) = Database::in_memory() else { return };
    database.set("two", &f32_bytes(&[1.0, 2.0]));
    database.set("also_two", &f32_bytes(&[1.0, 2.0]));
    database.set("three", &f32_bytes(&[1.0, 2.0, 3.0]));
    database.set("odd", &[0; 7]);
    database.set("empty", b"");
    database.run::<()>(cmd("RPUSH").arg("list").arg("x"));
    database.set("sum", &sum_bytes(40, &[1, 2], &[3]));
    database.set("sum_of_three", &sum_bytes(40, &[1, 2, 3], &[4]));
    database.set("coarse", &sum_bytes(30, &[1, 2], &[5]));
    database.set("nobody's", &sum_bytes(40, &[1, 2], &[]));
    database.set("full", &sum_bytes(40, &[1, 1 << 62], &[6]));
    database.set("broken_grid", &sum_bytes(60, &[1, 2], &[1]));
    let mut cut = sum_bytes(40, &[1, 2], &[]);
    cut.pop();
    database.set("cut", &cut);
    let mut endless = sum_bytes(40, &[1, 2], &[]);
    endless[8..16].fill(0xff);
    database.set("endless", &endless);
    let mut long = sum_bytes(40, &[1, 2], &[]);
    long.extend([0; 4097]);
    database.set("long", &long);

    let before = database.dump();
    for (command, code) in [
        ("ADD", "ERR"),
        ("ADD 40 sum", "ERR"),
        ("ADD 40 sum 1", "ERR"),
        ("ADD 40 sum 1 two 2", "ERR"),
        ("ADD 7 sum 1 two", "ERR"),
        ("ADD 45 sum 1 two", "ERR"),
        ("ADD forty sum 1 two", "ERR"),
        ("ADD 40 sum -1 two", "ERR"),
        ("ADD 40 sum 32768 two", "ERR"),
        ("ADD 40 sum 99999999999 two", "ERR"),
        ("ADD 40 sum 1 two 1 also_two", "ERR"),
        ("ADD 40 sum 1 two 2 two", "ERR"),
        ("ADD 40 two 1 two", "ERR"),
        ("ADD 40 sum 1 nothing", "NOKEY"),
        ("ADD 40 sum 1 list", "WRONGTYPE"),
        ("ADD 40 list 1 two", "WRONGTYPE"),
        ("ADD 40 sum 1 three", "LENGTH"),
        ("ADD 40 new 1 two 2 three", "LENGTH"),
        ("ADD 40 new 1 odd", "LENGTH"),
        ("ADD 40 new 1 empty", "LENGTH"),
        ("ADD 40 coarse 1 two", "GRID"),
        ("ADD 40 two 1 also_two", "NOTASUM"),
        ("ADD 40 empty 1 two", "NOTASUM"),
        ("ADD 40 broken_grid 2 two", "NOTASUM"),
        ("ADD 40 cut 1 two", "NOTASUM"),
        ("ADD 40 endless 1 two", "NOTASUM"),
        ("ADD 40 long 1 two", "NOTASUM"),
        ("ADD 40 full 1 two", "OVERFLOW"),
        ("COMBINE sum", "ERR"),
        ("COMBINE sum sum", "ERR"),
        ("COMBINE sum nothing", "NOKEY"),
        ("COMBINE sum two", "NOTASUM"),
        ("COMBINE sum sum_of_three", "LENGTH"),
        ("COMBINE sum coarse", "GRID"),
        ("COMBINE sum nobody's", "NOUNITS"),
        ("COMBINE sum full", "OVERFLOW"),
        ("COMBINE new full sum", "OVERFLOW"),
        ("SUM 40", "ERR"),
        ("SUM 40 nothing", "NOKEY"),
        ("SUM 40 two three", "LENGTH"),
        ("MEAN new", "ERR"),
        ("MEAN sum sum", "ERR"),
        ("MEAN new sum 0", "ERR"),
        ("MEAN new sum -1", "ERR"),
        ("MEAN new sum 1 2", "ERR"),
        ("MEAN new nobody's", "NOUNITS"),
        ("MEAN new nothing", "NOKEY"),
        ("MEAN list sum", "WRONGTYPE"),
        ("AVERAGE 40 new", "ERR"),
        ("AVERAGE 40 two two", "ERR"),
        ("AVERAGE 40 new two three", "LENGTH"),
        ("AVERAGE 40 list two", "WRONGTYPE"),
        ("INFO", "ERR"),
        ("INFO two", "NOTASUM"),
        ("INFO sum sum", "ERR"),
        ("STEP two slots sum 0.1 0", "ERR"),
        ("STEP two slots sum nan 0 sgd", "ERR"),
        ("STEP two slots sum 0.1 -1 sgd", "ERR"),
        ("STEP two slots sum 0.1 0 adagrad", "ERR"),
        ("STEP two slots sum 0.1 0 sgd momentum 0.9", "ERR"),
        ("STEP two slots sum 0.1 0 sgd weight_decay", "ERR"),
        ("STEP two slots sum 0.1 0 sgd weight_decay -1", "ERR"),
        ("STEP two slots sum 0.1 0 adam beta1 1", "ERR"),
        ("STEP two slots sum 0.1 0 sgd clip_norm 0", "ERR"),
        ("STEP two slots sum 0.1 0 sgd buffers 3", "ERR"),
        ("CLEAR", "ERR"),
        ("CLEAR two", "NOTASUM"),
        ("CLEAR list", "WRONGTYPE"),
        ("STEP two slots nothing 0.1 0 sgd", "NOKEY"),
        ("STEP two slots three 0.1 0 sgd", "NOTASUM"),
        ("STEP two two sum 0.1 0 sgd", "ERR"),
        ("STEP nothing slots sum 0.1 0 sgd", "NOKEY"),
        ("STEP three slots sum 0.1 0 sgd", "LENGTH"),
        ("STEP two three sum 0.1 0 momentum", "LENGTH"),
        ("STEP two list sum 0.1 0 momentum", "WRONGTYPE"),
        ("STEP two slots nobody's 0.1 0 sgd", "NOUNITS"),
    ] {
        let mut words = command.split(' ');
        let mut refused = cmd(&format!("PEERLESS.{}", words.next().unwrap()));
        refused.arg(words.collect::<Vec<_>>());
        let error = database.refused(&refused);
        assert_eq!(error.code().unwrap_or("ERR"), code, "{command}: {error}");
        assert_eq!(database.dump(), before, "{command}");
    }
}

/// What any argument may be, sensible or not.
const WORDS: [&str; 18] = [
    "40",
    "8",
    "0",
    "1",
    "0.1",
    "nan",
    "inf",
    "-1",
    "1e308",
    "18446744073709551615",
    "sgd",
    "momentum",
    "adamw",
    "buffers",
    "clip_norm",
    "\u{b1}\u{fffd}",
    "%s%n",
    "list",
];
const KEYS: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

/// A command that is well formed more often than not.
fn any_command(random: &mut Random) -> redis::Cmd {
    let forms = [
        "ADD 40 KEY UNIT KEY UNIT KEY",
        "ADD 40 KEY UNIT KEY",
        "COMBINE KEY KEY KEY",
        "SUM 40 KEY KEY",
        "MEAN KEY KEY 3",
        "AVERAGE 40 KEY KEY KEY",
        "STEP KEY KEY KEY 0.1 0 momentum",
        "CLEAR KEY",
        "STEP KEY KEY KEY 0.1 1 adamw clip_norm 0.1 buffers 1",
        "INFO KEY",
    ];
    let mut words = forms[random.below(forms.len())].split(' ');
    let mut command = redis::cmd(&format!("PEERLESS.{}", words.next().unwrap()));
    let cut = random.below(40);
    for word in words.take(cut) {
        match (random.below(12), word) {
            (0, _) => command.arg(WORDS[random.below(WORDS.len())]),
            (_, "KEY") => command.arg(KEYS[random.below(KEYS.len())]),
            (_, "UNIT") => command.arg(random.below(40)),
            (_, word) => command.arg(word),
        };
    }
    command
}

fn any_value(random: &mut Random) -> Vec<u8> {
    let elements = [1, 2, 2, 2, 2, 5000][random.below(6)];
    match random.below(8) {
        0 => sum_bytes(40, &vec![i64::MAX - 5; elements], &[1]),
        1 => sum_bytes(40, &vec![3; elements], &[u32::try_from(random.below(40)).unwrap()]),
        2 => (0..random.below(40)).map(|_| random.next().to_le_bytes()[0]).collect(),
        3 => b"1234".to_vec(),
        _ => f32_bytes(&random.vector(elements)),
    }
}

#[test]
fn no_arguments_bring_the_server_down() {
    let Some(mut database) = Database::in_memory() else { return };
    let mut random = Random::new();
    database.run::<()>(cmd("RPUSH").arg("list").arg("x"));
    let mut accepted = 0;
    for _ in 0..20_000 {
        if random.below(3) == 0 {
            let key = KEYS[random.below(KEYS.len())];
            database.set(key, &any_value(&mut random));
        }
        let command = any_command(&mut random);
        match command.query::<redis::Value>(&mut database.connection) {
            Ok(_) => accepted += 1,
            Err(error) => assert!(error.code().is_some() && !error.is_io_error(), "{command:?}: {error}"),
        }
    }
    assert_eq!(database.run::<String>(&cmd("PING")), "PONG");
    // Otherwise nothing but the parser was tested.
    assert!(accepted > 1000, "{accepted} commands were accepted");
}
