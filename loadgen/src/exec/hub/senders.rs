//! State shared by all threads of a hub run: who sends, how much each has sent, and when.
//!
//! The times of a sender's messages are kept in a ring, so that they are found at once and need
//! constant memory, however long the run is. A delivery whose slot in the ring was reused is
//! counted, and its latency is recorded as that of the oldest message in the ring, which is a lower
//! bound.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use std::time::Duration;

use echopool::buffer::Lease;
use echopool::framing::ByteOrder;
use echopool::time::Time;

use crate::plan::Plan;
use crate::plan::hub::times_each;
use crate::stats::hub::SentAt;
use crate::traffic::hub_frames::{BROADCAST_BYTES, STAMP_BYTES, Stamp, broadcast_head};
use crate::traffic::payload::Stream;

/// Shared by all threads of a run.
pub struct SharedSenders {
    pub order: ByteOrder,
    /// Size of a broadcast's payload in bytes.
    pub size: u64,
    pub senders: Vec<Sender>,
    /// Clients that read and are still connected.
    pub readers: AtomicUsize,
    /// Ids that clients have received.
    ids: Mutex<BTreeSet<u64>>,
}

/// One sender.
pub struct Sender {
    /// The number of its connection.
    pub connection: u64,
    stream: Stream,
    /// The id that the hub assigned to it.
    id: AtomicU64,
    /// Messages begun.
    begun: AtomicU64,
    lost: AtomicBool,
    /// The longest time from the intended time of a message to its actual send, in nanoseconds.
    lag_max: AtomicU64,
    times: Box<[AtomicU64]>,
}

impl SharedSenders {
    /// The shared state for this plan; `None` unless it is for a hub.
    pub fn of_plan(plan: &Plan) -> Option<SharedSenders> {
        let hub = plan.hub?;
        let firsts: Vec<_> =
            (0..plan.threads).map(|nth| plan.share(nth).first_connection).collect();
        Some(SharedSenders::new(hub.order, plan.size, plan.seed, &hub.senders(&firsts)))
    }

    /// `connections`: the numbers of the connections that send.
    pub fn new(order: ByteOrder, size: u64, seed: u64, connections: &[u64]) -> SharedSenders {
        let times = times_each(connections.len());
        let sender = |&connection| Sender {
            connection,
            stream: Stream::new(seed, connection),
            id: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            lost: AtomicBool::new(false),
            lag_max: AtomicU64::new(0),
            times: (0..times).map(|_| AtomicU64::new(0)).collect(),
        };
        let senders = connections.iter().map(sender).collect();
        SharedSenders { order, size, senders, readers: AtomicUsize::new(0), ids: Mutex::default() }
    }

    /// Records the id of a client. Returns whether no other client has it.
    pub fn is_new(&self, id: u64) -> bool {
        self.ids.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).insert(id)
    }

    /// Messages begun by all senders.
    pub fn begun(&self) -> u64 {
        self.senders.iter().map(Sender::begun).sum()
    }

    /// Writes the payload of a message from position `at`, which is after the stamp.
    pub fn fill(&self, stamp: Stamp, at: u64, out: &mut [u8]) {
        debug_assert!(at >= STAMP_BYTES as u64);
        let sender = &self.senders[stamp.sender as usize];
        sender.stream.fill(stamp.number * self.size + at, out);
    }

    /// Writes a complete broadcast into an empty buffer that has room for it.
    pub fn write(&self, stamp: Stamp, lease: &mut Lease) {
        let len = BROADCAST_BYTES + self.size as usize;
        let (head, payload) = lease.spare_mut()[..len].split_at_mut(BROADCAST_BYTES);
        head.copy_from_slice(&broadcast_head(self.size, self.order));
        let (mark, body) = payload.split_at_mut(STAMP_BYTES);
        mark.copy_from_slice(&stamp.bytes());
        self.fill(stamp, STAMP_BYTES as u64, body);
        lease.commit(len);
    }

    /// Compares bytes of a payload from position `at`, which is after the stamp, with what was
    /// sent.
    #[inline]
    pub fn first_difference(&self, stamp: Stamp, at: u64, bytes: &[u8]) -> Option<usize> {
        let sender = &self.senders[stamp.sender as usize];
        sender.stream.first_difference(stamp.number * self.size + at, bytes)
    }
}

