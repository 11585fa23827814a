//! What a string is, without moving it: who reads a digest in a report learns here whether these are its bytes.

use redis_module::{Context, RedisResult, RedisString, RedisValue};

use crate::arguments::Arguments;
use crate::error::{Result, reply};
use crate::keys::Source;

/// `PEERLESS.DIGEST gradient`
pub fn digest(context: &Context, arguments: Vec<RedisString>) -> RedisResult {
    digest_of(context, Arguments::new(arguments)).map(RedisValue::BulkString).map_err(reply)
}

fn digest_of(context: &Context, mut arguments: Arguments) -> Result<String> {
    let key = arguments.key()?;
    arguments.end()?;
    let source = Source::open(context, &key, "gradient")?;
    Ok(blake3::hash(source.bytes()).to_hex().to_string())
}
