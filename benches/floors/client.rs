//! The bare client: one thread with one epoll set of connections, closed loop or paced. It checks
//! every byte of the echo.
//!
//! The connections stay open from one run to the next. During a run the client polls, so that the
//! server does not spend time on waking it. Between runs it is idle.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::socket;
use super::stream::{PIECE_MAX, Pattern};

/// Events taken with one `epoll_wait`.
const EVENTS_MAX: usize = 256;

/// After this many consecutive empty polls, the client sleeps for up to a millisecond at a time: on
/// a machine with few cores, the server may be waiting for this CPU.
const EMPTY_LOOKS_MAX: u32 = 10_000;

/// If a server sends nothing for this time, a message is lost.
const STALL_MAX: Duration = Duration::from_secs(20);

/// The longest latency that the histogram can hold.
const LATENCY_MAX_NS: u64 = 60_000_000_000;

/// What each connection does.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Bytes per message.
    pub size: usize,
    /// Messages in flight per connection.
    pub pipeline: usize,
    /// `None`: closed loop, in which each reply triggers the next message. Otherwise each
    /// connection sends one message per interval, even without a reply, and latency counts from
    /// when it was due.
    pub interval: Option<Duration>,
}

/// When a run ends. The client then waits for the messages in flight.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// No message is started after this time.
    Time(Instant),
    /// After this many messages over all connections.
    Total(u64),
    /// After this many messages on each connection.
    Each(u64),
}

/// The results of a run.
pub struct Report {
    /// Number of messages echoed.
    pub messages: u64,
    /// Number of messages echoed before the time of [`Until::Time`]. For other runs, all messages.
    pub messages_in_time: u64,
    /// Time from the start to the last echo.
    pub elapsed: Duration,
    /// Number of messages echoed on the connection with the most.
    pub busiest: u64,
    /// Number of messages echoed on the connection with the fewest.
    pub quietest: u64,
    pub latency_ns: Histogram<u64>,
}

impl Report {
    fn new() -> Report {
        let latency_ns = Histogram::new_with_max(LATENCY_MAX_NS, 3).expect("constants in range");
        Report {
            messages: 0,
            messages_in_time: 0,
            elapsed: Duration::ZERO,
            busiest: 0,
            quietest: u64::MAX,
            latency_ns,
        }
    }

    /// Adds the results of another thread in the same run.
    pub fn merge(&mut self, other: &Report) {
        self.messages += other.messages;
        self.messages_in_time += other.messages_in_time;
        self.elapsed = self.elapsed.max(other.elapsed);
        self.busiest = self.busiest.max(other.busiest);
        self.quietest = self.quietest.min(other.quietest);
        self.latency_ns.add(&other.latency_ns).expect("histograms of one shape");
    }
}

/// Why a run failed.
#[derive(Debug)]
pub enum Failure {
    /// The echo differs from what was sent.
    Mismatch { connection: usize, offset: u64 },
    /// The server closed.
    Closed { connection: usize },
    /// Messages were in flight and nothing came back for [`STALL_MAX`].
    Stalled { in_flight: u64 },
    /// A system call failed.
    System(io::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Mismatch { connection, offset } => {
                write!(f, "connection {connection} differs within 64 KiB of offset {offset}")
            }
            Failure::Closed { connection } => write!(f, "connection {connection} was closed"),
            Failure::Stalled { in_flight } => {
                write!(f, "no reply for {STALL_MAX:?} with {in_flight} messages in flight")
            }
            Failure::System(error) => error.fmt(f),
        }
    }
}

impl From<Errno> for Failure {
    fn from(error: Errno) -> Failure {
        Failure::System(error.into())
    }
}

/// The connections of one thread.
pub struct Client {
    epoll: OwnedFd,
    connections: Vec<Connection>,
    load: Load,
    pattern: Arc<Pattern>,
    input: Box<[u8]>,
}

