//! Errors of client operations. [`Error`] states the cause and, where there is one, the remedy.
//! [`Failed`] adds the operation's bytes and its progress.

use std::sync::Arc;
use std::{fmt, io};

use crate::base::endpoint::{Endpoint, lacks_zone};
use crate::base::words::counted;
use crate::error::{CloseReason, Errno};
use crate::protocol::framing::FrameError;
use crate::service::HandshakeError;

/// The result of one failed attempt to connect to an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The address.
    pub address: Endpoint,
    /// The error of the attempt.
    pub error: Errno,
    /// Why the TLS handshake failed, if that is what has failed. `error` is then EPROTO.
    pub handshake: Option<HandshakeError>,
}

/// The result for each address of the target, in the order in which they were tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempts(pub(super) Arc<[Attempt]>);

impl Attempts {
    /// Iterates over the results, one per address.
    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.0.iter()
    }

    /// Why handshakes failed, each with its address.
    fn handshakes(&self) -> impl Iterator<Item = (&Endpoint, &HandshakeError)> {
        self.0.iter().filter_map(|one| Some((&one.address, one.handshake.as_ref()?)))
    }

    fn all_are_final(&self) -> bool {
        let is_final = |one: &Attempt| one.handshake.as_ref().is_some_and(HandshakeError::is_final);
        self.0.iter().all(is_final)
    }

    fn are_unix(&self) -> bool {
        self.0.iter().all(Attempt::is_unix)
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Attempt { address, error, handshake }) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "; " };
            let address = address.address();
            if let Some(error) = handshake {
                write!(f, "{comma}{address}: {}", error.name())?;
                continue;
            }
            match *error {
                Errno::CONNREFUSED => write!(f, "{comma}{address}: refused")?,
                Errno::NOENT => write!(f, "{comma}{address}: no such file")?,
                Errno::TIMEDOUT => write!(f, "{comma}{address}: no reply in time")?,
                other => write!(f, "{comma}{address}: {other}")?,
            }
        }
        Ok(())
    }
}

/// Why an operation failed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The target is not `host:port` or the path of a Unix socket, or names an unknown service.
    Target(String),
    /// The name has no address, or could not be looked up.
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error text.
        reason: String,
    },
    /// At least one address refused the connection, and none accepted it. A Unix socket without a
    /// file counts as one that refuses.
    Refused(Attempts),
    /// No address replied in time.
    ConnectTimedOut(Attempts),
    /// No address could be connected to, for another reason.
    Unreachable(Attempts),
    /// The TLS handshake failed at one address at least, and no address could be connected to.
    Handshake(Attempts),
    /// The operation did not complete by its deadline.
    TimedOut,
    /// The peer accepted no byte within the send time-out, and the connection was closed.
    SendTimedOut,
    /// The peer has closed its side.
    ClosedByPeer,
    /// The peer, or a device on the path, reset the connection.
    Reset,
    /// The peer no longer responds (keepalive, retransmissions).
    PeerLost,
    /// The peer's stream has ended without close_notify of TLS, so it may be truncated.
    ///
    TlsTruncated,
    /// After the handshake, either side found an error in the other's TLS, and sent an alert.
    /// With TLS 1.3 this is also how a server rejects the client's certificate.
    TlsAlert,
    /// A system call failed for a reason not listed above.
    Failed,
    /// A sent or received message is longer than allowed, or its length is invalid. If it was
    /// received, the connection is closed, because the start of the next message is unknown.
    FrameTooLarge(FrameError),
    /// The stream has more bytes than this limit.
    TooLong(usize),
    /// The operation was cancelled, or its client was disconnected or dropped.
    Cancelled,
    /// The client is not connected, and is not trying to connect.
    NotConnected,
    /// The client is already connected or connecting.
    AlreadyConnected,
    /// The sending side is already closed.
    HalfClosed,
    /// The client has no framing, so it cannot receive messages.
    NoFraming,
    /// The loop has reached its limit of operations.
    QueueFull,
    /// The loop has reached its limit of clients.
    TooManyClients,
    /// The loop could not be started.
    CannotStart(String),
    /// The loop has ended.
    LoopEnded,
    /// The call would block the loop's own thread, in a callback, and never return.
    OnLoopThread,
}

impl Error {
    /// Derives the error of a failed connect from the results of its addresses.
    pub(super) fn of_attempts(attempts: &[Attempt]) -> Error {
        let has = |errno| attempts.iter().any(|attempt| attempt.error == errno);
        let all = Attempts(attempts.into());
        if all.handshakes().next().is_some() {
            Error::Handshake(all)
        } else if has(Errno::CONNREFUSED) || has(Errno::NOENT) {
            Error::Refused(all)
        } else if has(Errno::TIMEDOUT) {
            Error::ConnectTimedOut(all)
        } else {
            Error::Unreachable(all)
        }
    }

