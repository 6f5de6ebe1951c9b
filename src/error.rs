//! What can fail: the start of a server ([`StartError`]), and a connection ([`CloseReason`]).
//!
//! Errors of the data path carry codes and no boxed text, so reporting one allocates nothing.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use crate::base::endpoint::{Endpoint, lacks_zone};
use crate::base::units::show_size;
use crate::buffer::room;
#[cfg(feature = "tls")]
pub use crate::tls::TlsError;

pub use crate::base::errno::Errno;

/// Why an address passed to [`Config::listen`](crate::Config::listen) cannot be listened on.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum AddressError {
    /// The text is not an address.
    NotUnderstood {
        /// The text.
        text: String,
        /// What is wrong with it, and what is expected.
        reason: String,
    },
    /// The name has no address.
    NotFound {
        /// The name.
        host: String,
        /// The error of the system's resolver.
        reason: String,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AddressError::NotUnderstood { text, reason } => {
                write!(f, "cannot listen on '{text}': {reason}")
            }
            AddressError::NotFound { host, reason } => {
                write!(f, "cannot resolve '{host}': {reason}; give its address instead")
            }
        }
    }
}

impl std::error::Error for AddressError {}

/// A setting of a server or of its service with which the service cannot work.
///
/// The text names fields in backticks, as in "`max_frame`". A program with flags or a settings file
/// can replace them with its own names.
///
/// ```
/// use echopool::error::SettingError;
///
/// let error = SettingError::new("depth", 0, "`depth` is 0: allow at least one");
/// assert_eq!((error.field(), error.value()), ("depth", "0"));
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettingError {
    field: &'static str,
    value: String,
    text: String,
}

impl SettingError {
    /// An error about `field` with this `value`. The text says what is wrong, and the remedy.
    pub fn new(field: &'static str, value: impl ToString, text: impl Into<String>) -> SettingError {
        SettingError { field, value: value.to_string(), text: text.into() }
    }

    /// The name of the setting.
    pub fn field(&self) -> &'static str {
        self.field
    }

    /// Its value.
    pub fn value(&self) -> &str {
        &self.value
    }
}

impl fmt::Display for SettingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SettingError {}

