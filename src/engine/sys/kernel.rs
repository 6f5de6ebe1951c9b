//! The real kernel: mio for readiness, rustix for the calls that std and mio lack.

use std::cell::Cell;
use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Listening, Readiness, Sys};
use crate::base::endpoint::{Endpoint, Peer, Transport, UnixAddress};
use crate::base::time::Time;
use crate::error::Errno;
use crate::net::sockopt::TcpInfo;
use crate::shared::moved::{Passed, Passing};

const WAKER: Token = Token(usize::MAX);
const TIMER: Token = Token(usize::MAX - 1);

/// Maximum number of sockets that one wait reports. Large, so that the cost of the wait per
/// operation is small.
const EVENTS_MAX: usize = 1024;

thread_local! {
    /// See [`polled_in_vain`].
    static POLLED_IN_VAIN_NS: Cell<u64> = const { Cell::new(0) };
}

#[cfg(any(test, feature = "internals"))]
/// How long the calling thread has polled busily (`Kernel::busy_poll`) without any events. Without
/// busy polling it would have slept for this time and left the processor to other work.
pub fn polled_in_vain() -> Duration {
    Duration::from_nanos(POLLED_IN_VAIN_NS.get())
}

/// The system calls of the real kernel.
pub struct Kernel {
    poll: Poll,
    events: Events,
    waker: Arc<mio::Waker>,
    timer: Timer,
    busy_poll: bool,
    /// Registered sockets, with the waker and the timer.
    watched: usize,
    /// Events of the last waits, if each of them reported as many as it could.
    reported: usize,
}

/// Reads the monotonic clock. All threads share its origin.
#[inline]
pub fn monotonic_now() -> Time {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Time::from_nanos(now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64)
}

struct WakeUp(Arc<mio::Waker>);

impl Wake for WakeUp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Fails only if the loop and its descriptors are gone, and then there is nothing to wake.
        let _ = self.0.wake();
    }
}

impl Kernel {
    /// Creates the epoll descriptor (or the system's equivalent), the waker and the timer.
    ///
    /// # Errors
    /// Mostly EMFILE.
    pub fn new() -> io::Result<Kernel> {
        Kernel::with_room(EVENTS_MAX)
    }

    /// The same with room for this many events in one wait.
    fn with_room(events_max: usize) -> io::Result<Kernel> {
        let poll = Poll::new()?;
        let waker = Arc::new(mio::Waker::new(poll.registry(), WAKER)?);
        let timer = Timer::new(&poll)?;
        let events = Events::with_capacity(events_max);
        Ok(Kernel { poll, events, waker, timer, busy_poll: false, watched: 2, reported: 0 })
    }

    /// If `busy_poll` is true, a wait polls for events repeatedly instead of sleeping. A sleeping
    /// thread takes some tens of microseconds to wake up, and up to milliseconds in a virtual
    /// machine. A polling thread uses a whole processor.
    pub fn busy_poll(self, busy_poll: bool) -> Kernel {
        Kernel { busy_poll, ..self }
    }

    /// Polls without sleeping until there are events or the deadline is reached. Reads the clock
    /// only if there were no events.
    fn ask_until(&mut self, deadline: Option<Time>) -> io::Result<()> {
        let mut idle_since = None;
        loop {
            self.poll.poll(&mut self.events, Some(Duration::ZERO))?;
            if !self.events.is_empty() {
                return Ok(());
            }
            let now = monotonic_now();
            let in_vain = now - idle_since.replace(now).unwrap_or(now);
            POLLED_IN_VAIN_NS.set(POLLED_IN_VAIN_NS.get() + in_vain.as_nanos() as u64);
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(());
            }
        }
    }

    fn sleep_until(&mut self, deadline: Option<Time>) -> io::Result<()> {
        let timeout = match deadline {
            None => None,
            Some(deadline) => self.timer.arm(deadline)?,
        };
        self.poll.poll(&mut self.events, timeout)
    }

    /// Whether waits that each reported as many events as they could have together reported every
    /// socket that was ready when the first of them began. The kernel reports sockets in the order
    /// in which they became ready, and one that becomes ready again goes to the end.
    #[cold]
    fn has_reported_all(&mut self, events: usize) -> bool {
        self.reported += events;
        let all = self.reported >= self.watched;
        if all {
            self.reported = 0;
        }
        all
    }
}

