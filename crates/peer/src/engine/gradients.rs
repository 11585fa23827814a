//! Where the peer's gradients are until their round is over: in files, or in a database besides.

use std::sync::Arc;

use peerless_protocol::PeerId;
use peerless_store::{GradientFiles, PayloadFormat, UnitGradients};

use super::reporter::Reporter;
use crate::data_path::DataPath;
use crate::options::{PeerError, PeerOptions};

/// The database that the options name, if they do.
pub(super) struct Database {
    #[cfg(feature = "redis")]
    named: Option<redis::Named>,
}

#[cfg(feature = "redis")]
impl Database {
    pub fn new(options: &PeerOptions, peer: PeerId) -> Result<Self, PeerError> {
        // Of one peer of one run: nobody else writes there.
        let prefix = format!("peerless:{}:{peer}", options.run.spec().id());
        let named = options.gradient_store.as_ref().map(|config| redis::Named::new(config, prefix));
        Ok(Self { named: named.transpose()? })
    }

    /// Lets functions elsewhere write to the database, if the options say so, and use the other way for the rest.
    pub fn in_front_of(&self, other: Arc<dyn DataPath>) -> Arc<dyn DataPath> {
        match &self.named {
            Some(named) => named.in_front_of(other),
            None => other,
        }
    }

    /// Opens it. A server that does not answer is an error, unless the peer is `resuming`: then it did answer once,
    /// and the run goes on with files until it does again.
    pub async fn open(
        self,
        format: PayloadFormat,
        resuming: bool,
        reporter: &Reporter,
    ) -> Result<Box<dyn UnitGradients>, PeerError> {
        match self.named {
            Some(named) => named.open(format, resuming, reporter.clone()).await,
            None => Ok(Box::new(GradientFiles::new(format))),
        }
    }
}

#[cfg(not(feature = "redis"))]
impl Database {
    pub fn new(options: &PeerOptions, _: PeerId) -> Result<Self, PeerError> {
        match &options.gradient_store {
            Some(_) => Err(peerless_store::RedisError::NotBuilt.into()),
            None => Ok(Self {}),
        }
    }

    pub fn in_front_of(&self, other: Arc<dyn DataPath>) -> Arc<dyn DataPath> {
        other
    }

    pub async fn open(self, format: PayloadFormat, _: bool, _: &Reporter) -> Result<Box<dyn UnitGradients>, PeerError> {
        Ok(Box::new(GradientFiles::new(format)))
    }
}

#[cfg(feature = "redis")]
mod redis {
    use std::sync::Arc;

    use peerless_store::{
        OnChange, PayloadFormat, RedisError, RedisGradients, RedisOutputs, RedisServer, RedisState, UnitGradients,
    };

    use super::Reporter;
    use crate::data_path::{DataPath, IntoDatabase};
    use crate::options::{GradientStoreConfig, PeerError};
    use crate::status::{GradientStoreStatus, unix_us};

    /// A server, and what this peer's keys begin with.
    pub struct Named {
        server: RedisServer,
        prefix: String,
        outputs: Option<Arc<RedisOutputs>>,
    }

    impl Named {
        pub fn new(config: &GradientStoreConfig, prefix: String) -> Result<Self, RedisError> {
            let server = config.server.clone();
            let session = || format!("{}-{}", unix_us(), std::process::id());
            let outputs = config.direct.then(|| RedisOutputs::new(&server, &prefix, &session()).map(Arc::new));
            Ok(Self { outputs: outputs.transpose()?, server, prefix })
        }

        pub fn in_front_of(&self, other: Arc<dyn DataPath>) -> Arc<dyn DataPath> {
            match &self.outputs {
                Some(outputs) => Arc::new(IntoDatabase::new(other, Arc::clone(outputs))),
                None => other,
            }
        }

        pub async fn open(
            self,
            format: PayloadFormat,
            resuming: bool,
            reporter: Reporter,
        ) -> Result<Box<dyn UnitGradients>, PeerError> {
            let Self { server, prefix, outputs } = self;
            let url = server.url().to_owned();
            reporter.update(|status| {
                status.gradient_store = Some(GradientStoreStatus { server: url, ..GradientStoreStatus::default() });
            });
            let connect = move || {
                let tell = tell(server.url().to_owned(), reporter);
                let mut gradients = RedisGradients::new(format, &server, &prefix, tell)?;
                if let Some(outputs) = outputs {
                    gradients = gradients.with_outputs(outputs);
                }
                match gradients.connect() {
                    Err(RedisError::Unreachable { .. }) if resuming => Ok(gradients),
                    connected => connected.map(|()| gradients),
                }
            };
            let gradients = tokio::task::spawn_blocking(connect).await;
            Ok(Box::new(gradients.map_err(|_| PeerError::Thread("gradient store"))??))
        }
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