    /// Whether a retry cannot succeed until the caller changes something, such as to connect, to
    /// use another target, or to start another loop. Other errors may be temporary.
    pub fn is_final(&self) -> bool {
        match self {
            Error::Target(_)
            | Error::FrameTooLarge(_)
            | Error::NotConnected
            | Error::AlreadyConnected
            | Error::HalfClosed
            | Error::NoFraming
            | Error::LoopEnded
            | Error::OnLoopThread => true,
            // Another address may have been away for a moment.
            Error::Handshake(attempts) => attempts.all_are_final(),
            Error::Resolve { .. }
            | Error::Refused(_)
            | Error::ConnectTimedOut(_)
            | Error::Unreachable(_)
            | Error::TimedOut
            | Error::SendTimedOut
            | Error::ClosedByPeer
            | Error::Reset
            | Error::PeerLost
            | Error::TlsTruncated
            | Error::TlsAlert
            | Error::Failed
            | Error::TooLong(_)
            | Error::Cancelled
            | Error::QueueFull
            | Error::TooManyClients
            | Error::CannotStart(_) => false,
        }
    }

    /// The error for a loop that could not be started.
    pub(crate) fn cannot_start(error: &io::Error) -> Error {
        Error::CannotStart(with_remedy(error))
    }

    /// The error for operations on a connection that closed for this reason.
    pub(super) fn of_close(reason: CloseReason) -> Error {
        match reason {
            CloseReason::PeerClosed => Error::ClosedByPeer,
            CloseReason::Reset => Error::Reset,
            CloseReason::PeerLost => Error::PeerLost,
            CloseReason::TlsTruncated => Error::TlsTruncated,
            CloseReason::TlsAlert => Error::TlsAlert,
            CloseReason::SendTimeout => Error::SendTimedOut,
            CloseReason::Stopped => Error::LoopEnded,
            _ => Error::Failed,
        }
    }
}

/// Formats a system error with its remedy, if there is one.
pub(crate) fn with_remedy(error: &io::Error) -> String {
    let remedy = error.raw_os_error().and_then(|raw| remedy(Errno::from_raw_os_error(raw)));
    format!("{error}{}", remedy.unwrap_or_default())
}

/// The remedy for a system error, if it is known.
fn remedy(error: Errno) -> Option<&'static str> {
    match error {
        Errno::MFILE => Some("; allow this process more open files (ulimit -n)"),
        Errno::NFILE => Some("; allow the system more open files (fs.file-max)"),
        Errno::ADDRNOTAVAIL => {
            Some("; if all local ports are in use, wait or raise net.ipv4.ip_local_port_range")
        }
        Errno::NETUNREACH | Errno::HOSTUNREACH => Some("; check the address and the routes"),
        Errno::ACCESS | Errno::PERM => Some("; check the address and packet filters"),
        _ => None,
    }
}

impl Attempt {
    /// The remedy for this attempt's error, if it is known.
    fn remedy(&self) -> Option<&'static str> {
        match self.error {
            Errno::INVAL if self.address.socket_addr().is_some_and(|at| lacks_zone(&at)) => {
                Some("; add the interface to the link-local address: [fe80::1%eth0]:7777")
            }
            Errno::ACCESS if self.is_unix() => {
                Some("; let this user write to the socket file, and search its directory")
            }
            error => remedy(error),
        }
    }

    fn is_unix(&self) -> bool {
        matches!(self.address, Endpoint::Unix(_))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Target(text) => f.write_str(text),
            Error::Resolve { host, reason } => {
                write!(f, "cannot resolve {host}: {reason}; check the name, or use an address")
            }
            Error::Refused(attempts) => {
                let what = if attempts.are_unix() { "path" } else { "port" };
                write!(
                    f,
                    "no server listens there ({attempts}); start the server, or check the {what}"
                )
            }
            Error::ConnectTimedOut(attempts) if attempts.are_unix() => {
                write!(f, "no reply ({attempts}); the server's backlog is full")
            }
            Error::ConnectTimedOut(attempts) => {
                write!(f, "no reply ({attempts}); check the address and packet filters")
            }
            Error::Unreachable(attempts) => {
                let remedy = attempts.iter().find_map(Attempt::remedy);
                write!(f, "cannot connect ({attempts}){}", remedy.unwrap_or_default())
            }
            Error::Handshake(attempts) => match attempts.handshakes().next() {
                Some((address, error)) => write!(f, "{}: {error}", address.address()),
                None => f.write_str("the TLS handshake failed"),
            },
            Error::CannotStart(text) => write!(f, "cannot start a client loop: {text}"),
            Error::TimedOut => f.write_str("timed out; use a longer time-out, or check the server"),
            Error::SendTimedOut => f.write_str(
                "the peer read nothing within the send time-out, and the connection was closed",
            ),
            Error::ClosedByPeer => f.write_str("the peer has closed the connection"),
            Error::Reset => f.write_str("the connection was reset"),
            Error::PeerLost => f.write_str("the peer no longer responds"),
            Error::TlsTruncated => f.write_str(
                "the peer's stream ended without a TLS close_notify: it may be truncated",
            ),
            Error::TlsAlert => f.write_str(
                "the connection was closed with a TLS alert; if this is right after the start, \
                 check whether the server requires a client certificate (cert=, key=)",
            ),
            Error::Failed => f.write_str("the connection failed"),
            Error::FrameTooLarge(error) => {
                write!(f, "{error}; raise the limit of the framing, or check that both sides agree")
            }
            Error::TooLong(max) => {
                write!(
                    f,
                    "the stream has more than {max} bytes; raise the limit, or receive in parts"
                )
            }
            Error::Cancelled => f.write_str("cancelled"),
            Error::NotConnected => f.write_str("not connected; connect first"),
            Error::AlreadyConnected => f.write_str("already connected; disconnect first"),
            Error::HalfClosed => f.write_str("the sending side is closed; connect again to send"),
            Error::NoFraming => f.write_str(
                "the client has no framing; give it one (Options::framing, or a target such as \
                 framed://host:port), or receive bytes",
            ),
            Error::QueueFull => f.write_str(
                "the loop has no room for another operation; wait for one to complete, or raise \
                 LoopLimits::operations",
            ),
            Error::TooManyClients => f.write_str(
                "the loop has no room for another client; drop one, or raise LoopLimits::clients",
            ),
            Error::LoopEnded => f.write_str("the client loop has ended; keep its ClientLoop alive"),
            Error::OnLoopThread => f.write_str(
                "waiting in a callback would block forever; use on_complete, or another thread",
            ),
        }
    }
}