/// Why a server did not start. The text names the remedy.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// A text passed to [`Config::listen`](crate::Config::listen) is not an address.
    Address(AddressError),
    /// No endpoint to listen on was specified.
    NothingToListenOn,
    /// The same endpoint was specified twice.
    ListenedTwice(Endpoint),
    /// Another endpoint, a wildcard address, takes the connections of this one.
    Covered {
        /// The narrower one.
        endpoint: Endpoint,
        /// The wider one.
        by: Endpoint,
    },
    /// A mode or an owner was specified for an abstract name, which has no file.
    NoFile(Endpoint),
    /// The service has no datagrams, or this system cannot serve them.
    NoDatagrams(Endpoint),
    /// Another socket uses the address.
    AddressInUse(Endpoint),
    /// At the path of the Unix socket is a file that is not a socket.
    NotASocket(Endpoint),
    /// The files of a listener with TLS cannot be used.
    #[cfg(feature = "tls")]
    Tls {
        /// The endpoint.
        endpoint: Endpoint,
        /// What is wrong, and with which file.
        error: TlsError,
    },
    /// The listener could not be made for another reason.
    Listen {
        /// The endpoint.
        endpoint: Endpoint,
        /// The system call that failed.
        call: &'static str,
        /// Its error.
        error: std::io::Error,
    },
    /// A limit is outside its range.
    Limit {
        /// The limit, by the name of its method of [`Config`](crate::Config).
        field: &'static str,
        /// The requested value.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
    },
    /// The setting cannot be changed like this while the server runs.
    Fixed {
        /// The setting, by the name of its method of [`Config`](crate::Config).
        field: &'static str,
    },
    /// A time is outside its range.
    Timeout {
        /// The time, by the name of its method of [`Config`](crate::Config).
        field: &'static str,
        /// The requested value.
        value: Duration,
        /// The allowed values.
        allowed: &'static str,
    },
    /// More connections were requested than the limit of open files allows.
    OpenFiles {
        /// Connections requested.
        connections: u64,
        /// Open files needed for them.
        needed: u64,
        /// The hard limit.
        hard_limit: u64,
        /// Connections that the hard limit allows.
        possible: u64,
    },
    /// The service cannot work with these limits.
    Service(SettingError),
    /// The system refused the memory that the limits add up to.
    Memory {
        /// The sum, in bytes.
        needed: u64,
        /// Its parts, the largest first.
        parts: String,
        /// The cause.
        error: std::io::Error,
    },
    /// Memory, a thread or a part of an event loop could not be allocated.
    Resource {
        /// What could not be made.
        what: &'static str,
        /// The cause.
        error: std::io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Address(error) => error.fmt(f),
            StartError::NothingToListenOn => {
                write!(f, "nothing to listen on: give at least one endpoint")
            }
            StartError::ListenedTwice(endpoint) => {
                write!(f, "{endpoint} is given twice: give each address once")
            }
            StartError::Covered { endpoint, by } => {
                write!(f, "cannot listen on {endpoint}: {by} takes its connections too; give one")
            }
            StartError::NoFile(endpoint) => write!(
                f,
                "cannot listen on {endpoint} with a mode or an owner: an abstract name has no file; \
                 omit them, or give a path"
            ),
            StartError::NoDatagrams(endpoint) => write!(
                f,
                "cannot serve {endpoint}: {}",
                match cfg!(target_os = "linux") {
                    true => "the service has no datagrams; echo, discard, chargen and stamp have",
                    false => "datagrams are served on Linux alone",
                }
            ),
            StartError::NotASocket(endpoint) => write!(
                f,
                "cannot listen on {endpoint}: the file there is not a socket; remove it, or give \
                 another path"
            ),
            #[cfg(feature = "tls")]
            StartError::Tls { endpoint, error } => {
                write!(f, "cannot listen on {endpoint} with TLS: {error}")
            }
            StartError::AddressInUse(endpoint @ Endpoint::Unix(_)) => write!(
                f,
                "cannot listen on {endpoint}: a program listens there; stop it, or give another \
                 path or name"
            ),
            StartError::AddressInUse(endpoint) => write!(
                f,
                "cannot listen on {endpoint}: the address is in use; stop the program that uses \
                 it, listen on another port (0 takes a free one), or share the port on purpose (`share_port`, on both sides)"
            ),
            StartError::Listen { endpoint, call, error } => {
                write!(
                    f,
                    "cannot listen on {endpoint}: {call}: {error}{}",
                    match endpoint {
                        Endpoint::Tcp(address) | Endpoint::Udp(address) => {
                            listen_remedy(address, error)
                        }
                        Endpoint::Unix(_) => unix_remedy(call, error),
                    }
                )
            }
            StartError::Limit { field, value, min, max } => {
                write!(f, "`{field}` is {value}, but must be from {min} to {max}")
            }
            StartError::Fixed { field } => {
                write!(f, "`{field}` cannot be set while the server runs: start it with a limit")
            }
            StartError::Timeout { field, value, allowed } => {
                write!(f, "`{field}` is {value:?}, but must be {allowed}")
            }
            StartError::OpenFiles { connections, needed, hard_limit, possible } => write!(
                f,
                "{connections} connections need {needed} open files, but the hard limit is {hard_limit}, which has \
                 room for {possible}; raise it (ulimit -Hn {needed}, or LimitNOFILE={needed} in the systemd unit) or \
                 ask for at most {possible} connections"
            ),
            StartError::Service(error) => error.fmt(f),
            StartError::Memory { needed, parts, error } => write!(
                f,
                "cannot allocate {}, the sum of memory ({parts}): {error}; lower what the largest part depends on \
                 (`buffers`, `max_connections`, `workers`, options of the service), or allow more (ulimit -v)",
                show_size(*needed)
            ),
            StartError::Resource { what, error } => {
                write!(f, "cannot create {what}: {error}{}", room::remedy(error))
            }
        }
    }
}

fn listen_remedy(address: &SocketAddr, error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::InvalidInput if lacks_zone(address) => {
            "; write the interface of a link-local address with it: [fe80::1%eth0]:7777"
        }
        std::io::ErrorKind::PermissionDenied => {
            "; ports below 1024 need CAP_NET_BIND_SERVICE (or net.ipv4.ip_unprivileged_port_start): use a higher port"
        }
        std::io::ErrorKind::AddrNotAvailable => {
            "; no interface of this machine has the address: see 'ip address'"
        }
        _ => "",
    }
}

fn unix_remedy(call: &str, error: &std::io::Error) -> &'static str {
    use std::io::ErrorKind;
    match (call, error.kind()) {
        ("open", ErrorKind::NotFound) => "; create the directory of the socket first",
        ("open" | "bind" | "lstat" | "unlink", ErrorKind::PermissionDenied) => {
            "; the server's user must be allowed to read and write the directory of the socket"
        }
        ("connect", ErrorKind::PermissionDenied) => {
            "; there is a socket of another user: remove it, or give another path"
        }
        ("chown", ErrorKind::PermissionDenied) => {
            "; only root can give a file to another user, or to a group that it is not in"
        }
        ("flock", ErrorKind::WouldBlock) => {
            "; another program has locked the directory of the socket: give the socket a directory \
             of its own"
        }
        _ => "",
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StartError::Listen { error, .. }
            | StartError::Memory { error, .. }
            | StartError::Resource { error, .. } => Some(error),
            _ => None,
        }
    }
}