fn errno(error: &io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

/// Makes a system call, and repeats it if a signal interrupts it.
fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            result => return result.map_err(own),
        }
    }
}

/// Converts the error to the crate's own type.
fn own(error: rustix::io::Errno) -> Errno {
    Errno::from_raw_os_error(error.raw_os_error())
}

impl Sys for Kernel {
    type Socket = OwnedFd;

    #[inline]
    fn now(&self) -> Time {
        monotonic_now()
    }

    fn waker(&self) -> Waker {
        Waker::from(Arc::new(WakeUp(self.waker.clone())))
    }

    #[inline]
    fn wait(&mut self, deadline: Option<Time>, ready: &mut Vec<Readiness>) -> Result<bool, Errno> {
        loop {
            let waited = match self.busy_poll {
                true => self.ask_until(deadline),
                false => self.sleep_until(deadline),
            };
            match waited {
                Ok(()) => break,
                // A signal, or the process was stopped: that says nothing about the sockets.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error)),
            }
        }
        // Not all events are counted one by one: that would be for each echo.
        let (before, mut others) = (ready.len(), 0);
        for event in &self.events {
            match event.token() {
                WAKER => others += 1,
                TIMER => {
                    others += 1;
                    self.timer.fired();
                }
                Token(token) => {
                    let failed = event.is_error();
                    let read_on = event.is_read_closed() || event.is_priority() || failed;
                    ready.push(Readiness {
                        token: token as u64,
                        readable: event.is_readable() || read_on,
                        writable: event.is_writable() || failed,
                        read_on,
                    });
                }
            }
        }
        let count = ready.len() - before + others;
        if count < self.events.capacity() {
            self.reported = 0;
            return Ok(true);
        }
        Ok(self.has_reported_all(count))
    }

