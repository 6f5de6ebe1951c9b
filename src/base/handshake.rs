//! The result of the TLS handshake of a connection that this side started. It is here and not in
//! `tls` because services receive it, and they are the same in a build without TLS.

use std::fmt;
use std::time::Duration;

/// A completed handshake.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Handshake {
    /// The version of TLS: `1.2` or `1.3`.
    pub version: &'static str,
    /// The cipher suite, by the name in the registry of IANA.
    pub cipher_suite: &'static str,
    /// Whether it continues an earlier session. Then no certificates were sent.
    pub is_resumed: bool,
    /// From the established connection to the end of the handshake.
    pub time: Duration,
}

impl Handshake {
    #[cfg_attr(not(feature = "tls"), allow(dead_code))]
    pub(crate) fn new(version: &'static str, cipher_suite: &'static str) -> Handshake {
        Handshake { version, cipher_suite, is_resumed: false, time: Duration::ZERO }
    }
}

/// Why a handshake failed. The text has the remedy, if there is one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[non_exhaustive]
pub enum HandshakeError {
    /// No authority that this side trusts has signed the server's certificate.
    UnknownAuthority,
    /// The server's certificate is for other names.
    WrongName,
    /// The server's certificate has expired, or is not valid yet.
    NotValidNow,
    /// The server's certificate cannot be used, for this other reason.
    Certificate(&'static str),
    /// The server has refused the handshake with this alert.
    Alert(&'static str),
    /// The two sides have no version, cipher suite or protocol in common.
    Incompatible(&'static str),
    /// What the server sent is not TLS.
    NotTls,
    /// The server has closed the connection.
    Closed,
    /// The handshake was not done in time.
    TimedOut,
    /// The server does not keep to the protocol, or this side has failed.
    Failed,
}

impl HandshakeError {
    /// A short name, for reports.
    pub fn name(&self) -> &'static str {
        match self {
            HandshakeError::UnknownAuthority => "tls-unknown-ca",
            HandshakeError::WrongName => "tls-wrong-name",
            HandshakeError::NotValidNow => "tls-not-valid-now",
            HandshakeError::Certificate(_) => "tls-certificate",
            HandshakeError::Alert(_) => "tls-refused",
            HandshakeError::Incompatible(_) => "tls-incompatible",
            HandshakeError::NotTls => "tls-not-tls",
            HandshakeError::Closed => "tls-handshake-closed",
            HandshakeError::TimedOut => "tls-handshake-timed-out",
            HandshakeError::Failed => "tls-handshake-failed",
        }
    }

    /// Whether another attempt fails too, unless something is changed on either side.
    pub fn is_final(&self) -> bool {
        match self {
            HandshakeError::Closed | HandshakeError::TimedOut | HandshakeError::Failed => false,
            HandshakeError::Alert(alert) => *alert != "InternalError",
            _ => true,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HandshakeError::UnknownAuthority => {
                "no known authority has signed the server's certificate; name the authority with \
                 ca=FILE, or trust any certificate with insecure=on"
            }
            HandshakeError::WrongName => {
                "the server's certificate is for another name; connect to that name, or give it \
                 with sni=NAME"
            }
            HandshakeError::NotValidNow => {
                "the server's certificate has expired or is not valid yet; renew it, or check the \
                 clock"
            }
            HandshakeError::Certificate(why) => {
                return write!(f, "the server's certificate cannot be used: {why}");
            }
            HandshakeError::Alert(alert) => {
                return write!(
                    f,
                    "the server has rejected the TLS handshake ({alert}); check the versions and \
                     names that it accepts, and whether it requires a certificate (cert=, key=)"
                );
            }
            HandshakeError::Incompatible(what) => {
                return write!(f, "the server and this side have no {what} of TLS in common");
            }
            HandshakeError::NotTls => {
                "the server does not speak TLS; check the port, or use a target without tls"
            }
            HandshakeError::Closed => "the server closed the connection in the TLS handshake",
            HandshakeError::TimedOut => {
                "the TLS handshake took too long; raise the time-out, or check the server"
            }
            HandshakeError::Failed => "the TLS handshake failed",
        })
    }
}

impl std::error::Error for HandshakeError {}