impl std::error::Error for Error {}

/// A failed operation: the error, and what happened to its bytes.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failed {
    /// The cause.
    pub error: Error,
    /// For sends: the number of bytes, framing included, that cannot be taken back. The kernel has
    /// accepted them or, if the operation was cancelled and the connection continues, is about to
    /// get them.
    pub bytes_sent: usize,
    /// For sends: all data that was to be sent. For receives: the bytes received before the
    /// connection ended. It is empty if the connection continues, because the next receive then
    /// gets those bytes.
    pub buffer: Vec<u8>,
    pub(super) at_rest: bool,
}

impl Failed {
    /// Whether the same operation would always fail if it were started again now. This is the case
    /// for errors that are final ([`Error::is_final`]), and also if the client has no connection
    /// and does not reconnect by itself.
    pub fn is_final(&self) -> bool {
        self.at_rest || self.error.is_final()
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed")
            .field("error", &self.error)
            .field("bytes_sent", &self.bytes_sent)
            .field("buffer_len", &self.buffer.len())
            .finish()
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)?;
        if self.bytes_sent > 0 {
            let was = if self.bytes_sent == 1 { "was" } else { "were" };
            write!(f, " ({} {was} sent)", counted(self.bytes_sent as u64, "byte"))?;
        }
        Ok(())
    }
}

impl std::error::Error for Failed {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

impl From<Failed> for Error {
    fn from(failed: Failed) -> Error {
        failed.error
    }
}

impl From<Error> for Failed {
    fn from(error: Error) -> Failed {
        Failed { error, bytes_sent: 0, buffer: Vec::new(), at_rest: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_refuses_has_its_remedy() {
        let address = Endpoint::from(std::net::SocketAddr::from(([127, 0, 0, 1], 7)));
        for (error, hint) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::ADDRNOTAVAIL, "ip_local_port_range"),
            (Errno::NETUNREACH, "routes"),
            (Errno::ACCESS, "filters"),
        ] {
            let text =
                Error::of_attempts(&[Attempt { address, error, handshake: None }]).to_string();
            assert!(text.contains("127.0.0.1:7") && text.contains(hint), "{text}");
            let text = Error::cannot_start(&error.into()).to_string();
            assert!(text.contains("cannot start") && text.contains(hint), "{text}");
        }
        let attempt = |address: &str| {
            let address = address.parse::<std::net::SocketAddr>().unwrap().into();
            Attempt { address, error: Errno::INVAL, handshake: None }
        };
        let hinted =
            |address| Error::of_attempts(&[attempt(address)]).to_string().contains("%eth0");
        assert!(hinted("[fe80::1]:7") && !hinted("[fe80::1%1]:7") && !hinted("[::1]:7"));
    }

    /// A server that was away for a moment may come back.
    #[test]
    fn a_failed_handshake_is_final_only_if_no_other_address_failed_in_passing() {
        let address = Endpoint::from(std::net::SocketAddr::from(([127, 0, 0, 1], 7)));
        let failed =
            |handshake| Attempt { address, error: Errno::PROTO, handshake: Some(handshake) };
        let wrong = failed(HandshakeError::UnknownAuthority);
        let refused = Attempt { address, error: Errno::CONNREFUSED, handshake: None };
        let cut = failed(HandshakeError::Closed);
        assert!(Error::of_attempts(&[wrong, wrong]).is_final());
        for other in [refused, cut] {
            let error = Error::of_attempts(&[wrong, other]);
            assert!(matches!(error, Error::Handshake(_)) && !error.is_final(), "{error}");
        }
    }
}
