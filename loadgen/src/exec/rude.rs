//! Rude clients beside the measured ones. They do what servers suffer from, on a thread and engine
//! of their own, and appear only in their own counts. Their effect shows in the latencies of the
//! measured clients.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use echopool::error::{CloseReason, Errno};
use echopool::internals::ClientLimits;
use echopool::service::{Answer, ConnectTo, Connection, ConnectionId, Service, Turn};
use echopool::time::Time;

use crate::exec::control::Control;
use crate::plan::{Plan, addresses};
use crate::stats::counts::RudeCount;
use crate::traffic::rude::RudeKind;

/// Size of a rude client's request, and of its buffers, in bytes.
const REQUEST_BYTES: usize = 4 << 10;
/// A slow reader reads one buffer per this time.
const SLOW_READ_PAUSE: Duration = Duration::from_millis(100);
/// A trickling client sends one byte per this time.
const TRICKLE_PAUSE: Duration = Duration::from_millis(100);
/// A client whose connection ended begins another one after this time.
const AGAIN_PAUSE: Duration = Duration::from_millis(100);
/// A resetting client waits this long after its request, so that the server is processing it.
const RESET_AFTER: Duration = Duration::from_millis(10);
/// Connects in progress at once, at most.
const CONNECTING_MAX: usize = 256;
/// Interval at which the shared state is checked.
const TICK: Duration = Duration::from_millis(20);

/// Limits of their thread.
pub fn limits(plan: &Plan, linger: Duration) -> ClientLimits {
    let clients = &plan.rude;
    let all = clients.0.iter().map(|(kind, count)| buffers(*kind) * *count as u32);
    ClientLimits {
        connections_max: clients.total() as usize,
        // A few for input, in case all others are held by blocked output.
        buffers: (all.sum::<u32>() + 16) * if plan.tls.is_some() { 3 } else { 1 },
        buffer_size: REQUEST_BYTES,
        leases_per_connection_max: 1,
        linger,
        // Their timing does not matter.
        busy_poll: false,
    }
}

/// Buffers that one client of this kind may have.
fn buffers(kind: RudeKind) -> u32 {
    match kind {
        RudeKind::Idle => 0,
        // One for output, one for input.
        RudeKind::SlowReader => 2,
        RudeKind::HalfClose | RudeKind::Reset | RudeKind::Trickle => 1,
    }
}

/// The rude clients of a run, on one thread.
pub struct Rude {
    plan: Arc<Plan>,
    control: Arc<Control>,
    counts: Vec<RudeCount>,
    /// Numbers of clients to connect, with the time of each, and the address if it is not the one
    /// that its target's connections use.
    to_connect: VecDeque<(Time, u64, Option<usize>)>,
    /// Clients to be woken, in the order of their times, because all wait equally long.
    trickling: VecDeque<(Time, ConnectionId)>,
    connecting: usize,
    /// First connects that have neither succeeded nor failed yet.
    unready: u64,
    stopping: bool,
}

/// State of a rude client's connection.
#[derive(Default)]
pub struct RudeSession {
    /// It has done its task.
    done: bool,
    established: bool,
}

impl Rude {
    pub fn new(plan: Arc<Plan>, control: Arc<Control>) -> Rude {
        let count = |(kind, asked): &(RudeKind, u64)| RudeCount {
            kind: *kind,
            asked: *asked,
            established: 0,
            connect_failed: 0,
            finished: 0,
            closed_by_server: 0,
            reset_by_server: 0,
            bytes_sent: 0,
            bytes_received: 0,
        };
        let counts = plan.rude.0.iter().map(count).collect();
        let total = plan.rude.total();
        Rude {
            counts,
            to_connect: (0..total).map(|number| (Time::ZERO, number, None)).collect(),
            trickling: VecDeque::with_capacity(total as usize),
            plan,
            control,
            connecting: 0,
            unready: total,
            stopping: false,
        }
    }

    /// The counts, after the end.
    pub fn into_counts(self) -> Vec<RudeCount> {
        self.counts
    }

    /// The clients of the first kind have the first numbers, and so on.
    fn count(&mut self, tag: u64) -> &mut RudeCount {
        let (number, _) = addresses::of_tag(tag);
        let mut first = 0;
        let kind = self.counts.iter().position(|count| {
            first += count.asked;
            number < first
        });
        &mut self.counts[kind.expect("each number has a kind")]
    }

    fn target_index(&self, number: u64) -> usize {
        self.plan.target_index(self.plan.connections_all + number)
    }

    fn first_try_over(&mut self, now: Time) {
        if self.unready > 0 {
            self.unready -= 1;
            if self.unready == 0 {
                self.control.ready(now);
            }
        }
    }

    /// Puts up to `len` bytes on the output, limited by one buffer; none if there is no buffer.
    fn put(&mut self, connection: &mut Connection<'_>, len: usize) -> bool {
        let Some(mut lease) = connection.take_lease() else { return false };
        let len = len.min(lease.spare_mut().len());
        lease.spare_mut()[..len].fill(b'r');
        lease.commit(len);
        connection.output.push_back(lease);
        self.count(connection.tag()).bytes_sent += len as u64;
        true
    }

