//! A blocking client over `std::net` that sends known bytes and checks the echo.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::net::sockopt::{set_socket_linger, set_socket_recv_buffer_size};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType};

use super::{GUARD, PIECE, payload};

/// A client. Its reads and writes fail if they take longer than [`GUARD`].
pub struct Client {
    stream: TcpStream,
    id: u64,
    sent: u64,
    received: u64,
}

impl Client {
    pub fn connect(to: SocketAddr) -> Client {
        Client::over(TcpStream::connect_timeout(&to, GUARD).expect("connecting"))
    }

    /// Connects from an address of this machine. A reset right after accept may already be the
    /// result of connecting.
    pub fn connect_from(source: IpAddr, to: SocketAddr) -> io::Result<Client> {
        let socket = Client::socket(to);
        rustix::net::bind(&socket, &SocketAddr::new(source, 0)).expect("binding the source");
        rustix::net::connect(&socket, &to)?;
        Ok(Client::over(TcpStream::from(socket)))
    }

    /// A socket to connect. Programs started by other tests do not inherit it.
    fn socket(to: SocketAddr) -> OwnedFd {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC;
        rustix::net::socket_with(family, SocketType::STREAM, flags, None).expect("a socket")
    }

    /// Connects with a receive buffer of `bytes`, set before connecting so that it limits the
    /// window.
    pub fn connect_with_small_window(to: SocketAddr, bytes: usize) -> Client {
        let socket = Client::socket(to);
        set_socket_recv_buffer_size(&socket, bytes).expect("setting SO_RCVBUF");
        rustix::net::connect(&socket, &to).expect("connecting");
        Client::over(TcpStream::from(socket))
    }

    /// Connects to a Unix socket. A `TcpStream` can have any stream socket: all calls that a client
    /// makes after this are the same.
    pub fn connect_unix(to: &Path) -> Client {
        Client::with(OwnedFd::from(UnixStream::connect(to).expect("connecting")).into())
    }

    fn over(stream: TcpStream) -> Client {
        stream.set_nodelay(true).expect("setting TCP_NODELAY");
        Client::with(stream)
    }

    fn with(stream: TcpStream) -> Client {
        static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
        stream.set_read_timeout(Some(GUARD)).expect("setting a time-out");
        stream.set_write_timeout(Some(GUARD)).expect("setting a time-out");
        Client { stream, id: NEXT.fetch_add(1, Ordering::Relaxed), sent: 0, received: 0 }
    }

    /// The connection, to send and receive other bytes than those of this client's stream.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub fn local(&self) -> SocketAddr {
        self.stream.local_addr().expect("the local address")
    }

    pub fn received(&self) -> u64 {
        self.received
    }

    /// Number of bytes sent and not yet received back.
    pub fn in_transit(&self) -> u64 {
        self.sent - self.received
    }

    /// Sends the next `count` bytes of this client's stream.
    pub fn send(&mut self, count: u64) {
        self.send_flagged(count, SendFlags::empty());
    }

    /// The same with flags: `MSG_MORE` holds the bytes back, `MSG_OOB` makes the last one urgent.
    pub fn send_flagged(&mut self, count: u64, flags: SendFlags) {
        let end = self.sent + count;
        while self.sent < end {
            let piece = piece(self.id, self.sent, end);
            let flags = flags | SendFlags::NOSIGNAL;
            self.sent += rustix::net::send(&self.stream, piece, flags).expect("sending") as u64;
        }
    }

    /// Sends what the kernel accepts without waiting, at most `count` bytes. Returns how many.
    pub fn send_without_waiting(&mut self, count: u64) -> u64 {
        self.try_send_without_waiting(count).expect("sending")
    }

    /// The same for a connection that may have been reset.
    pub fn try_send_without_waiting(&mut self, count: u64) -> rustix::io::Result<u64> {
        let (start, end) = (self.sent, self.sent + count);
        while self.sent < end {
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::send(&self.stream, piece(self.id, self.sent, end), flags) {
                Ok(taken) => self.sent += taken as u64,
                Err(rustix::io::Errno::AGAIN) => break,
                Err(error) => return Err(error),
            }
        }
        Ok(self.sent - start)
    }

    /// Receives the next `count` bytes and checks that they are those that were sent.
    pub fn expect(&mut self, count: u64) {
        let end = self.received + count;
        while self.received < end {
            let got = self.receive((end - self.received).min(PIECE as u64) as usize);
            let got = got.unwrap_or_else(|error| {
                panic!("after {} of {} bytes: {error}", self.received, self.sent)
            });
            assert_ne!(got, 0, "FIN after {} bytes, but {end} were sent", self.received);
        }
    }

    /// Reads once, at most `count` bytes, and checks them. Returns their number, or 0 at FIN.
    pub fn receive(&mut self, count: usize) -> io::Result<usize> {
        let mut buffer = [0; PIECE];
        let got = self.stream.read(&mut buffer[..count])?;
        let expected = &payload(self.id, self.received)[..got];
        assert!(buffer[..got] == *expected, "a wrong byte in {got} at {}", self.received);
        self.received += got as u64;
        assert!(self.received <= self.sent, "more came back than was sent");
        Ok(got)
    }

    /// Sends `count` bytes and expects them back, reading while it writes.
    pub fn echo(&mut self, count: u64) {
        let (id, start, end) = (self.id, self.sent, self.sent + count);
        let mut writer = self.stream.try_clone().expect("another handle of the socket");
        self.sent = end;
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut at = start;
                while at < end {
                    at += writer.write(piece(id, at, end)).expect("sending") as u64;
                }
            });
            self.expect(count);
        });
    }

    /// Sends `count` bytes, then expects them back. For few bytes.
    pub fn ping(&mut self, count: u64) {
        self.send(count);
        self.expect(count);
    }

    /// Whether bytes, FIN or an error can be read within `time`.
    pub fn readable_within(&self, time: Duration) -> bool {
        self.stream.set_read_timeout(Some(time)).expect("setting a time-out");
        let seen = self.stream.peek(&mut [0]);
        self.stream.set_read_timeout(Some(GUARD)).expect("setting a time-out");
        !matches!(seen, Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Closes the sending side: sends FIN.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).expect("shutdown(WR)");
    }

    /// Expects FIN and no bytes before it.
    pub fn expect_fin(&mut self) {
        let got = self.receive(PIECE).expect("FIN, not an error");
        assert_eq!(got, 0, "bytes in place of FIN");
    }

    /// Reads until FIN and checks the bytes. Returns their number.
    pub fn read_to_fin(&mut self) -> u64 {
        let before = self.received;
        while self.receive(PIECE).expect("bytes or FIN, not an error") > 0 {}
        self.received - before
    }

    /// Sends FIN and expects the server's.
    pub fn close(mut self) {
        self.half_close();
        self.expect_fin();
    }

    /// Ends the connection with RST.
    pub fn reset(self) {
        set_socket_linger(&self.stream, Some(Duration::ZERO)).expect("setting SO_LINGER");
    }
}

/// The bytes of client `id` from `at` to `end`, at most [`PIECE`] of them.
fn piece(id: u64, at: u64, end: u64) -> &'static [u8] {
    &payload(id, at)[..(end - at).min(PIECE as u64) as usize]
}
