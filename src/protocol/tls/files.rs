//! The files of either side: certificates, private keys, and the certificates of authorities.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{RootCertStore, SupportedProtocolVersion, version};

use super::options::{Files, TlsOptions, TlsVersion};
use super::provider;

/// Why TLS cannot be set up. The text names the file, and the remedy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsError(TlsErrorKind);

#[derive(Clone, PartialEq, Eq, Debug)]
enum TlsErrorKind {
    /// No file is at fault.
    Options(String),
    File(String),
}

impl TlsError {
    pub(super) fn new(problem: impl fmt::Display) -> TlsError {
        TlsError(TlsErrorKind::File(problem.to_string()))
    }

    /// The options contradict each other.
    pub(super) fn of_options(problem: impl fmt::Display) -> TlsError {
        TlsError(TlsErrorKind::Options(problem.to_string()))
    }

    pub(super) fn file(path: &Path, problem: impl fmt::Display) -> TlsError {
        TlsError::new(format_args!("{}: {problem}", path.display()))
    }

    /// Whether the options are wrong, and not a file.
    pub fn is_of_options(&self) -> bool {
        matches!(self.0, TlsErrorKind::Options(_))
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (TlsErrorKind::Options(text) | TlsErrorKind::File(text)) = &self.0;
        f.write_str(text)
    }
}

impl std::error::Error for TlsError {}

/// The versions of TLS from the oldest to the newest that is allowed.
///
/// # Errors
/// There are none.
pub(super) fn versions(
    oldest: TlsVersion,
    newest: TlsVersion,
) -> Result<&'static [&'static SupportedProtocolVersion], TlsError> {
    static NEWEST_FIRST: [&SupportedProtocolVersion; 2] = [&version::TLS13, &version::TLS12];
    match (oldest, newest) {
        (TlsVersion::V1_2, TlsVersion::V1_3) => Ok(&NEWEST_FIRST),
        (TlsVersion::V1_3, TlsVersion::V1_3) => Ok(&NEWEST_FIRST[..1]),
        (TlsVersion::V1_2, TlsVersion::V1_2) => Ok(&NEWEST_FIRST[1..]),
        (TlsVersion::V1_3, TlsVersion::V1_2) => {
            Err(TlsError::of_options("tls-max is older than tls-min"))
        }
    }
}

/// The certificates of authorities.
pub(super) fn roots(files: &Files) -> Result<RootCertStore, TlsError> {
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

/// The certificate chains of the options, each with its private key.
///
/// # Errors
/// A certificate has no key or the reverse, or a file is missing or does not contain what it must.
pub(super) fn pairs(options: &TlsOptions) -> Result<Vec<Arc<CertifiedKey>>, TlsError> {
    let (certs, keys) = match (&options.cert, &options.key) {
        (Some(certs), Some(keys)) => (certs, keys),
        (None, None) => return Ok(Vec::new()),
        (Some(_), None) => {
            return Err(TlsError::of_options("cert=FILE needs key=FILE, its private key"));
        }
        (None, Some(_)) => {
            return Err(TlsError::of_options("key=FILE needs cert=FILE, its certificate"));
        }
    };
    let (cert_count, key_count) = (certs.paths().count(), keys.paths().count());
    if cert_count != key_count {
        return Err(TlsError::of_options(format_args!(
            "cert has {cert_count} files and key has {key_count}: give the key of each certificate"
        )));
    }
    certs.paths().zip(keys.paths()).map(|(cert, key)| pair(cert, key)).collect()
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
