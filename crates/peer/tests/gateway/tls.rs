//! The gateway with a certificate.

use std::fs;

use peerless_peer::gateway::{Gateway, GatewayConfig, GatewayError, TlsFiles};
use ureq::tls::{Certificate, RootCerts, TlsConfig};

use crate::bench::{Bench, bytes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tensors_travel_encrypted() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    fs::write(&files.certificate, certified.cert.pem()).unwrap();
    fs::write(&files.key, certified.signing_key.serialize_pem()).unwrap();
    let mut bench = Bench::with(|config| config.tls = Some(files)).await;
    let root = Certificate::from_der(certified.cert.der()).to_owned();
    let tls = TlsConfig::builder().root_certs(RootCerts::from(vec![root])).build();
    bench.agent = ureq::Agent::config_builder().http_status_as_error(false).tls_config(tls).build().into();

    let vector = bytes(4 << 20);
    let mut granted = bench.offer(bench.unit(&vector, "a")).await;
    let remote = granted.parameters();
    assert!(remote.url.starts_with("https://127.0.0.1:"), "{}", remote.address());
    assert!(bench.get(&remote, None).body == vector);
    assert_eq!(bench.put(&granted.destination(), &vector).status, 204);
    granted.collect().await.unwrap();
    assert_eq!(bench.put(&granted.destination(), &vector).status, 403);

    let strange = crate::bench::agent().get(&remote.url).call();
    assert!(strange.is_err(), "a certificate that nobody trusts was taken");
    let plain = crate::bench::agent().get(remote.url.replace("https", "http")).call();
    assert!(plain.is_err(), "plain HTTP was answered");
}

#[tokio::test]
async fn certificates_that_cannot_be_used_are_named() {
    let certified = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, content: &str| {
        let path = folder.path().join(name);
        fs::write(&path, content).unwrap();
        path
    };
    let certificate = file("cert.pem", &certified.cert.pem());
    let key = file("key.pem", &certified.signing_key.serialize_pem());
    let empty = file("empty.pem", "");
    let foreign = file("foreign.pem", &other.signing_key.serialize_pem());
    let missing = folder.path().join("missing.pem");
    for (certificate, key, named) in [
        (&missing, &key, "certificate"),
        (&empty, &key, "certificate"),
        (&certificate, &missing, "key"),
        (&certificate, &empty, "key"),
        (&certificate, &foreign, "certificate"),
    ] {
        let mut config = GatewayConfig::new("127.0.0.1:0".parse().unwrap());
        config.tls = Some(TlsFiles { certificate: certificate.clone(), key: key.clone() });
        match Gateway::start(&config).await.map(drop) {
            Err(GatewayError::Tls { what, .. }) => assert_eq!(what, named),
            other => panic!("{other:?}"),
        }
    }
}