impl Client {
    /// Connects `count` connections. `first` is the number of the first one, which selects its
    /// stream.
    pub fn connect(
        target: SocketAddr,
        count: usize,
        first: usize,
        load: Load,
        pattern: Arc<Pattern>,
    ) -> io::Result<Client> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let interest = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let mut connections = Vec::with_capacity(count);
        for index in 0..count {
            let socket = socket::connect(target)?;
            epoll::add(&epoll, &socket, EventData::new_u64(index as u64), interest)?;
            connections.push(Connection::new(socket, first + index, load));
        }
        let input = vec![0; PIECE_MAX].into_boxed_slice();
        Ok(Client { epoll, connections, load, pattern, input })
    }

    /// Drives the connections until the given end and until every echo has arrived.
    pub fn run(&mut self, until: Until) -> Result<Report, Failure> {
        let mut run = Run::new(until, self.load.interval, self.connections.len());
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        self.begin(&mut run)?;
        while run.in_flight > 0 || run.is_paced_and_not_over() {
            self.keep_pace(&mut run)?;
            self.wait(&mut events, &mut run)?;
            for event in events.drain(..) {
                self.ready(event.data.u64() as usize, event.flags, &mut run)?;
            }
        }
        let mut report = run.report;
        report.elapsed = run.started.elapsed();
        for connection in &mut self.connections {
            let answered = std::mem::take(&mut connection.answered_in_run);
            report.busiest = report.busiest.max(answered);
            report.quietest = report.quietest.min(answered);
        }
        Ok(report)
    }

    /// Fills each connection's pipeline.
    fn begin(&mut self, run: &mut Run) -> Result<(), Failure> {
        if run.pace.is_some() {
            return Ok(());
        }
        for connection in &mut self.connections {
            let now_ns = run.now_ns();
            for begun in 0..self.load.pipeline as u64 {
                if run.may_begin(begun, now_ns) {
                    connection.begin(now_ns, run);
                }
            }
            connection.send(&self.pattern)?;
        }
        Ok(())
    }

    /// Starts the messages that are due.
    fn keep_pace(&mut self, run: &mut Run) -> Result<(), Failure> {
        while let Some((index, due_ns)) = run.next_due() {
            let connection = &mut self.connections[index];
            connection.begin(due_ns, run);
            connection.send(&self.pattern)?;
        }
        Ok(())
    }

    fn wait(&self, events: &mut Vec<Event>, run: &mut Run) -> Result<(), Failure> {
        let sleeps = run.empty_looks > EMPTY_LOOKS_MAX && run.pace.is_none();
        let timeout = Timespec { tv_sec: 0, tv_nsec: if sleeps { 1_000_000 } else { 0 } };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(0) => run.nothing_came(),
            Ok(_) => {
                run.empty_looks = 0;
                Ok(())
            }
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn ready(&mut self, index: usize, flags: EventFlags, run: &mut Run) -> Result<(), Failure> {
        let connection = &mut self.connections[index];
        if flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR) {
            return Err(Failure::Closed { connection: connection.number });
        }
        if flags.contains(EventFlags::IN) {
            connection.receive(&mut self.input, &self.pattern)?;
            let now_ns = run.now_ns();
            while let Some(begun_ns) = connection.take_answer() {
                run.answered(begun_ns, now_ns);
                if run.pace.is_none() && run.may_begin(connection.begun_in_run(), now_ns) {
                    connection.begin(now_ns, run);
                }
            }
        }
        connection.send(&self.pattern)
    }
}

struct Connection {
    socket: OwnedFd,
    number: usize,
    size: u64,
    /// Stream offsets: the end of the messages started, the bytes that the kernel accepted, the
    /// bytes received, and the end of the messages echoed.
    begun: u64,
    sent: u64,
    received: u64,
    answered: u64,
    /// When each message in flight was started.
    begun_ns: VecDeque<u64>,
    answered_in_run: u64,
}

impl Connection {
    fn new(socket: OwnedFd, number: usize, load: Load) -> Connection {
        Connection {
            socket,
            number,
            size: load.size as u64,
            begun: 0,
            sent: 0,
            received: 0,
            answered: 0,
            begun_ns: VecDeque::with_capacity(load.pipeline),
            answered_in_run: 0,
        }
    }

    fn begin(&mut self, now_ns: u64, run: &mut Run) {
        self.begun += self.size;
        self.begun_ns.push_back(now_ns);
        run.in_flight += 1;
    }

    fn begun_in_run(&self) -> u64 {
        self.answered_in_run + self.begun_ns.len() as u64
    }

