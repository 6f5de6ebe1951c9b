//! The clients of one thread over UDP: sockets that send datagrams, and find out what became of each.
//!
//! A datagram carries its number, so a reply is assigned to its datagram whatever happens on the way.
//! A ring of each socket has the last of them with their fate. In a closed loop a socket sends its
//! next datagram when an earlier one has its reply or is lost; in an open loop datagrams are
//! scheduled, and use any socket that has room (`dispatch`).
//!
//! * here: the thread, from the first socket to the last reply
//! * `phases`: what it does between two waits
//! * `exchange`: what a socket sends, and how a reply is judged
//! * `stamp`: the packets of a run against a STAMP reflector
//! * `net`: the sockets and the clocks, as a seam: a simulated network has its own
//! * `wait`: for datagrams, or for a time

use std::io;
use std::net::UdpSocket;
use std::sync::Arc;

use echopool::builtin::url::ServiceOptions;
use echopool::error::Errno;
use echopool::time::Time;

use crate::exec::client::backlog::Windows;
use crate::exec::client::second::PresentSecond;
use crate::exec::control::Control;
use crate::exec::lifecycle::Lifecycle;
use crate::plan::{DATAGRAM_BYTES, DATAGRAM_SOCKET_BYTES, Plan};
use crate::stats::datagram::{DatagramRecords, Jitter};
use crate::stats::records::Records;
use crate::stats::tally;
use crate::traffic::datagram;
use crate::traffic::payload::Stream;

mod exchange;
mod net;
mod phases;
mod stamp;
mod wait;

pub use net::{Net, System, Waited};
use stamp::Stamp;

/// Waits in a row without anything else, at most.
const WAITS: usize = 64;

// The plan relies on it.
const _: () = assert!(
    size_of::<UdpSocket>() + size_of::<Client>() + size_of::<usize>()
        <= DATAGRAM_SOCKET_BYTES as usize
);
const _: () = assert!(size_of::<Sent>() <= DATAGRAM_BYTES as usize);

/// The fate of a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    /// There is none with this number yet.
    None,
    /// It was sent, and the time-out is not over.
    Outstanding,
    /// It had its reply, or one that was damaged.
    Answered,
    /// It was given up.
    Lost,
}

/// A datagram that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    intended: Time,
    at: Time,
    fate: Fate,
}

/// What is known of a socket.
struct Client {
    stream: Stream,
    datagrams: datagram::Datagrams,
    /// The number of the next datagram, and of the oldest that may be outstanding.
    next: u64,
    oldest: u64,
    outstanding: u64,
    /// The number after that of the latest datagram that has its reply.
    answered_to: u64,
    jitter: Jitter,
    /// Replies, and those to requests of the warm-up.
    replies: u64,
    unrecorded: u64,
    /// Since when it has had room.
    room_since: Time,
}

/// The sockets of one thread.
struct Datagrams<N> {
    lifecycle: Lifecycle,
    net: N,
    clients: Vec<Client>,
    /// The place of each client among those of the thread; they differ if a socket failed.
    places: Vec<usize>,
    /// `remembered` datagrams for each client.
    ring: Vec<Sent>,
    remembered: u64,
    /// Datagrams that are to be sent together.
    queued: usize,
    second: PresentSecond,
    windows: Windows,
    counts: DatagramRecords,
    /// The packets, if the target is a STAMP reflector.
    stamp: Option<Stamp>,
    /// Closed loop: whether each socket was told to begin.
    have_begun: bool,
    /// Everything that had arrived by this time was read.
    looked_at: Time,
    next_expiry: Time,
    /// When the last datagram had its end, after the period.
    over_at: Option<Time>,
}

/// Sends and receives on this thread until the run is over.
///
/// # Errors
/// The system refuses to wait for events.
pub fn run(plan: Arc<Plan>, control: Arc<Control>, thread: usize) -> io::Result<Records> {
    let net = System::new(plan.size as usize)?;
    run_over(net, plan, control, thread)
}

/// The same over this network.
///
/// # Errors
/// It refuses to wait for datagrams.
pub fn run_over<N: Net>(
    net: N,
    plan: Arc<Plan>,
    control: Arc<Control>,
    thread: usize,
) -> io::Result<Records> {
    let mut datagrams = Datagrams::new(net, plan, control, thread);
    datagrams.open_all()?;
    datagrams.lifecycle.become_ready(datagrams.net.now());
    while let Some(next) = datagrams.step(datagrams.net.now()) {
        datagrams.receive_until(next)?;
    }
    Ok(datagrams.into_records())
}