    fn register(&mut self, socket: &OwnedFd, token: u64) -> Result<(), Errno> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        #[cfg(target_os = "linux")]
        let interest = interest | Interest::PRIORITY;
        self.poll
            .registry()
            .register(&mut SourceFd(&socket.as_raw_fd()), Token(token as usize), interest)
            .map_err(|error| errno(&error))?;
        self.watched += 1;
        Ok(())
    }

    fn accept(&mut self, listener: &Listening<OwnedFd>) -> Result<(OwnedFd, Peer), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (socket, name) = retry(|| rustix::net::acceptfrom_with(&listener.socket, flags))?;
        let peer = match listener.transport {
            Transport::Tcp => {
                // A peer that has already gone may have no address.
                let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
                name.and_then(|name| SocketAddr::try_from(name).ok()).unwrap_or(unknown).into()
            }
            Transport::Unix => {
                // An urgent byte is echoed in its place like any other byte. Accepted sockets do
                // not inherit this, and it fails only where urgent bytes do not exist.
                let _ = rustix::net::sockopt::set_socket_oobinline(&socket, true);
                process_at(&socket)
            }
        };
        Ok((socket, peer))
    }

    fn backlog(&self, listener: &Listening<OwnedFd>) -> u32 {
        match listener.transport {
            _ if listener.kept.get() => None,
            Transport::Tcp => crate::net::bind::backlog_waiting(listener.socket.as_fd()),
            // Linux tells the length of the queue only through netlink.
            Transport::Unix => None,
        }
        .unwrap_or(0)
    }

    fn connect(&mut self, target: &Endpoint, source: Option<IpAddr>) -> Result<OwnedFd, Errno> {
        let begun = match target {
            Endpoint::Tcp(target) => begin_connect(*target, source),
            Endpoint::Unix(target) => connect_unix(target),
            Endpoint::Udp(_) => return Err(Errno::PROTOTYPE),
        };
        begun.map_err(|error| errno(&error))
    }

    fn connect_error(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        rustix::net::sockopt::socket_error(socket).flatten().map_err(own)
    }

    #[inline]
    fn recv(&mut self, socket: &OwnedFd, buffers: &mut [IoSliceMut<'_>]) -> Result<usize, Errno> {
        match buffers {
            [one] => retry(|| {
                let (_, count) = rustix::net::recv(socket, &mut **one, RecvFlags::empty())?;
                Ok(count)
            }),
            several => retry(|| rustix::io::readv(socket, several)),
        }
    }

    fn peek(&mut self, socket: &OwnedFd) -> Result<usize, Errno> {
        retry(|| {
            let (_, count) = rustix::net::recv(socket, &mut [0; 1][..], RecvFlags::PEEK)?;
            Ok(count)
        })
    }

    #[inline]
    fn send(&mut self, socket: &OwnedFd, buffers: &[IoSlice<'_>]) -> Result<usize, Errno> {
        match buffers {
            [one] => retry(|| rustix::net::send(socket, one, SendFlags::NOSIGNAL)),
            several => retry(|| {
                let mut nothing = SendAncillaryBuffer::default();
                rustix::net::sendmsg(socket, several, &mut nothing, SendFlags::NOSIGNAL)
            }),
        }
    }

    fn reset(&mut self, socket: OwnedFd) {
        // Cannot fail on a socket. If it does, the drop still closes it.
        let _ = rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO));
        self.close(socket);
    }

    fn refuse(&mut self, socket: OwnedFd) {
        // It is not counted.
        self.watched += 1;
        self.reset(socket);
    }

    fn close_shared(&mut self, socket: OwnedFd) {
        // Otherwise it reports events as long as another descriptor of it is open.
        self.forget(&socket);
    }

    fn forget(&mut self, socket: &OwnedFd) -> bool {
        self.watched -= 1;
        self.poll.registry().deregister(&mut SourceFd(&socket.as_raw_fd())).is_ok()
    }

    fn descriptor(socket: &OwnedFd) -> Option<Passing<'_>> {
        Some(Passing::Descriptor(socket.as_fd()))
    }

    fn of_descriptor(&self, passed: Passed) -> Option<OwnedFd> {
        match passed {
            Passed::Descriptor(descriptor) => Some(descriptor),
            #[cfg(any(test, feature = "sim"))]
            Passed::Simulated(_) => None,
        }
    }

    fn close(&mut self, socket: OwnedFd) {
        self.watched -= 1;
        drop(socket);
    }

    fn unacknowledged(&self, socket: &OwnedFd) -> Option<u32> {
        crate::net::sockopt::unacknowledged(socket)
    }

    fn tcp_info(&self, socket: &OwnedFd) -> Option<TcpInfo> {
        crate::net::sockopt::tcp_info(socket)
    }

    fn unread(&self, socket: &OwnedFd) -> Option<u32> {
        u32::try_from(rustix::io::ioctl_fionread(socket).ok()?).ok()
    }

    fn shutdown(&mut self, socket: &OwnedFd) -> Result<(), Errno> {
        rustix::net::shutdown(socket, Shutdown::Write).map_err(own)
    }
}

/// The process at the other end of a Unix socket.
#[cfg(target_os = "linux")]
fn process_at(socket: &OwnedFd) -> Peer {
    // Not with rustix, whose process ids cannot be 0.
    match nix::sys::socket::getsockopt(socket, nix::sys::socket::sockopt::PeerCredentials) {
        Ok(of) => Peer::Unix { pid: of.pid().unsigned_abs(), uid: of.uid(), gid: of.gid() },
        Err(_) => Peer::UNKNOWN_PROCESS,
    }
}

/// The same on systems without SO_PEERCRED.
#[cfg(not(target_os = "linux"))]
fn process_at(_: &OwnedFd) -> Peer {
    Peer::UNKNOWN_PROCESS
}

