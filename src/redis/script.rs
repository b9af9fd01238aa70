//! Loads Lua scripts.
//! Each link that runs scripts calls it when it opens.

use redis::RedisResult;
use redis::cmd;

use crate::redis::connection::RedisConnection;
use crate::redis::error::fault;

/// Loads scripts and returns their hashes for `EVALSHA`, in the same order.
pub async fn load<const COUNT: usize>(
    connection: &mut RedisConnection,
    sources: [&str; COUNT],
) -> RedisResult<[String; COUNT]> {
    let mut hashes = Vec::with_capacity(COUNT);
    for source in sources {
        let hash = connection.ask_one(cmd("SCRIPT").arg("LOAD").arg(source).take()).await?;
        hashes.push(redis::from_redis_value::<String>(hash)?);
    }
    hashes.try_into().map_err(|_| fault("Redis has not loaded the scripts"))
}
