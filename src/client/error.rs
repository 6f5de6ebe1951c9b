//! What can go wrong with a client's operation: [`Error`] says what, and the remedy where there is
//! one; [`Failed`] is an error together with what the operation had and what it achieved.

use std::net::SocketAddr;
use std::sync::Arc;
use std::{fmt, io};

use crate::base::endpoint::lacks_zone;
use crate::error::{CloseReason, Errno};
use crate::protocol::framing::FrameError;

/// What one address of the target answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The address.
    pub address: SocketAddr,
    /// What came of it.
    pub error: Errno,
}

/// What each address of the target answered, in the order in which they were tried.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attempts(pub(super) Arc<[Attempt]>);

impl Attempts {
    /// One for each address.
    pub fn iter(&self) -> impl Iterator<Item = &Attempt> {
        self.0.iter()
    }
}

impl fmt::Display for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, Attempt { address, error }) in self.0.iter().enumerate() {
            let comma = if nth == 0 { "" } else { "; " };
            match *error {
                Errno::CONNREFUSED => write!(f, "{comma}{address}: refused")?,
                Errno::TIMEDOUT => write!(f, "{comma}{address}: no answer in time")?,
                other => write!(f, "{comma}{address}: {other}")?,
            }
        }
        Ok(())
    }
}

/// Why an operation did not succeed.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The target is not `host:port`, or not of a service that there is.
    Target(String),
    /// The name has no address, or could not be looked up.
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        reason: String,
    },
    /// Nobody listens: at least one address refused, and none accepted.
    Refused(Attempts),
    /// No address could be reached in time.
    ConnectTimedOut(Attempts),
    /// No address could be connected to, for another reason.
    Unreachable(Attempts),
    /// The operation was not done by its deadline.
    TimedOut,
    /// The peer took no byte for the send time-out; the connection was closed.
    SendTimedOut,
    /// The peer has closed its side.
    ClosedByPeer,
    /// The peer, or something on the way to it, has reset the connection.
    Reset,
    /// The peer does not answer any more (keepalive, retransmissions).
    PeerLost,
    /// A system call failed, for another reason than those above.
    Failed,
    /// A message that is longer than allowed, or whose length makes no sense: sent, or received. If
    /// it was received the connection is closed, since nobody knows where the next one begins.
    FrameTooLarge(FrameError),
    /// More came before the end of the stream than there was to be room for, in bytes.
    TooLong(usize),
    /// The operation was cancelled, or its client was disconnected or dropped.
    Cancelled,
    /// The client is not connected, and does not try to be.
    NotConnected,
    /// The client is connected or connecting already.
    AlreadyConnected,
    /// The sending side was closed before.
    HalfClosed,
    /// The client has no framing, so it has no messages.
    NoFraming,
    /// The loop has as many operations as it has room for.
    QueueFull,
    /// The loop has as many clients as it has room for.
    TooManyClients,
    /// There is no loop: what it needs could not be had.
    CannotStart(String),
    /// The loop has ended.
    LoopEnded,
    /// Waiting on the loop's own thread, in a callback, would wait for ever.
    OnLoopThread,
}

impl Error {
    /// What a failed connect comes to, by what the addresses answered.
    pub(super) fn of_attempts(attempts: &[Attempt]) -> Error {
        let has = |errno| attempts.iter().any(|attempt| attempt.error == errno);
        let all = Attempts(attempts.into());
        if has(Errno::CONNREFUSED) {
            Error::Refused(all)
        } else if has(Errno::TIMEDOUT) {
            Error::ConnectTimedOut(all)
        } else {
            Error::Unreachable(all)
        }
    }

    /// Whether trying the same again cannot help: the caller has to change something first, such as
    /// to connect, to use another target, or to start another loop. Other errors may pass.
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
            Error::Resolve { .. }
            | Error::Refused(_)
            | Error::ConnectTimedOut(_)
            | Error::Unreachable(_)
            | Error::TimedOut
            | Error::SendTimedOut
            | Error::ClosedByPeer
            | Error::Reset
            | Error::PeerLost
            | Error::Failed
            | Error::TooLong(_)
            | Error::Cancelled
            | Error::QueueFull
            | Error::TooManyClients
            | Error::CannotStart(_) => false,
        }
    }

    /// A loop could not be started.
    pub(crate) fn cannot_start(error: &io::Error) -> Error {
        Error::CannotStart(with_remedy(error))
    }

    /// What the end of a connection comes to.
    pub(super) fn of_close(reason: CloseReason) -> Error {
        match reason {
            CloseReason::PeerClosed => Error::ClosedByPeer,
            CloseReason::Reset => Error::Reset,
            CloseReason::PeerLost => Error::PeerLost,
            CloseReason::SendTimeout => Error::SendTimedOut,
            CloseReason::Stopped => Error::LoopEnded,
            _ => Error::Failed,
        }
    }
}

/// An error of the system, and what can be done about it.
pub(crate) fn with_remedy(error: &io::Error) -> String {
    let remedy = error.raw_os_error().and_then(|raw| remedy(Errno::from_raw_os_error(raw)));
    format!("{error}{}", remedy.unwrap_or_default())
}