fn begin_connect(target: SocketAddr, source: Option<IpAddr>) -> io::Result<OwnedFd> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(target), kind, Some(Protocol::TCP))?;
    socket.set_tcp_nodelay(true)?;
    if let Some(source) = source {
        // The port is chosen at connect time, when the whole four-tuple is known, so each source
        // address has its full range of ports for each target.
        #[cfg(target_os = "linux")]
        crate::net::sockopt::set_bind_address_no_port(&socket)?;
        socket.bind(&local_address(source, target).into())?;
    }
    match socket.connect(&target.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// Connects to a Unix socket, which is done at once or fails.
fn connect_unix(target: &UnixAddress) -> io::Result<OwnedFd> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
    socket.connect(&SockAddr::unix(target.sun_path())?)?;
    // As on an accepted socket.
    let _ = socket.set_out_of_band_inline(true);
    Ok(socket.into())
}

/// The source with any port. A link-local source gets the zone of its target, which must be on the
/// same link.
fn local_address(source: IpAddr, target: SocketAddr) -> SocketAddr {
    let mut local = SocketAddr::new(source, 0);
    if let (SocketAddr::V6(local), SocketAddr::V6(target)) = (&mut local, target)
        && local.ip().is_unicast_link_local()
    {
        local.set_scope_id(target.scope_id());
    }
    local
}

/// A timer with nanosecond resolution. mio's own time-outs are rounded up to a millisecond.
#[cfg(target_os = "linux")]
struct Timer {
    descriptor: OwnedFd,
    /// The time at which it fires, if it is armed.
    armed: Option<Time>,
}

#[cfg(target_os = "linux")]
impl Timer {
    fn new(poll: &Poll) -> io::Result<Timer> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let descriptor = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        poll.registry().register(
            &mut SourceFd(&descriptor.as_raw_fd()),
            TIMER,
            Interest::READABLE,
        )?;
        Ok(Timer { descriptor, armed: None })
    }

    /// Makes the next wait end at `deadline`. Returns the time-out for mio.
    ///
    /// A timer that is armed for an earlier time is left unchanged: the wait ends early, and the
    /// caller waits again. So a deadline that moves with every turn of the loop does not cost a
    /// system call per turn. Neither does a deadline that has already passed.
    #[inline]
    fn arm(&mut self, deadline: Time) -> Result<Option<Duration>, Errno> {
        if deadline == Time::ZERO {
            return Ok(Some(Duration::ZERO));
        }
        if self.armed.is_none_or(|armed| armed > deadline) {
            // Reading the clock costs less than a timer that would fire at once.
            if deadline <= monotonic_now() {
                return Ok(Some(Duration::ZERO));
            }
            self.set(deadline)?;
        }
        Ok(None)
    }

    fn set(&mut self, deadline: Time) -> Result<(), Errno> {
        use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};
        let nanos = deadline.as_nanos();
        let seconds = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        let it_value = Timespec { tv_sec: seconds, tv_nsec: (nanos % 1_000_000_000) as _ };
        let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
        let new = Itimerspec { it_interval, it_value };
        timerfd_settime(&self.descriptor, TimerfdTimerFlags::ABSTIME, &new).map_err(own)?;
        self.armed = Some(deadline);
        Ok(())
    }

    fn fired(&mut self) {
        self.armed = None;
    }
}

/// Without timerfd, mio's time-out is used, rounded up to a millisecond.
#[cfg(not(target_os = "linux"))]
struct Timer;

#[cfg(not(target_os = "linux"))]
impl Timer {
    fn new(_: &Poll) -> io::Result<Timer> {
        Ok(Timer)
    }

    fn arm(&mut self, deadline: Time) -> Result<Option<Duration>, Errno> {
        Ok(Some(deadline - monotonic_now()))
    }