impl<N: Net> Datagrams<N> {
    fn new(net: N, plan: Arc<Plan>, control: Arc<Control>, thread: usize) -> Datagrams<N> {
        let remembered = datagram::remembered(plan.pipeline);
        let lifecycle = Lifecycle::new(plan, control, thread);
        let count = lifecycle.share.connections;
        let ring = count * remembered as usize;
        let is_stamp = matches!(lifecycle.plan.service, ServiceOptions::Stamp(_));
        let stamp = is_stamp.then(|| Stamp::new(count, ring, net.clock_error()));
        let none = Sent { intended: Time::ZERO, at: Time::ZERO, fate: Fate::None };
        Datagrams {
            net,
            clients: Vec::with_capacity(count),
            places: Vec::with_capacity(count),
            ring: vec![none; ring],
            remembered,
            queued: 0,
            second: PresentSecond::default(),
            windows: Windows::default(),
            counts: DatagramRecords::default(),
            stamp,
            have_begun: false,
            looked_at: Time::ZERO,
            next_expiry: Time::ZERO,
            over_at: None,
            lifecycle,
        }
    }

    /// Opens the sockets. One that cannot be opened is a failed connect.
    fn open_all(&mut self) -> io::Result<()> {
        let plan = self.lifecycle.plan.clone();
        for place in 0..self.lifecycle.share.connections {
            let number = self.lifecycle.share.first_connection + place as u64;
            let target = plan.targets[plan.target_index(number)];
            let address = target.socket_addr().expect("the plan has UDP targets only");
            let source = plan.source(number, &target);
            match self.net.open(address, source, self.stamp.is_some()) {
                Ok(()) => {
                    self.lifecycle.connecting += 1;
                    self.lifecycle.established(place, true);
                    let stream = Stream::new(plan.seed, number);
                    self.clients.push(Client::new(stream));
                    self.places.push(place);
                }
                Err(error) => {
                    let errno = Errno::from_io_error(&error).unwrap_or(Errno::IO);
                    let errors = &mut self.lifecycle.records.connect_errors;
                    *errors.entry(errno.raw_os_error()).or_default() += 1;
                    tally::add(&self.lifecycle.tally().connect_failed, 1);
                }
            }
        }
        Ok(())
    }

    /// Reads what arrives, and returns at this time at the latest. Returns early if there was
    /// something.
    fn receive_until(&mut self, next: Time) -> io::Result<()> {
        let begun = self.net.now();
        let mut waits = next > begun && !self.lifecycle.plan.busy_poll;
        for _ in 0..WAITS {
            // The clock is read before the sockets are looked at: the process can be stopped between
            // the two, and replies come meanwhile.
            let waited = match waits {
                true => self.net.wait(next)?,
                false => {
                    let before = self.net.now();
                    match self.net.look()? {
                        0 => Waited::Nothing(before),
                        found => Waited::Found(found),
                    }
                }
            };
            let found = match waited {
                Waited::Found(found) => found,
                Waited::Nothing(at) => {
                    self.looked_at = self.looked_at.max(at);
                    return Ok(());
                }
            };
            (0..found).for_each(|nth| self.read(self.net.ready(nth)));
            waits = false;
        }
        // What lay in the sockets when this began has been read by now.
        self.looked_at = begun;
        Ok(())
    }

    /// Reads what has arrived at a socket, at most one batch: the others have their turn before the
    /// next one.
    fn read(&mut self, index: usize) {
        let now = self.net.now();
        self.lifecycle.at_work(now);
        match self.net.receive(index) {
            Ok(count) => {
                for at in 0..count {
                    self.judge(index, at, now);
                }
                self.resume(index, now);
            }
            Err(Errno::AGAIN) => {}
            // An earlier datagram found nobody, and ICMP says so. It is lost in its time.
            Err(_) => self.counts.errors += 1,
        }
    }

    /// The records, after the end.
    ///
    /// # Panics
    /// A datagram was not accounted for.
    fn into_records(mut self) -> Records {
        self.lifecycle.abandon();
        assert_eq!(self.second.outstanding(), 0, "each datagram has an end");
        for (index, (client, &place)) in self.clients.iter().zip(&self.places).enumerate() {
            if let Some(stamp) = &mut self.stamp {
                stamp.end(index, client.next);
            }
            let completed = client.replies - client.unrecorded;
            self.lifecycle.served(place, client.replies, completed);
            if let Some(jitter) = client.jitter.nanos() {
                self.counts.jitter_sum_ns += jitter;
                self.counts.jitter_max_ns = self.counts.jitter_max_ns.max(jitter);
                self.counts.jitter_sockets += 1;
            }
            self.lifecycle.closed();
        }
        let closed_loop = self.lifecycle.dispatch.is_none();
        let mut records = self.lifecycle.into_records();
        if closed_loop {
            records.service_time = records.latency.clone();
        }
        records.assert_balanced();
        let recorded = records.requests + records.warmup_requests;
        assert_eq!(self.counts.sent, recorded, "each datagram is one request");
        records.datagrams = Some(self.counts);
        records.stamp = self.stamp.map(Stamp::into_records);
        records
    }
}

impl Client {
    fn new(stream: Stream) -> Client {
        Client {
            stream,
            datagrams: datagram::Datagrams::new(stream),
            next: 0,
            oldest: 0,
            outstanding: 0,
            answered_to: 0,
            jitter: Jitter::default(),
            replies: 0,
            unrecorded: 0,
            room_since: Time::ZERO,
        }
    }
}