impl Sender {
    pub fn set_id(&self, id: u64) {
        self.id.store(id, Relaxed);
    }

    /// 0 until it is known.
    #[inline]
    pub fn id(&self) -> u64 {
        self.id.load(Relaxed)
    }

    #[inline]
    pub fn begun(&self) -> u64 {
        self.begun.load(Acquire)
    }

    /// Marks the sender as gone. Its last messages may not have reached the hub.
    pub fn mark_lost(&self) {
        self.lost.store(true, Relaxed);
    }

    pub fn is_lost(&self) -> bool {
        self.lost.load(Relaxed)
    }

    /// Begins a message and returns its number. Only the thread of the sender calls this.
    #[inline]
    pub fn begin(&self, intended: Time, now: Time) -> u64 {
        let number = self.begun.load(Relaxed);
        let lag = (now - intended).as_nanos() as u64;
        if lag > self.lag_max.load(Relaxed) {
            self.lag_max.store(lag, Relaxed);
        }
        // The count is stored before the time: a reader that loads a time and then sees that its
        // slot was not reused has loaded the right one.
        self.begun.store(number + 1, Relaxed);
        self.place(number).store(intended.as_nanos(), Release);
        number
    }

    /// The intended time of a message. Its bytes have come back, so the store is complete.
    #[inline]
    pub fn sent_at(&self, number: u64) -> SentAt {
        let time = Time::from_nanos(self.place(number).load(Acquire));
        let begun = self.begun();
        if begun <= number + self.times.len() as u64 {
            return SentAt::Known(time);
        }
        let oldest = self.place(begun).load(Acquire);
        SentAt::Before(Time::from_nanos(oldest))
    }

    /// Time since a message was sent, at least. Only its intended time is kept, so it may have been
    /// sent later than that by as much as any message was.
    #[inline]
    pub fn age(&self, number: u64, now: Time) -> Duration {
        let (SentAt::Known(time) | SentAt::Before(time)) = self.sent_at(number);
        let lag = Duration::from_nanos(self.lag_max.load(Relaxed));
        (now - time).saturating_sub(lag)
    }

    #[inline]
    fn place(&self, number: u64) -> &AtomicU64 {
        &self.times[number as usize & (self.times.len() - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ring_knows_the_latest_times_and_says_which_it_does_not_know() {
        let shared = SharedSenders::new(ByteOrder::Little, 64, 1, &[0]);
        let sender = &shared.senders[0];
        let places = sender.times.len() as u64;
        for number in 0..3 * places {
            let now = Time::from_nanos(1_000 + number);
            assert_eq!(sender.begin(now, now), number);
        }
        for number in [2 * places, 3 * places - 1] {
            assert_eq!(sender.sent_at(number), SentAt::Known(Time::from_nanos(1_000 + number)));
        }
        let oldest = Time::from_nanos(1_000 + 2 * places);
        for number in [0, places, 2 * places - 1] {
            assert_eq!(sender.sent_at(number), SentAt::Before(oldest), "{number}");
        }
    }

    #[test]
    fn the_age_of_a_message_does_not_include_the_time_before_its_send() {
        let shared = SharedSenders::new(ByteOrder::Little, 64, 1, &[0]);
        let (sender, at) = (&shared.senders[0], |millis: u64| Time::from_nanos(millis * 1_000_000));
        sender.begin(at(10), at(1_510));
        assert_eq!(sender.age(0, at(1_512)), Duration::from_millis(2));
        assert_eq!(sender.age(0, at(1_000)), Duration::ZERO);
    }

    #[test]
    fn an_id_is_nobody_elses() {
        let shared = SharedSenders::new(ByteOrder::Little, 64, 1, &[0]);
        assert!(shared.is_new(5) && shared.is_new(6));
        assert!(!shared.is_new(5));
    }
}
