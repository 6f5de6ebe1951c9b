//! The TLS of a listener: its certificates, and what begins a session for each of its clients.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    ServerConfig, ServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedProtocolVersion, version};

use super::options::{ClientAuth, Files, TlsOptions, TlsVersion};
use super::provider;
use super::session::Session;

/// Why TLS cannot be set up. The text names the file, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError(What);

#[derive(Clone, PartialEq, Eq, Debug)]
enum What {
    /// No file is at fault.
    Options(String),
    File(String),
}

impl TlsError {
    fn new(problem: impl fmt::Display) -> TlsError {
        TlsError(What::File(problem.to_string()))
    }

    fn file(path: &Path, problem: impl fmt::Display) -> TlsError {
        TlsError::new(format_args!("{}: {problem}", path.display()))
    }

    /// Whether the options are wrong, and not a file.
    pub fn is_of_options(&self) -> bool {
        matches!(self.0, What::Options(_))
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (What::Options(text) | What::File(text)) = &self.0;
        f.write_str(text)
    }
}

impl std::error::Error for TlsError {}

/// The TLS of one listener, for all workers.
pub(crate) struct Acceptor {
    options: TlsOptions,
    /// It stays when certificates are read again, so that sessions can still be resumed.
    tickets: Arc<dyn ProducesTickets>,
    config: Mutex<Arc<ServerConfig>>,
}

impl Acceptor {
    /// Reads the files that `options` name.
    ///
    /// # Errors
    /// A file is missing, or does not contain what it must.
    pub(crate) fn new(options: &TlsOptions) -> Result<Acceptor, TlsError> {
        let tickets = Ticketer::new()
            .map_err(|_| TlsError::new("the system has no random numbers for tickets"))?;
        let config = Mutex::new(Arc::new(read(options, &tickets)?));
        Ok(Acceptor { options: options.clone(), tickets, config })
    }

    /// Reads the files again. Sessions that begin from now on use them.
    ///
    /// # Errors
    /// As [`new`](Acceptor::new). Nothing changes then.
    pub(crate) fn reload(&self) -> Result<(), TlsError> {
        let config = Arc::new(read(&self.options, &self.tickets)?);
        *self.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// Begins the session of a new client. `None` if it cannot be made.
    pub(crate) fn session(&self) -> Option<Box<Session>> {
        let config = self.config.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Some(Box::new(Session::new(ServerConnection::new(config).ok()?)))
    }
}

fn read(
    options: &TlsOptions,
    tickets: &Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, TlsError> {
    let certificates = Certificates::read(options)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(options.tls_min))
        .map_err(TlsError::new)?;
    let builder = match &options.client_ca {
        Some(files) => builder.with_client_cert_verifier(verifier(files, options.client_auth)?),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = options.alpn.as_ref().map_or(vec![], |alpn| alpn.names().to_vec());
    // Tickets are kept by the clients, so the server needs no memory for sessions that have ended.
    config.ticketer = Arc::clone(tickets);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}

/// The versions of TLS from the oldest that is allowed.
fn versions(oldest: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static NEWEST_FIRST: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match oldest {
        TlsVersion::V1_2 => &NEWEST_FIRST,
        TlsVersion::V1_3 => &NEWEST_FIRST[..1],
    }
}

fn verifier(files: &Files, auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(files)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match auth {
        ClientAuth::Require => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::new(format_args!("client-ca: {error}")))
}

/// The certificates of authorities.
fn roots(files: &Files) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for path in files.paths() {
        for certificate in chain(path)? {
            roots.add(certificate).map_err(|error| TlsError::file(path, error))?;
        }
    }
    Ok(roots)
}

/// Reads the certificates in a file, at least one.
fn chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = "it has no certificate: give a PEM file with a line -----BEGIN CERTIFICATE-----";
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read.map_err(|error| unreadable(path, error, none))? {
        chain if chain.is_empty() => Err(TlsError::file(path, none)),
        chain => Ok(chain),
    }
}

fn unreadable(path: &Path, error: pem::Error, none: &str) -> TlsError {
    match error {
        pem::Error::NoItemsFound => TlsError::file(path, none),
        pem::Error::Io(error) => match error.kind() {
            std::io::ErrorKind::NotFound => TlsError::file(
                path,
                "no such file; 'echopool cert' makes a certificate and a key for trying",
            ),
            _ => TlsError::file(path, error),
        },
        error => TlsError::file(path, format_args!("not PEM: {error}")),
    }
}

/// Certificate chains with their keys, each for other names.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    fn read(options: &TlsOptions) -> Result<Certificates, TlsError> {
        let of_options = |text: String| Err(TlsError(What::Options(text)));
        let (certs, keys) = match (&options.cert, &options.key) {
            (Some(certs), Some(keys)) => (certs, keys),
            (None, None) => {
                return of_options(
                    "there is no certificate: give cert=FILE and key=FILE ('echopool cert' makes a \
                     pair for trying)"
                        .into(),
                );
            }
            (Some(_), None) => {
                return of_options("cert=FILE needs key=FILE, its private key".into());
            }
            (None, Some(_)) => {
                return of_options("key=FILE needs cert=FILE, its certificate".into());
            }
        };
        let (cert_count, key_count) = (certs.paths().count(), keys.paths().count());
        if cert_count != key_count {
            return of_options(format!(
                "cert has {cert_count} files and key has {key_count}: give the key of each \
                 certificate"
            ));
        }
        let pairs = certs.paths().zip(keys.paths());
        Ok(Certificates(pairs.map(|(cert, key)| pair(cert, key)).collect::<Result<_, _>>()?))
    }

    /// The first whose certificate is valid for a name.
    fn of_name(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        let name = ServerName::try_from(name).ok()?;
        self.0.iter().find(|one| {
            let certificate =
                one.cert.first().and_then(|der| ParsedCertificate::try_from(der).ok());
            certificate.is_some_and(|certificate| verify_server_name(&certificate, &name).is_ok())
        })
    }
}

fn pair(cert: &Path, key: &Path) -> Result<Arc<CertifiedKey>, TlsError> {
    let none = "it has no private key: give a PEM file with a line -----BEGIN PRIVATE KEY----- \
                that is not encrypted";
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| unreadable(key, error, none))?;
    let chain = chain(cert)?;
    let pair = CertifiedKey::from_der(chain, secret, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => TlsError::file(
            key,
            format_args!("it is not the key of the certificate in {}", cert.display()),
        ),
        error => TlsError::new(format_args!("{} with {}: {error}", cert.display(), key.display())),
    })?;
    Ok(Arc::new(pair))
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of_name(name));
        named.or(self.0.first()).cloned()
    }
}
