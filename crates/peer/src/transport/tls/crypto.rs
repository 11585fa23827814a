//! TLS 1.3 with raw public keys (RFC 7250): a peer's Ed25519 key is its certificate.
//!
//! There is no authority and no name to check. Each side proves by its handshake signature that it
//! holds the key it shows; who may come in is decided afterwards, by [`super::hello`]. Self-signed
//! certificates pinned to the key would add an encoding to parse and nothing else.

use std::sync::Arc;

use ed25519_dalek::VerifyingKey;
use peerless_protocol::PeerId;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    ServerConfig, SignatureScheme, version,
};

use crate::identity::Identity;

/// SubjectPublicKeyInfo of an Ed25519 key (RFC 8410, section 4): everything before the 32 bytes.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The TLS configurations for dialling and for accepting.
pub(super) fn configs(identity: &Identity) -> Result<(Arc<ClientConfig>, Arc<ServerConfig>), Error> {
    let provider = Arc::new(CryptoProvider {
        // AES-128 is a third faster than AES-256 and as safe here; ChaCha20 for CPUs without AES.
        cipher_suites: vec![
            ring::cipher_suite::TLS13_AES_128_GCM_SHA256,
            ring::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        ..ring::default_provider()
    });
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.to_pkcs8()));
    let key = provider.key_provider.load_private_key(key)?;
    let spki = key.public_key().ok_or(Error::General("the key shows no public half".into()))?;
    let certified = Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki.to_vec())], key));
    let verifier = Arc::new(KeyHolder { algorithms: provider.signature_verification_algorithms });

    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier.clone())
        .with_client_cert_resolver(Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(certified.clone())));
    client.resumption = rustls::client::Resumption::disabled();
    client.enable_sni = false;

    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(certified)));
    server.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    Ok((Arc::new(client), Arc::new(server)))
}

/// The peer at the other end of a finished handshake.
pub(super) fn remote_peer(connection: &CommonState) -> Result<PeerId, Error> {
    match connection.peer_certificates() {
        Some([key]) => peer_id_of(key),
        _ => Err(bad_key()),
    }
}

fn bad_key() -> Error {
    Error::InvalidCertificate(CertificateError::BadEncoding)
}

pub(super) fn peer_id_of(spki: &[u8]) -> Result<PeerId, Error> {
    let key: [u8; 32] = spki.strip_prefix(&SPKI_PREFIX).and_then(|key| key.try_into().ok()).ok_or_else(bad_key)?;
    match VerifyingKey::from_bytes(&key) {
        // Anybody can sign for a key of small order: it names nobody.
        Ok(point) if !point.is_weak() => Ok(PeerId(key)),
        _ => Err(bad_key()),
    }
}

/// Accepts every peer that holds the Ed25519 key it shows.
#[derive(Debug)]
struct KeyHolder {
    algorithms: WebPkiSupportedAlgorithms,
}

impl KeyHolder {
    fn verify(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let key = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms)
    }
}

fn no_tls12<T>() -> Result<T, Error> {
    Err(Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13))
}

impl ServerCertVerifier for KeyHolder {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        peer_id_of(end_entity).map(|_| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for KeyHolder {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        peer_id_of(end_entity).map(|_| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_from_its_encoding_and_from_nothing_else() {
        let peer = Identity::from_seed([5; 32]).peer_id();
        let spki = [&SPKI_PREFIX[..], peer.as_bytes()].concat();
        assert_eq!(peer_id_of(&spki), Ok(peer));
        assert!(peer_id_of(&spki[1..]).is_err());
        assert!(peer_id_of(&[&spki[..], &[0]].concat()).is_err());
        assert!(peer_id_of(&[]).is_err());
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        assert!(peer_id_of(&[&SPKI_PREFIX[..], &identity_point].concat()).is_err());
    }

    #[test]
    fn the_configurations_are_accepted_by_the_library() {
        assert!(configs(&Identity::from_seed([5; 32])).is_ok());
    }
}