/// Why a connection was closed.
///
/// ```
/// use echopool::CloseReason;
///
/// assert_eq!(CloseReason::SendTimeout.to_string(), "send-timeout");
/// ```
///
/// Each reason has one word, the same in logs, counters and documents: [`CloseReason::word`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
#[repr(u8)]
pub enum CloseReason {
    /// The peer closed its side, and all of its output was sent.
    PeerClosed,
    /// The peer or its network reset the connection (ECONNRESET, EPIPE).
    Reset,
    /// The peer no longer responded to the kernel (ETIMEDOUT: keepalive, retransmissions).
    PeerLost,
    /// Any other error of a system call.
    Failed,
    /// Nothing was sent or received for the idle time-out.
    IdleTimeout,
    /// The peer accepted no byte of the pending output within the send time-out.
    SendTimeout,
    /// Other connections were waiting for a buffer, and the bytes in this connection's buffers had
    /// not moved for longest: its peer does not read, or does not send the rest of a message.
    Shed,
    /// The service closed it.
    Service,
    /// The service left more input unconsumed than a connection may hold.
    InputLimit,
    /// The client announced or sent a message longer than allowed.
    MessageTooLong,
    /// The client sent something that the service's protocol does not allow.
    ProtocolError,
    /// The client did not read other clients' messages fast enough, and the service closes such
    /// clients; or it had missed some when its connection was to end, and there was no buffer to
    /// tell it.
    SlowReader,
    /// Another thread closed it.
    Disconnected,
    /// The service panicked.
    ServicePanic,
    /// The client's address had as many connections as
    /// [`Config::max_connections_per_address`](crate::Config::max_connections_per_address) allows.
    /// The connection was reset right after accept, or, behind a proxy, once the client was known.
    AddressLimit,
    /// The connection should have begun with a header of the PROXY protocol, but did not, or did
    /// not come from a proxy that may send one.
    ProxyHeader,
    /// The server is draining.
    Drained,
    /// The server was stopped.
    Stopped,
    /// The TLS handshake failed, or took too long.
    TlsHandshake,
    /// After the handshake, the peer sent a fatal TLS alert, or was sent one because its records
    /// were not valid.
    TlsAlert,
    /// The peer closed its side without ending its TLS stream (close_notify), so that what it sent
    /// may have been cut.
    TlsTruncated,
}

impl CloseReason {
    /// All reasons, in the order of their numbers.
    pub const ALL: [CloseReason; 21] = [
        CloseReason::PeerClosed,
        CloseReason::Reset,
        CloseReason::PeerLost,
        CloseReason::Failed,
        CloseReason::IdleTimeout,
        CloseReason::SendTimeout,
        CloseReason::Shed,
        CloseReason::Service,
        CloseReason::InputLimit,
        CloseReason::MessageTooLong,
        CloseReason::ProtocolError,
        CloseReason::SlowReader,
        CloseReason::Disconnected,
        CloseReason::ServicePanic,
        CloseReason::AddressLimit,
        CloseReason::ProxyHeader,
        CloseReason::Drained,
        CloseReason::Stopped,
        CloseReason::TlsHandshake,
        CloseReason::TlsAlert,
        CloseReason::TlsTruncated,
    ];

    /// The reason in one word.
    pub const fn word(self) -> &'static str {
        match self {
            CloseReason::PeerClosed => "peer-closed",
            CloseReason::Reset => "reset",
            CloseReason::PeerLost => "peer-lost",
            CloseReason::Failed => "failed",
            CloseReason::IdleTimeout => "idle-timeout",
            CloseReason::SendTimeout => "send-timeout",
            CloseReason::Shed => "shed",
            CloseReason::Service => "service",
            CloseReason::InputLimit => "input-limit",
            CloseReason::MessageTooLong => "message-too-long",
            CloseReason::ProtocolError => "protocol-error",
            CloseReason::SlowReader => "slow-reader",
            CloseReason::Disconnected => "disconnected",
            CloseReason::ServicePanic => "service-panic",
            CloseReason::AddressLimit => "address-limit",
            CloseReason::ProxyHeader => "proxy-header",
            CloseReason::Drained => "drained",
            CloseReason::Stopped => "stopped",
            CloseReason::TlsHandshake => "tls-handshake",
            CloseReason::TlsAlert => "tls-alert",
            CloseReason::TlsTruncated => "tls-truncated",
        }
    }

    /// The reason for closing a connection on which a system call failed.
    pub(crate) fn of(error: Errno) -> CloseReason {
        match error {
            Errno::CONNRESET | Errno::PIPE | Errno::CONNABORTED => CloseReason::Reset,
            Errno::TIMEDOUT | Errno::HOSTUNREACH | Errno::NETUNREACH => CloseReason::PeerLost,
            _ => CloseReason::Failed,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_numbered_in_order_and_have_words_of_their_own() {
        for (number, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
        let words: std::collections::HashSet<_> =
            CloseReason::ALL.map(CloseReason::word).into_iter().collect();
        assert_eq!(words.len(), CloseReason::ALL.len());
    }
}