/// What can be done about an error of the system, where that is known.
fn remedy(error: Errno) -> Option<&'static str> {
    match error {
        Errno::MFILE => Some("; allow this process more open files (ulimit -n)"),
        Errno::NFILE => Some("; allow the system more open files (fs.file-max)"),
        Errno::ADDRNOTAVAIL => {
            Some("; if all local ports are in use, wait or raise net.ipv4.ip_local_port_range")
        }
        Errno::NETUNREACH | Errno::HOSTUNREACH => Some("; check the address and the routes"),
        Errno::ACCESS | Errno::PERM => Some("; check the address, and what filters its packets"),
        _ => None,
    }
}

impl Attempt {
    /// What can be done about it, where that is known.
    fn remedy(&self) -> Option<&'static str> {
        match self.error {
            Errno::INVAL if lacks_zone(&self.address) => {
                Some("; write the interface of a link-local address with it: [fe80::1%eth0]:7777")
            }
            error => remedy(error),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Target(text) => f.write_str(text),
            Error::Resolve { host, reason } => {
                write!(f, "cannot look up {host}: {reason}; check the name, or give an address")
            }
            Error::Refused(attempts) => {
                write!(f, "nobody listens there ({attempts}); start the server, or check the port")
            }
            Error::ConnectTimedOut(attempts) => {
                write!(f, "no answer ({attempts}); check the address and what filters its packets")
            }
            Error::Unreachable(attempts) => {
                let remedy = attempts.iter().find_map(Attempt::remedy);
                write!(f, "cannot connect ({attempts}){}", remedy.unwrap_or_default())
            }
            Error::CannotStart(text) => write!(f, "cannot start a client loop: {text}"),
            Error::TimedOut => f.write_str("not done in time; allow more time, or ask the server"),
            Error::SendTimedOut => f.write_str(
                "the peer has read nothing for the send time-out, and the connection was closed",
            ),
            Error::ClosedByPeer => f.write_str("the peer has closed the connection"),
            Error::Reset => f.write_str("the connection was reset"),
            Error::PeerLost => f.write_str("the peer does not answer any more"),
            Error::Failed => f.write_str("the connection failed"),
            Error::FrameTooLarge(error) => {
                write!(f, "{error}; raise the limit of the framing, or check that both sides agree")
            }
            Error::TooLong(max) => {
                write!(f, "more than {max} bytes before the end; allow more, or receive in parts")
            }
            Error::Cancelled => f.write_str("cancelled"),
            Error::NotConnected => f.write_str("not connected; connect first"),
            Error::AlreadyConnected => f.write_str("connected already; disconnect first"),
            Error::HalfClosed => f.write_str("the sending side is closed; connect again to send"),
            Error::NoFraming => f.write_str(
                "the client has no framing; give it one (Options::framing, or a target such as \
                 framed://host:port), or receive bytes",
            ),
            Error::QueueFull => f.write_str(
                "the loop has no room for another operation; wait for some, or raise \
                 LoopLimits::operations",
            ),
            Error::TooManyClients => f.write_str(
                "the loop has no room for another client; drop some, or raise LoopLimits::clients",
            ),
            Error::LoopEnded => f.write_str("the client loop has ended; keep its ClientLoop alive"),
            Error::OnLoopThread => f.write_str(
                "waiting in a callback would wait for ever; use on_complete, or another thread",
            ),
        }
    }
}

impl std::error::Error for Error {}

/// An operation that did not succeed: why, and where its bytes are.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failed {
    /// Why.
    pub error: Error,
    /// For operations that send: how many bytes, framing included, can not be taken back. The
    /// kernel has them or, if the operation was cancelled while the connection goes on, is about to
    /// get them.
    pub bytes_sent: usize,
    /// For operations that send: what was to be sent, whole. For those that receive: what had come
    /// when the connection ended; empty if it goes on, because what had come is kept for the next
    /// receive then.
    pub buffer: Vec<u8>,
    pub(super) at_rest: bool,
}

impl Failed {
    /// Whether the same operation would fail again if it were begun now, however often: as
    /// [`Error::is_final`], and also when the client has no connection and makes none by itself.
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
            write!(f, " ({} bytes had been sent)", self.bytes_sent)?;
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
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        for (error, hint) in [
            (Errno::MFILE, "ulimit -n"),
            (Errno::ADDRNOTAVAIL, "ip_local_port_range"),
            (Errno::NETUNREACH, "routes"),
            (Errno::ACCESS, "filters"),
        ] {
            let text = Error::of_attempts(&[Attempt { address, error }]).to_string();
            assert!(text.contains("127.0.0.1:7") && text.contains(hint), "{text}");
            let text = Error::cannot_start(&error.into()).to_string();
            assert!(text.contains("cannot start") && text.contains(hint), "{text}");
        }
        let attempt =
            |address: &str| Attempt { address: address.parse().unwrap(), error: Errno::INVAL };
        let hinted =
            |address| Error::of_attempts(&[attempt(address)]).to_string().contains("%eth0");
        assert!(hinted("[fe80::1]:7") && !hinted("[fe80::1%1]:7") && !hinted("[::1]:7"));
    }
}
