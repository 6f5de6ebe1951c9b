//! A client and certificates, for tests.

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rustls::client::{ClientConfig, ClientConnection};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{Error, ProtocolVersion, version};

use super::client::Anyone;
use super::options::{Files, TlsOptions, TlsVersion};
use super::provider;

/// A directory with a certificate and a key for `localhost`, which is removed at the end.
pub(crate) struct Directory(pub(crate) PathBuf);

impl Directory {
    pub(crate) fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-tls-{}-{number}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        std::fs::create_dir(&directory.0).unwrap();
        directory.certify("cert.pem", "key.pem", "localhost");
        directory
    }

    /// Makes a self-signed certificate for `name`.
    pub(crate) fn certify(&self, cert: &str, key: &str, name: &str) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        std::fs::write(self.0.join(cert), made.cert.pem()).unwrap();
        std::fs::write(self.0.join(key), made.signing_key.serialize_pem()).unwrap();
    }

    /// The options of a server with these files.
    pub(crate) fn options(&self, certs: &[&str], keys: &[&str]) -> TlsOptions {
        let files = |names: &[&str]| Files::new(names.iter().map(|name| self.0.join(name))).ok();
        TlsOptions { cert: files(certs), key: files(keys), ..TlsOptions::default() }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What clients have in common, with the tickets that they have got.
#[derive(Clone)]
pub(crate) struct Clients(Arc<ClientConfig>);

impl Clients {
    pub(crate) fn new(only: TlsVersion) -> Clients {
        let builder = Clients::builder(only);
        Clients(Arc::new(builder.with_no_client_auth()))
    }

    /// Clients with a certificate.
    pub(crate) fn with(only: TlsVersion, directory: &Directory, cert: &str, key: &str) -> Clients {
        let cert = CertificateDer::from_pem_file(directory.0.join(cert)).unwrap();
        let key = PrivateKeyDer::from_pem_file(directory.0.join(key)).unwrap();
        let builder = Clients::builder(only);
        Clients(Arc::new(builder.with_client_auth_cert(vec![cert], key).unwrap()))
    }

    fn builder(
        only: TlsVersion,
    ) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        let version = match only {
            TlsVersion::V1_2 => &version::TLS12,
            TlsVersion::V1_3 => &version::TLS13,
        };
        let builder = ClientConfig::builder_with_provider(provider());
        let builder = builder.with_protocol_versions(&[version]).unwrap();
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone))
    }

    /// A client that asks for `name`.
    pub(crate) fn client(&self, name: &str) -> Client {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        Client { connection: ClientConnection::new(self.0.clone(), name).unwrap(), ended: false }
    }
}

/// A client without its socket.
pub(crate) struct Client {
    connection: ClientConnection,
    /// The server has sent close_notify.
    pub(crate) ended: bool,
}

impl Client {
    /// The bytes to send now.
    pub(crate) fn says(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes).unwrap();
        }
        bytes
    }

    /// The plaintext in bytes that have come.
    pub(crate) fn hears(&mut self, mut bytes: &[u8]) -> Result<Vec<u8>, Error> {
        let mut plaintext = Vec::new();
        while !bytes.is_empty() {
            assert!(!self.ended, "{} bytes behind close_notify", bytes.len());
            self.connection.read_tls(&mut bytes).unwrap();
            self.ended = self.connection.process_new_packets()?.peer_has_closed();
            // At the end of what there is, it returns an error.
            let _ = self.connection.reader().read_to_end(&mut plaintext);
        }
        Ok(plaintext)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Encrypts.
    pub(crate) fn writes(&mut self, plaintext: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for part in plaintext.chunks(16 << 10) {
            self.connection.writer().write_all(part).unwrap();
            bytes.extend(self.says());
        }
        bytes
    }

    pub(crate) fn closes(&mut self) -> Vec<u8> {
        self.connection.send_close_notify();
        self.says()
    }

    pub(crate) fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    pub(crate) fn version(&self) -> Option<TlsVersion> {
        match self.connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some(TlsVersion::V1_2),
            ProtocolVersion::TLSv1_3 => Some(TlsVersion::V1_3),
            _ => None,
        }
    }

    /// The certificate of the server.
    pub(crate) fn certificate(&self) -> Vec<u8> {
        self.connection.peer_certificates().unwrap()[0].to_vec()
    }
}
