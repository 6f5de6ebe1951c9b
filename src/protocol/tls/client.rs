//! The TLS of connections that this side starts: whom it trusts, and how a session begins.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, ClientConnection, Resumption};
use rustls::crypto;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::SingleCertAndKey;
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::files::{TlsError, pairs, roots, versions};
use super::options::{TlsClientOptions, TlsOptions};
use super::provider;
use super::session::Session;

/// What the connections with the same options have in common, with the tickets of their sessions.
#[derive(Clone)]
pub struct Connector {
    config: Arc<ClientConfig>,
    resumes: bool,
}

/// The name or address of a server, which its certificate must have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Name(ServerName<'static>);

impl Connector {
    /// Reads the files that `options` name, or the system's authorities.
    ///
    /// # Errors
    /// A file cannot be used, the system has no authorities, or an option is one of listeners.
    pub fn new(options: &TlsOptions) -> Result<Connector, TlsError> {
        let TlsClientOptions { ca, insecure, resume, tls_max, .. } = &options.client;
        if options.client_ca.is_some() {
            return Err(TlsError::of_options(
                "client-ca is an option of listeners; a client takes ca=FILE",
            ));
        }
        let builder = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions(options.tls_min, *tls_max)?)
            .map_err(TlsError::new)?;
        let builder = match ca {
            _ if *insecure => {
                builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone))
            }
            Some(files) => builder.with_root_certificates(roots(files)?),
            None => builder.with_root_certificates(system_roots()?),
        };
        let mut config = match &pairs(options)?[..] {
            [] => builder.with_no_client_auth(),
            [pair] => {
                builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone())))
            }
            [..] => {
                return Err(TlsError::of_options("a client has one certificate: give one cert"));
            }
        };
        config.alpn_protocols = options.alpn.as_ref().map_or(vec![], |alpn| alpn.names().to_vec());
        Ok(Connector { config: Arc::new(config), resumes: *resume }.apart())
    }

    /// The same with tickets of its own: none yet. A connector is for one server, because tickets
    /// are kept by the name of the server, and several servers may have one name.
    #[must_use]
    pub fn apart(&self) -> Connector {
        let mut config = ClientConfig::clone(&self.config);
        config.resumption = match self.resumes {
            true => Resumption::in_memory_sessions(TICKETS_MAX),
            false => Resumption::disabled(),
        };
        Connector { config: Arc::new(config), resumes: self.resumes }
    }

    /// Begins a session with this server. `None` if it cannot be made.
    pub(crate) fn session(&self, name: &Name) -> Option<Box<Session>> {
        let connection = ClientConnection::new(self.config.clone(), name.0.clone());
        Some(Box::new(Session::new(connection.ok()?)))
    }
}

/// Tickets that are kept, at most. rustls keeps 8 for a server, and counts in these.
const TICKETS_MAX: usize = 8;

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl Name {
    /// The name of the server of a target: the option `sni`, or else the target's host. The host of
    /// a Unix socket is empty and stands for `localhost`.
    ///
    /// # Errors
    /// It is neither a name nor an address.
    pub fn new(options: &TlsOptions, host: &str) -> Result<Name, TlsError> {
        let given = options.client.sni.as_ref().map(|name| name.as_str());
        // The zone of an address means something on this machine only.
        let host = host.split('%').next().filter(|host| !host.is_empty()).unwrap_or("localhost");
        let name = given.unwrap_or(host);
        let wrong = |_| {
            TlsError::of_options(format_args!(
                "'{name}' is not a name that a certificate can have: give one with sni=NAME"
            ))
        };
        ServerName::try_from(name.to_owned()).map(Name).map_err(wrong)
    }
}

/// The authorities that the system trusts.
fn system_roots() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    // Some systems have certificates that are not quite right, and trust them.
    roots.add_parsable_certificates(found.certs);
    match (roots.is_empty(), found.errors.first()) {
        (false, _) => Ok(roots),
        (true, None) => Err(TlsError::new(
            "this system trusts no authorities: install its certificates (ca-certificates), or \
             give ca=FILE or insecure=on",
        )),
        (true, Some(error)) => Err(TlsError::new(format_args!(
            "the authorities that this system trusts cannot be read: {error}; give ca=FILE or \
             insecure=on"
        ))),
    }
}

/// Accepts every certificate, if the server has its key.
#[derive(Debug)]
pub(super) struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &provider().signature_verification_algorithms;
        crypto::verify_tls12_signature(message, cert, signature, known)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let known = &provider().signature_verification_algorithms;
        crypto::verify_tls13_signature(message, cert, signature, known)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
