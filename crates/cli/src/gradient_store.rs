//! Flags about the database that keeps gradients.

use std::env;

use clap::Args;
use peerless_peer::GradientStoreConfig;
use peerless_store::{RedisError, RedisServer, RedisUrlError, check_redis};

use crate::failure::{advised, code};

/// The environment variables with user and password: a flag would show them to everybody who lists processes.
const USER: &str = "PEERLESS_REDIS_USER";
const PASSWORD: &str = "PEERLESS_REDIS_PASSWORD";

/// Keys of the check at the start begin like those of peers, so that rights for these are enough.
const CHECK: &str = "peerless:check";

/// Where gradients are until their round is over. None of this changes the model.
#[derive(Args, Debug, Clone, Default)]
#[command(next_help_heading = "Functions")]
pub(crate) struct GradientStoreArgs {
    /// Redis or Valkey server that keeps gradients and sums them if it has the module, such as redis://10.0.0.3:6379/0,
    /// or rediss:// for TLS; see docs/redis.md. PEERLESS_REDIS_USER and PEERLESS_REDIS_PASSWORD say who one is there
    #[arg(long, value_name = "URL")]
    gradient_store: Option<String>,
    /// Functions on other machines write their gradients there themselves, and not through this peer's gateway. They
    /// need PEERLESS_REDIS_USER and PEERLESS_REDIS_PASSWORD in an environment of their own
    #[arg(long, requires = "gradient_store")]
    direct_gradients: bool,
}

impl GradientStoreArgs {
    /// What the flags and the environment describe.
    pub(crate) fn config(&self) -> anyhow::Result<Option<GradientStoreConfig>> {
        let direct = self.direct_gradients;
        Ok(self.server()?.map(|server| GradientStoreConfig { server, direct }))
    }

    fn server(&self) -> anyhow::Result<Option<RedisServer>> {
        // Not read by clap, whose errors quote what was given.
        let Some(url) = &self.gradient_store else { return Ok(None) };
        let server = RedisServer::new(url).map_err(|error| {
            let hint = match error {
                RedisUrlError::Secret => format!("put them into the environment: {USER} and {PASSWORD}"),
                RedisUrlError::Malformed { .. } => "such as --gradient-store redis://127.0.0.1:6379/0".to_owned(),
            };
            advised(error, code::USAGE, Some(hint))
        })?;
        let set = |name| env::var(name).ok().filter(|value| !value.is_empty());
        let (user, password) = (set(USER), set(PASSWORD));
        if user.is_some() && password.is_none() {
            let what = anyhow::anyhow!("{USER} is set, but {PASSWORD} is not");
            return Err(advised(what, code::USAGE, None));
        }
        Ok(Some(server.with_password(user, password)))
    }

    /// Refuses a server that does not work, before anything is made.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Some(server) = self.server()? else { return Ok(()) };
        check_redis(&server, CHECK).map(|_| ()).map_err(explain)
    }

    /// The flags again, for a peer.
    pub(crate) fn for_peer(&self) -> Vec<String> {
        let url = self.gradient_store.iter().cloned();
        let direct = self.direct_gradients.then(|| "--direct-gradients".to_owned());
        url.flat_map(|url| ["--gradient-store".to_owned(), url]).chain(direct).collect()
    }
}

/// A server that does not work, with a way out.
pub(crate) fn explain(error: RedisError) -> anyhow::Error {
    let hint = hint(&error).map(str::to_owned);
    advised(error, code::ERROR, hint)
}

/// What can be done about it.
pub(crate) fn hint(error: &RedisError) -> Option<&'static str> {
    match error {
        RedisError::Unreachable { .. } => Some("start it, or check address, port and TLS (redis:// or rediss://)"),
        RedisError::Denied { .. } => Some(
            "check PEERLESS_REDIS_USER and PEERLESS_REDIS_PASSWORD, and the user's rights: docs/redis.md has those needed",
        ),
        RedisError::Refused { .. } => None,
        RedisError::NotBuilt => Some("build it with --features redis, which is the default"),
    }
}