    /// Sends the started messages, as far as the kernel accepts them.
    fn send(&mut self, pattern: &Pattern) -> Result<(), Failure> {
        while self.sent < self.begun {
            let len = ((self.begun - self.sent) as usize).min(PIECE_MAX);
            let piece = pattern.piece(self.number, self.sent, len);
            match send(&self.socket, piece, SendFlags::NOSIGNAL) {
                Ok(count) => self.sent += count as u64,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Receives and checks what has arrived. A short read has drained the socket.
    fn receive(&mut self, input: &mut [u8], pattern: &Pattern) -> Result<(), Failure> {
        loop {
            let count = match recv(&self.socket, &mut *input, RecvFlags::empty()) {
                Ok((0, _)) => return Err(Failure::Closed { connection: self.number }),
                Ok((count, _)) => count,
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let offset = self.received;
            self.received += count as u64;
            let is_right = pattern.is(self.number, offset, &input[..count]);
            if self.received > self.sent || !is_right {
                return Err(Failure::Mismatch { connection: self.number, offset });
            }
            if count < input.len() {
                return Ok(());
            }
        }
    }

    /// Takes the oldest message if its echo is complete. Returns when it was started.
    fn take_answer(&mut self) -> Option<u64> {
        if self.received - self.answered < self.size {
            return None;
        }
        self.answered += self.size;
        self.answered_in_run += 1;
        self.begun_ns.pop_front()
    }
}

/// One run: its end, its counts, its clock.
struct Run {
    until: Until,
    pace: Option<Pace>,
    started: Instant,
    in_flight: u64,
    /// Number of messages left to start, for [`Until::Total`].
    left: u64,
    empty_looks: u32,
    stalled_since: Option<Instant>,
    report: Report,
}

/// Sends messages at fixed times, one connection after the other.
struct Pace {
    /// Time from the message of a connection to that of the next one.
    step_ns: u64,
    next_due_ns: u64,
    next: usize,
    connections: usize,
}

impl Run {
    fn new(until: Until, interval: Option<Duration>, connections: usize) -> Run {
        // Only runs that end at a time can be paced. Others are closed loops.
        let interval = interval.filter(|_| matches!(until, Until::Time(_)));
        let pace = interval.map(|interval| Pace {
            step_ns: interval.as_nanos() as u64 / connections as u64,
            next_due_ns: 0,
            next: 0,
            connections,
        });
        let left = if let Until::Total(total) = until { total } else { 0 };
        Run {
            until,
            pace,
            started: Instant::now(),
            in_flight: 0,
            left,
            empty_looks: 0,
            stalled_since: None,
            report: Report::new(),
        }
    }

    fn now_ns(&self) -> u64 {
        self.started.elapsed().as_nanos() as u64
    }

    fn is_over(&self, now_ns: u64) -> bool {
        matches!(self.until, Until::Time(end)
            if now_ns >= end.saturating_duration_since(self.started).as_nanos() as u64)
    }

    /// Whether a connection that has started `begun` messages in this run may start another.
    fn may_begin(&mut self, begun: u64, now_ns: u64) -> bool {
        match self.until {
            Until::Time(_) => !self.is_over(now_ns),
            Until::Each(count) => begun < count,
            Until::Total(_) if self.left == 0 => false,
            Until::Total(_) => {
                self.left -= 1;
                true
            }
        }
    }

    fn answered(&mut self, begun_ns: u64, now_ns: u64) {
        self.in_flight -= 1;
        self.report.messages += 1;
        self.report.messages_in_time += u64::from(!self.is_over(now_ns));
        self.report.latency_ns.saturating_record(now_ns - begun_ns);
    }

    fn is_paced_and_not_over(&self) -> bool {
        self.pace.is_some() && !self.is_over(self.now_ns())
    }

    /// The next connection that has to send and its due time, if that time has come.
    fn next_due(&mut self) -> Option<(usize, u64)> {
        let now_ns = self.now_ns();
        let over = self.is_over(now_ns);
        let pace = self.pace.as_mut()?;
        if over || now_ns < pace.next_due_ns {
            return None;
        }
        let due = (pace.next, pace.next_due_ns);
        pace.next = (pace.next + 1) % pace.connections;
        pace.next_due_ns += pace.step_ns;
        Some(due)
    }

    /// Handles an empty poll. Fails if nothing has arrived for [`STALL_MAX`].
    fn nothing_came(&mut self) -> Result<(), Failure> {
        self.empty_looks = self.empty_looks.saturating_add(1);
        if self.empty_looks <= EMPTY_LOOKS_MAX || self.in_flight == 0 {
            self.stalled_since = None;
            return Ok(());
        }
        let since = *self.stalled_since.get_or_insert_with(Instant::now);
        if since.elapsed() > STALL_MAX {
            return Err(Failure::Stalled { in_flight: self.in_flight });
        }
        Ok(())
    }
}
