//! Where the peer's gradients are until their round is over: in files, or in a database besides.

use peerless_protocol::PeerId;
use peerless_store::{GradientFiles, PayloadFormat, UnitGradients};

use super::reporter::Reporter;
use crate::options::{PeerError, PeerOptions};

/// Opens what the options name. A server that does not answer is an error, unless the peer is `resuming`: then
/// it did answer once, and the run goes on with files until it does again.
pub(super) async fn open(
    options: &PeerOptions,
    peer: PeerId,
    format: PayloadFormat,
    resuming: bool,
    reporter: &Reporter,
) -> Result<Box<dyn UnitGradients>, PeerError> {
    match &options.gradient_store {
        None => Ok(Box::new(GradientFiles::new(format))),
        #[cfg(feature = "redis")]
        Some(server) => {
            // Of one peer of one run: nobody else writes there.
            let prefix = format!("peerless:{}:{peer}", options.run.spec().id());
            database::open(server.clone(), prefix, format, resuming, reporter.clone()).await
        }
        #[cfg(not(feature = "redis"))]
        Some(_) => {
            let _ = (peer, resuming, reporter);
            Err(peerless_store::RedisError::NotBuilt.into())
        }
    }
}

#[cfg(feature = "redis")]
mod database {
    use peerless_store::{OnChange, PayloadFormat, RedisError, RedisGradients, RedisServer, RedisState, UnitGradients};

    use super::Reporter;
    use crate::options::PeerError;
    use crate::status::GradientStoreStatus;

    pub async fn open(
        server: RedisServer,
        prefix: String,
        format: PayloadFormat,
        resuming: bool,
        reporter: Reporter,
    ) -> Result<Box<dyn UnitGradients>, PeerError> {
        let url = server.url().to_owned();
        reporter.update(|status| {
            status.gradient_store = Some(GradientStoreStatus { server: url, ..GradientStoreStatus::default() });
        });
        let connect = move || {
            let mut gradients = RedisGradients::new(format, &server, &prefix, tell(server.url().to_owned(), reporter))?;
            match gradients.connect() {
                Err(RedisError::Unreachable { .. }) if resuming => Ok(gradients),
                connected => connected.map(|()| gradients),
            }
        };
        let gradients = tokio::task::spawn_blocking(connect).await;
        Ok(Box::new(gradients.map_err(|_| PeerError::Thread("gradient store"))??))
    }

    /// Says in log and status how the server is.
    fn tell(server: String, reporter: Reporter) -> OnChange {
        Box::new(move |state| {
            match state {
                RedisState::Answers { module: true } => tracing::info!(server, "gradients are summed in the database"),
                RedisState::Answers { module: false } => {
                    tracing::info!(
                        server,
                        "gradients are in the database, which lacks the module: they are summed here"
                    );
                }
                RedisState::Away(error) => {
                    tracing::warn!(server, %error, "gradients are summed from files meanwhile");
                }
            }
            reporter.update(|status| {
                let Some(store) = &mut status.gradient_store else { return };
                match state {
                    RedisState::Answers { module } => (store.module, store.away) = (Some(*module), None),
                    RedisState::Away(error) => {
                        store.away = Some(error.to_string());
                        store.outages += 1;
                    }
                }
            });
        })
    }
}
