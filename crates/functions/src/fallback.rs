//! Goes on with functions of this machine while a remote platform is gone.

use std::sync::Arc;

use crate::breaker::CircuitBreaker;
use crate::error::InvokeError;
use crate::platform::{BoxFuture, Call, FunctionPlatform, Invocation, PlatformSnapshot};

/// A platform, and another one for while it is gone.
///
/// A platform that has never done anything is not replaced: its name, URL or rights are wrong then, and
/// who set them wants to know. Attempts are still repeated by [`Retrying`](crate::Retrying) alone.
pub struct Fallback {
    primary: Arc<dyn FunctionPlatform>,
    substitute: Arc<dyn FunctionPlatform>,
    breaker: CircuitBreaker,
}

impl Fallback {
    /// Uses `primary` as long as it works. Both must see the same files, or have ways around that.
    pub fn new(primary: Arc<dyn FunctionPlatform>, substitute: Arc<dyn FunctionPlatform>) -> Self {
        Self { primary, substitute, breaker: CircuitBreaker::default() }
    }

    async fn route(&self, call: Call<'_>) -> Result<Invocation, InvokeError> {
        match self.breaker.call(&*self.primary, call).await {
            Some(result) => result,
            None => self.substitute.invoke(call).await,
        }
    }
}

impl FunctionPlatform for Fallback {
    fn name(&self) -> &'static str {
        self.primary.name()
    }

    fn concurrency(&self) -> usize {
        self.primary.concurrency()
    }

    fn shares_files(&self) -> bool {
        self.primary.shares_files() && self.substitute.shares_files()
    }

    fn invoke<'a>(&'a self, call: Call<'a>) -> BoxFuture<'a, Result<Invocation, InvokeError>> {
        Box::pin(self.route(call))
    }

    fn snapshot(&self) -> PlatformSnapshot {
        self.primary.snapshot() + self.substitute.snapshot()
    }

    fn shutdown(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            tokio::join!(self.primary.shutdown(), self.substitute.shutdown());
        })
    }
}
