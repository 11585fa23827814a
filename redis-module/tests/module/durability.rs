use redis::cmd;

use crate::fixtures::{Database, FRACTION_BITS, Random, f32_bytes, start_in};

/// Writes gradients, sums, means, parameters and slots.
fn train(database: &mut Database) {
    let mut random = Random::new();
    database.set("parameters", &f32_bytes(&random.vector(5000)));
    for step in 0..3 {
        for unit in 0..5 {
            let key = format!("g:{step}:{unit}");
            database.set(&key, &f32_bytes(&random.vector(5000)));
            let sum = if unit < 3 { "sum" } else { "other" };
            database.run::<()>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg(sum).arg(unit).arg(&key));
        }
        database.run::<()>(cmd("PEERLESS.COMBINE").arg("sum").arg("other"));
        database.run::<()>(cmd("PEERLESS.MEAN").arg("mean").arg("sum"));
        database.run::<()>(cmd("PEERLESS.AVERAGE").arg(FRACTION_BITS).arg("average").arg("g:0:0").arg("g:0:1"));
        let mut apply = cmd("PEERLESS.STEP");
        apply.arg(&["parameters", "slots", "sum", "0.01"]).arg(step).arg(&["adamw", "clip_norm", "1"]);
        database.run::<()>(&apply);
        database.run::<()>(cmd("DEL").arg("g:0:0").arg("other"));
        database.set("g:0:0", &f32_bytes(&random.vector(5000)));
    }
    database.run::<()>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg("sum").arg(700).arg("g:0:0"));
}

#[test]
fn everything_is_the_same_after_a_kill_and_a_replay_of_the_append_only_file() {
    let arguments = ["--save", "", "--appendonly", "yes", "--aof-use-rdb-preamble", "no"];
    let Some(mut database) = Database::start(&arguments) else { return };
    train(&mut database);
    let before = database.dump();
    database.kill_and_restart(&arguments);
    assert_eq!(database.dump(), before);
    // The sums go on where they were: a unit that is in stays in.
    assert_eq!(database.run::<i64>(cmd("PEERLESS.ADD").arg(FRACTION_BITS).arg("sum").arg(700).arg("g:0:0")), 0);
}

#[test]
fn everything_is_the_same_after_a_snapshot_a_kill_and_a_restart() {
    let arguments = ["--save", "", "--appendonly", "no"];
    let Some(mut database) = Database::start(&arguments) else { return };
    train(&mut database);
    database.run::<()>(&cmd("SAVE"));
    let before = database.dump();
    database.kill_and_restart(&arguments);
    assert_eq!(database.dump(), before);
}

#[test]
fn a_replica_has_the_same_bits() {
    let Some(mut database) = Database::in_memory() else { return };
    let Some(mut replica) = Database::in_memory() else { return };
    let address = database.server.url();
    let port = address.trim_end_matches('/').rsplit(':').next().unwrap();
    replica.run::<()>(cmd("REPLICAOF").arg("127.0.0.1").arg(port));
    // The first write that waits for the replica finds it connected.
    while database.run::<i64>(cmd("WAIT").arg(1).arg(1000)) == 0 {
        database.set("hello", b"replica");
    }
    train(&mut database);
    assert_eq!(database.run::<i64>(cmd("WAIT").arg(1).arg(60_000)), 1);
    assert_eq!(replica.dump(), database.dump());
}

#[test]
fn a_snapshot_loads_where_the_module_is_missing() {
    let Some(mut database) = Database::in_memory() else { return };
    train(&mut database);
    database.run::<()>(&cmd("SAVE"));
    let before = database.dump();
    database.server.kill().unwrap();
    database.server = peerless_redis_bench::Server::start(database.folder.path(), None, &["--save", ""]).unwrap();
    database.connection = database.server.connect().unwrap();
    assert_eq!(database.dump(), before);
    drop(start_in(database.folder.path(), &["--save", ""]));
}
