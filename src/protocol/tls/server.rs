//! The TLS of a listener: its certificates, and how a session with each client begins.

use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::verify_server_name;
use rustls::crypto::ring::Ticketer;
use rustls::pki_types::ServerName;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ParsedCertificate, ProducesTickets, ResolvesServerCert,
    ServerConfig, ServerConnection, WebPkiClientVerifier,
};
use rustls::sign::CertifiedKey;

use super::files::{TlsError, pairs, roots, versions};
use super::options::{ClientAuth, Files, TlsClientOptions, TlsOptions, TlsVersion};
use super::provider;
use super::session::Session;

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
    if options.client != TlsClientOptions::default() {
        return Err(TlsError::of_options(
            "ca, sni, insecure, resume and tls-max are options of clients; a listener checks the \
             certificates of its clients with client-ca=FILE",
        ));
    }
    let certificates = Certificates::read(options)?;
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(options.tls_min, TlsVersion::V1_3)?)
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

fn verifier(files: &Files, auth: ClientAuth) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(files)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, provider());
    let builder = match auth {
        ClientAuth::Require => builder,
        ClientAuth::Optional => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| TlsError::new(format_args!("client-ca: {error}")))
}

/// Certificate chains with their keys, each for other names.
#[derive(Debug)]
struct Certificates(Vec<Arc<CertifiedKey>>);

impl Certificates {
    fn read(options: &TlsOptions) -> Result<Certificates, TlsError> {
        match pairs(options)? {
            pairs if pairs.is_empty() => Err(TlsError::of_options(
                "there is no certificate: give cert=FILE and key=FILE ('echopool cert' makes a \
                 pair for trying)",
            )),
            pairs => Ok(Certificates(pairs)),
        }
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

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| self.of_name(name));
        named.or(self.0.first()).cloned()
    }
}
