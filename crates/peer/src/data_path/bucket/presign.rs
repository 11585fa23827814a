//! Presigned URLs for whom no peer is there to hand them out.

use std::time::Duration;

use object_store::path::Path as Key;
use object_store::signer::{Method, Signer};
use tokio::time::timeout;

use super::config::BucketConfig;
use super::error::BucketError;
use super::objects::LONGEST_LIFETIME;

impl BucketConfig {
    /// A URL by which whoever has it can read (`GET`) the object of this key, below the prefix.
    ///
    /// # Errors
    /// [`BucketError`] if the settings are of no use or there are no credentials.
    pub async fn url_to_read(&self, key: &str, lifetime: Duration) -> Result<String, BucketError> {
        self.presigned(Method::GET, key, lifetime).await
    }

    /// A URL by which whoever has it can write (`PUT`) the object of this key, below the prefix.
    ///
    /// # Errors
    /// [`BucketError`] if the settings are of no use or there are no credentials.
    pub async fn url_to_write(&self, key: &str, lifetime: Duration) -> Result<String, BucketError> {
        self.presigned(Method::PUT, key, lifetime).await
    }

    async fn presigned(&self, method: Method, key: &str, lifetime: Duration) -> Result<String, BucketError> {
        let key = Key::from(format!("{}/{key}", self.prefix));
        // Another provider may be set; any does, as nothing is sent.
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let store = self.connect()?;
        let signed = store.signed_url(method, &key, lifetime.min(LONGEST_LIFETIME));
        // Without the machine's role the environment has credentials, and nothing is waited for.
        let signed = timeout(self.patience, signed).await.map_err(|_| BucketError::NoCredentials {
            bucket: self.to_string(),
            reason: format!("the machine's role is silent for {:?}", self.patience),
        })?;
        let url = signed.map_err(|error| BucketError::of_request(&self.to_string(), "sign a URL", &error))?;
        Ok(url.to_string())
    }
}