    fn trickle(&mut self, connection: &mut Connection<'_>) -> Answer {
        self.put(connection, 1);
        self.trickling.push_back((connection.now() + TRICKLE_PAUSE, connection.id()));
        Answer::Continue
    }

    fn connect_some(&mut self, turn: &mut Turn<'_>) {
        while self.connecting < CONNECTING_MAX
            && turn.free_slots() > 0
            && let Some((_, number, nth)) =
                self.to_connect.pop_front_if(|(due, ..)| *due <= turn.now())
        {
            let target_index = self.target_index(number);
            let nth = nth.unwrap_or(self.plan.first_address(target_index));
            let target = self.plan.address(target_index, nth);
            // All addresses of a target have equal parts of the time-out.
            let time = self.plan.attempt_time(target_index, 0, self.plan.timeout);
            turn.connect(ConnectTo {
                target: *target,
                source: self.plan.source(self.plan.connections_all + number, target),
                tag: addresses::tag(number, nth),
                deadline: turn.now() + time,
            });
            self.connecting += 1;
        }
    }
}

impl Service for Rude {
    type Session = RudeSession;

    fn full_duplex(&self, _: u64) -> bool {
        true
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut RudeSession) -> Answer {
        session.established = true;
        self.connecting -= 1;
        let (number, nth) = addresses::of_tag(connection.tag());
        self.plan.accepted(self.target_index(number), nth);
        self.first_try_over(connection.now());
        let count = self.count(connection.tag());
        count.established += 1;
        match count.kind {
            RudeKind::Idle => Answer::Continue,
            RudeKind::Trickle => self.trickle(connection),
            RudeKind::SlowReader => {
                self.put(connection, REQUEST_BYTES);
                Answer::WaitUntil(connection.now() + SLOW_READ_PAUSE)
            }
            RudeKind::HalfClose => {
                session.done = self.put(connection, REQUEST_BYTES);
                Answer::CloseAfterSend
            }
            RudeKind::Reset => {
                self.put(connection, REQUEST_BYTES);
                Answer::WaitUntil(connection.now() + RESET_AFTER)
            }
        }
    }

    fn connect_failed(&mut self, tag: u64, error: Errno, now: Time) {
        self.connecting -= 1;
        let (number, nth) = addresses::of_tag(tag);
        let next = self.plan.next_address(self.target_index(number), nth);
        if error != Errno::CANCELED && next.is_some() {
            self.to_connect.push_front((now, number, next));
            return;
        }
        self.first_try_over(now);
        if error != Errno::CANCELED {
            self.count(tag).connect_failed += 1;
            self.to_connect.push_back((now + AGAIN_PAUSE, number, None));
        }
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut RudeSession) -> Answer {
        let bytes = connection.input.len();
        connection.input.consume(bytes);
        let count = self.count(connection.tag());
        count.bytes_received += bytes as u64;
        match count.kind {
            RudeKind::SlowReader => Answer::WaitUntil(connection.now() + SLOW_READ_PAUSE),
            _ => Answer::Continue,
        }
    }

    fn sent(&mut self, connection: &mut Connection<'_>, _: &mut RudeSession) -> Answer {
        if self.count(connection.tag()).kind == RudeKind::SlowReader {
            self.put(connection, REQUEST_BYTES);
        }
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut RudeSession) -> Answer {
        match self.count(connection.tag()).kind {
            RudeKind::Trickle => self.trickle(connection),
            RudeKind::Reset => {
                // Unsent output turns the close into a reset.
                session.done = self.put(connection, 1);
                Answer::Close
            }
            RudeKind::Idle | RudeKind::SlowReader | RudeKind::HalfClose => Answer::Continue,
        }
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, _: &mut RudeSession) -> Answer {
        Answer::Close
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut RudeSession,
        reason: CloseReason,
    ) {
        let (tag, discarded) = (connection.tag(), connection.bytes_discarded());
        let stopping = self.stopping;
        let count = self.count(tag);
        count.bytes_received += discarded;
        match reason {
            CloseReason::Service if session.done => count.finished += 1,
            // It was held until the end of the run, as intended.
            CloseReason::Stopped if stopping => count.finished += 1,
            CloseReason::PeerClosed => count.closed_by_server += 1,
            _ => count.reset_by_server += 1,
        }
        if !stopping {
            let (number, _) = addresses::of_tag(tag);
            self.to_connect.push_back((connection.now() + AGAIN_PAUSE, number, None));
        }
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        if self.control.stopped() || self.control.all_measured() {
            self.stopping = true;
            turn.stop();
            return Some(turn.now() + TICK);
        }
        self.connect_some(turn);
        while let Some((_, id)) = self.trickling.pop_front_if(|(due, _)| *due <= turn.now()) {
            turn.wake(id);
        }
        Some(turn.now() + TICK)
    }
}