    fn fired(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn a_link_local_source_gets_the_zone_of_its_target() {
        let local = |source: &str, target: &str| {
            local_address(source.parse().unwrap(), target.parse().unwrap()).to_string()
        };
        assert_eq!(local("fe80::1", "[fe80::2%3]:7"), "[fe80::1%3]:0");
        assert_eq!(local("fd00::1", "[fe80::2%3]:7"), "[fd00::1]:0");
        assert_eq!(local("127.0.0.2", "127.0.0.1:7"), "127.0.0.2:0");
    }

    #[test]
    fn an_interrupted_call_is_repeated_and_other_errors_are_told() {
        let mut answers = vec![Ok(7), Err(rustix::io::Errno::INTR), Err(rustix::io::Errno::INTR)];
        assert_eq!(retry(|| answers.pop().unwrap()), Ok(7));
        assert!(answers.is_empty());
        let mut answers = vec![Ok(7), Err(rustix::io::Errno::AGAIN), Err(rustix::io::Errno::INTR)];
        assert_eq!(retry(|| answers.pop().unwrap()), Err(Errno::AGAIN));
    }

    #[test]
    fn a_wait_ends_at_its_deadline_and_not_before() {
        let mut kernel = Kernel::new().unwrap();
        let mut ready = Vec::new();
        for micros in [1, 200, 3_000, 20_000] {
            let deadline = kernel.now() + Duration::from_micros(micros);
            // A wait may end early, without events, if an earlier timer was still set.
            while kernel.now() < deadline {
                kernel.wait(Some(deadline), &mut ready).unwrap();
                assert!(ready.is_empty());
            }
        }
    }

    #[test]
    fn a_wait_that_reports_as_many_sockets_as_it_can_may_have_left_out_others() {
        let mut kernel = Kernel::with_room(2).unwrap();
        let pairs: Vec<_> = (0..5).map(|_| UnixStream::pair().unwrap()).collect();
        let ends: Vec<OwnedFd> =
            pairs.iter().map(|(_, end)| end.try_clone().unwrap().into()).collect();
        for (token, end) in ends.iter().enumerate() {
            kernel.register(end, token as u64).unwrap();
        }
        let mut wait = |seen: &mut Vec<u64>| {
            let mut ready = Vec::new();
            let all = kernel.wait(Some(Time::ZERO), &mut ready).unwrap();
            seen.extend(ready.iter().map(|readiness| readiness.token));
            all
        };
        let mut seen = Vec::new();
        assert_eq!([(); 3].map(|()| wait(&mut seen)), [false, false, true]);
        seen.sort();
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        // One is ready again and again: the others get their turn nevertheless, and that is known.
        pairs.iter().for_each(|(near, _)| assert_eq!((&*near).write(b"x").unwrap(), 1));
        let (mut seen, mut waits) = (Vec::new(), 1);
        while !wait(&mut seen) {
            for token in seen.iter().rev().take(2) {
                assert_eq!((&pairs[*token as usize].0).write(b"x").unwrap(), 1);
            }
            waits += 1;
        }
        assert!((3..=4).contains(&waits), "{waits}");
        assert!((0..5).all(|token| seen.contains(&token)), "{seen:?}");
    }

    #[test]
    fn the_waker_ends_a_wait_that_has_no_deadline() {
        for busy_poll in [false, true] {
            let mut kernel = Kernel::new().unwrap().busy_poll(busy_poll);
            let waker = kernel.waker();
            let thread = std::thread::spawn(move || waker.wake());
            kernel.wait(None, &mut Vec::new()).unwrap();
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_busy_wait_ends_at_its_deadline_and_says_how_long_it_asked_in_vain() {
        let mut kernel = Kernel::new().unwrap().busy_poll(true);
        let mut ready = Vec::new();
        let (began, before) = (kernel.now(), polled_in_vain());
        for micros in [0, 200, 20_000] {
            let deadline = kernel.now() + Duration::from_micros(micros);
            kernel.wait(Some(deadline), &mut ready).unwrap();
            assert!(kernel.now() >= deadline && ready.is_empty());
        }
        kernel.wait(Some(Time::ZERO), &mut ready).unwrap();
        let in_vain = polled_in_vain() - before;
        assert!(in_vain > Duration::ZERO && in_vain <= kernel.now() - began, "{in_vain:?}");
        let of_another = std::thread::spawn(polled_in_vain).join().unwrap();
        assert_eq!(of_another, Duration::ZERO);
    }

    #[test]
    fn a_wait_that_sleeps_asks_nothing_in_vain() {
        let (mut kernel, before) = (Kernel::new().unwrap(), polled_in_vain());
        let deadline = kernel.now() + Duration::from_millis(2);
        kernel.wait(Some(deadline), &mut Vec::new()).unwrap();
        assert_eq!(polled_in_vain(), before);
    }
}
