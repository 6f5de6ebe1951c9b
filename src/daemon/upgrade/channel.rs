//! Messages between two processes of the program: JSON, with sockets, over a pair of Unix sockets that
//! keep the bounds of messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::{Errno, FdFlags};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The longest message, in bytes. Paths are at most 108 bytes, names of passed sockets 255.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// The most sockets of a message: one for each worker. The kernel's own limit is 253.
const SOCKETS_MAX: usize = 128;

/// One end of a channel.
pub(super) struct Channel(OwnedFd);

/// A message with its sockets. `None` at the end of the channel.
pub(super) type Received<T> = Option<(T, Vec<OwnedFd>)>;

impl Channel {
    /// Both ends. No program that is started inherits them. A message that the other end does not take
    /// for `patience` is an error.
    pub(super) fn pair(patience: Duration) -> io::Result<(Channel, Channel)> {
        let (unix, kind) = (AddressFamily::UNIX, SocketType::SEQPACKET);
        let (one, other) = rustix::net::socketpair(unix, kind, SocketFlags::CLOEXEC, None)?;
        sockopt::set_socket_timeout(&one, Timeout::Send, Some(patience))?;
        Ok((Channel(one), Channel(other)))
    }

    /// The end that this process has inherited.
    ///
    /// # Errors
    /// It is not the end of a channel.
    pub(super) fn inherited(descriptor: OwnedFd) -> io::Result<Channel> {
        let is_channel = sockopt::socket_type(&descriptor)? == SocketType::SEQPACKET;
        let channel = Channel(descriptor);
        channel.let_inherit(false)?;
        is_channel.then_some(channel).ok_or_else(|| io::ErrorKind::InvalidInput.into())
    }

    /// Sets whether programs that are started inherit it. Returns its number.
    pub(super) fn let_inherit(&self, inherit: bool) -> io::Result<RawFd> {
        let flags = if inherit { FdFlags::empty() } else { FdFlags::CLOEXEC };
        rustix::io::fcntl_setfd(&self.0, flags)?;
        Ok(self.0.as_raw_fd())
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Another descriptor of this end.
    pub(super) fn another(&self) -> io::Result<Channel> {
        Ok(Channel(self.0.try_clone()?))
    }

    /// Ends both directions. What has arrived can still be received.
    pub(super) fn shut_down(&self) {
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }

    /// Sends a message with copies of these sockets.
    ///
    /// # Errors
    /// The other end is gone, or does not receive.
    pub(super) fn send(
        &self,
        message: &impl Serialize,
        sockets: &[BorrowedFd<'_>],
    ) -> io::Result<()> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > MESSAGE_BYTES_MAX || sockets.len() > SOCKETS_MAX {
            return Err(io::Error::other("the message is too long"));
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !sockets.is_empty() {
            control.push(SendAncillaryMessage::ScmRights(sockets));
        }
        let send = || {
            rustix::net::sendmsg(
                &self.0,
                &[IoSlice::new(&bytes)],
                &mut control,
                SendFlags::NOSIGNAL,
            )
        };
        rustix::io::retry_on_intr(send)?;
        Ok(())
    }

    /// Receives a message. Waits for it at most `patience`, or for ever.
    ///
    /// # Errors
    /// ETIMEDOUT; or what has come is no such message.
    pub(super) fn receive<T: DeserializeOwned>(
        &self,
        patience: Option<Duration>,
    ) -> io::Result<Received<T>> {
        let patience = patience.map(|time| Timespec {
            tv_sec: time.as_secs() as i64,
            tv_nsec: time.subsec_nanos().into(),
        });
        let mut ready = [PollFd::new(&self.0, PollFlags::IN)];
        if rustix::io::retry_on_intr(|| poll(&mut ready, patience.as_ref()))? == 0 {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let mut bytes = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(SOCKETS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut receive = || {
            let mut buffers = [IoSliceMut::new(&mut bytes)];
            rustix::net::recvmsg(&self.0, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)
        };
        let received = loop {
            match receive() {
                // An end that was closed before it received everything. Linux says that once, and then
                // gives what the end has sent before.
                Err(Errno::INTR | Errno::CONNRESET) => {}
                result => break result?,
            }
        };
        let sockets = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(sockets) => sockets.collect(),
            _ => Vec::new(),
        });
        let sockets: Vec<OwnedFd> = sockets.collect();
        match received.bytes {
            0 => Ok(None),
            length => Ok(Some((serde_json::from_slice(&bytes[..length])?, sockets))),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;
    use std::thread;

    use super::*;

    #[test]
    fn a_message_arrives_whole_and_with_its_sockets() {
        let (one, other) = Channel::pair(Duration::from_secs(5)).unwrap();
        let (near, far) = UnixStream::pair().unwrap();
        let message = vec!["x".repeat(30_000), "y".to_owned()];
        one.send(&message, &[near.as_fd(), near.as_fd()]).unwrap();
        one.send(&1, &[]).unwrap();
        drop((one, near));
        let received: Received<Vec<String>> = other.receive(None).unwrap();
        let (text, sockets) = received.unwrap();
        assert_eq!((text, sockets.len()), (message, 2));
        let mut far = far;
        drop(sockets);
        assert_eq!(far.read(&mut [0]).unwrap(), 0, "the copies were the last ones");
        assert!(matches!(other.receive::<u32>(None), Ok(Some((1, sockets))) if sockets.is_empty()));
        assert!(matches!(other.receive::<u32>(None), Ok(None)), "the end");
        // One that has not received everything has said something nevertheless.
        let (one, other) = Channel::pair(Duration::from_secs(5)).unwrap();
        one.send(&1, &[]).unwrap();
        other.send(&2, &[]).unwrap();
        drop(one);
        assert!(matches!(other.receive::<u32>(None), Ok(Some((1, _)))));
        assert!(matches!(other.receive::<u32>(None), Ok(None)));
    }

    #[test]
    fn the_longest_message_with_the_most_sockets_arrives_and_no_more_is_sent() {
        let (one, other) = Channel::pair(Duration::from_secs(5)).unwrap();
        let (near, _far) = UnixStream::pair().unwrap();
        // With its two quotes.
        let text = "x".repeat(MESSAGE_BYTES_MAX - 2);
        one.send(&text, &[near.as_fd(); SOCKETS_MAX]).unwrap();
        let (received, sockets): (String, _) = other.receive(None).unwrap().unwrap();
        assert!(received == text && sockets.len() == SOCKETS_MAX);
        let longer = one.send(&(text + "x"), &[]).unwrap_err().to_string();
        let more = one.send(&1, &[near.as_fd(); SOCKETS_MAX + 1]).unwrap_err().to_string();
        assert_eq!([longer, more], ["the message is too long"; 2]);
    }

    #[test]
    fn an_end_that_says_or_takes_nothing_is_an_error() {
        let (one, other) = Channel::pair(Duration::from_millis(20)).unwrap();
        let none = other.receive::<u32>(Some(Duration::from_millis(1))).unwrap_err();
        assert_eq!(none.kind(), io::ErrorKind::TimedOut);
        one.send(&"text", &[]).unwrap();
        assert_eq!(other.receive::<u32>(None).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let full = thread::spawn(move || {
            loop {
                if let Err(error) = one.send(&"x".repeat(60_000), &[]) {
                    break error;
                }
            }
        });
        assert_eq!(full.join().unwrap().kind(), io::ErrorKind::WouldBlock);
        let (stream, _) = UnixStream::pair().unwrap();
        assert!(Channel::inherited(stream.into()).is_err());
    }
}
