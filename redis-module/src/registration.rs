//! What the server calls when it loads the module. A module of its own, because the macro makes functions
//! without documentation.

use redis_module::alloc::RedisAlloc;
use redis_module::redis_module;

use crate::{aggregate, digest, step};

redis_module! {
    name: "peerless",
    version: 1,
    allocator: (RedisAlloc, RedisAlloc),
    data_types: [],
    commands: [
        ["peerless.add", aggregate::add, "write deny-oom", 2, -1, 2, ""],
        ["peerless.combine", aggregate::combine, "write deny-oom", 1, -1, 1, ""],
        ["peerless.sum", aggregate::sum, "readonly", 2, -1, 1, ""],
        ["peerless.mean", aggregate::mean, "write deny-oom", 1, 2, 1, ""],
        ["peerless.average", aggregate::average, "write deny-oom", 2, -1, 1, ""],
        ["peerless.step", step::step, "write deny-oom", 1, 3, 1, ""],
        ["peerless.clear", aggregate::clear, "write", 1, 1, 1, ""],
        ["peerless.digest", digest::digest, "readonly", 1, 1, 1, ""],
        ["peerless.info", aggregate::info, "readonly fast", 1, 1, 1, ""],
    ],
}
