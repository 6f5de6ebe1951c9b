//! What a run measured: the records of one thread, or of all threads together. Recording does not
//! allocate, however long the run is.
//!
//! Every request that was to be sent in the measured period is in exactly one of the counts
//! completed, timed out, unanswered and never sent. It is in the latencies once: with the time to
//! its reply, or with its age when it was given up, which is a lower bound of its latency.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Duration;

use echopool::time::Time;
use hdrhistogram::Histogram;

use crate::stats::counts::{RudeCount, TargetCount};
use crate::stats::cpu::ThreadUse;
use crate::stats::datagram::DatagramRecords;
use crate::stats::hub::HubRecords;
use crate::stats::loss::{Loss, Mismatch};
use crate::stats::parts::Parts;
use crate::stats::stamp::StampRecords;
use crate::stats::tcp::TcpCounts;
use crate::stats::timeseries::Series;
use crate::stats::tls::TlsRecords;

/// Mismatches that the report describes. All are counted.
pub const MISMATCHES_SHOWN: usize = 8;
/// Targets that have a histogram of their own, at most. For more of them, all threads together would
/// need too much memory.
pub const TARGET_LATENCIES_MAX: usize = 16;
/// Latencies are recorded from 1 ns up to this, with three significant digits.
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
/// Replies per second of a thread.
const RATE_MAX: u64 = 1_000_000_000;
const SIGNIFICANT_DIGITS: u8 = 3;

/// Connections that ended early, by kind.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Losses {
    pub timed_out: u64,
    pub closed_by_peer: u64,
    pub reset: u64,
    pub peer_lost: u64,
    /// The end of the TLS stream was missing.
    pub tls_truncated: u64,
    /// Ended by an alert of either side.
    pub tls_alert: u64,
    pub failed: u64,
}

/// The fewest requests that were outstanding at any time in two tenths of the measured period.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Backlog {
    /// In the tenth that begins in the middle.
    pub middle: u64,
    /// In the last tenth.
    pub end: u64,
}

/// Counts and histograms of one thread or of all threads.
pub struct Records {
    pub established: u64,
    /// Failed connects by error number, without those whose TLS handshake failed.
    pub connect_errors: BTreeMap<i32, u64>,
    /// The handshakes; `None` without TLS.
    pub tls: Option<Box<TlsRecords>>,
    pub losses: Losses,
    /// Connections on which a byte differed.
    pub mismatches: u64,
    pub first_mismatches: Vec<Mismatch>,
    /// Requests whose intended time is in the measured period, sent or not. In a closed loop the
    /// intended time is when the request is begun.
    pub offered: u64,
    /// Offered requests that were given to a connection.
    pub requests: u64,
    /// Replies to offered requests within the measured period.
    pub replies: u64,
    /// Replies to offered requests that arrived after it.
    pub replies_late: u64,
    /// Requests whose reply did not arrive within the time-out, counted from the send. Their
    /// connection was closed.
    pub timed_out: u64,
    /// Requests that were given to a connection when it, or the run, ended for another reason; over
    /// UDP also those whose reply was damaged.
    pub unanswered: u64,
    /// Requests of an open loop for which no connection had room before the end of the period.
    pub never_sent: u64,
    /// Requests sent during the warm-up: verified, but not recorded.
    pub warmup_requests: u64,
    /// Bytes verified within the measured period.
    pub bytes: u64,
    /// Bytes verified in all.
    pub bytes_verified: u64,
    /// From the intended time to the complete reply, in nanoseconds. Includes late replies, and the
    /// age of each request without a reply. One value per offered request.
    pub latency: Histogram<u64>,
    /// The values of `latency` that are lower bounds: the ages of requests without a reply.
    pub unfinished: Histogram<u64>,
    /// From the actual send to the complete reply, or to the time at which the request was given
    /// up, in nanoseconds. Equal to the latency in a closed loop.
    pub service_time: Histogram<u64>,
    /// From the intended time to the actual send, in nanoseconds. Empty in a closed loop.
    pub send_lag: Histogram<u64>,
    /// The part of the send lag that the generator causes: from the intended time, or from when the
    /// connection had room if that was later, to the actual send. After a stall of the thread it is
    /// at least the length of the stall. In nanoseconds; empty in a closed loop.
    pub own_lag: Histogram<u64>,
    /// From the start of a connect to the established connection, in nanoseconds.
    pub connect: Histogram<u64>,
    /// Connections that replaced another one in its place, and were established.
    pub reconnects: u64,
    /// Failed connects in place of a connection that had ended. They are among the errors too.
    pub reconnects_failed: u64,
    /// Connections that the server closed when it owed no reply, if they are begun anew.
    pub server_closes: u64,
    /// The measured period second by second.
    pub seconds: Series,
    /// Seconds in which one thread, the worst, was [saturated](crate::stats::cpu::SATURATED) while its
    /// schedule was [behind](crate::stats::tally::BEHIND).
    pub saturated_seconds: u64,
    /// The longest time in which a thread should have worked and did not.
    pub longest_stall: Duration,
    /// Outstanding requests at two times; `None` if the period had no known end or ended early.
    pub backlog: Option<Backlog>,
    /// What became of the connections to each target, in the order of the plan. Empty for a thread
    /// without measured clients.
    pub targets: Vec<TargetCount>,
    /// The latency of each target's requests, in the order of the plan, if there are several targets
    /// but not too many. A request that was never given to a connection is in none of them. During
    /// the run, `latency` has only what is in none of these.
    pub target_latencies: Vec<Histogram<u64>>,
    /// Additional counts of a hub run.
    pub hub: Option<HubRecords>,
    /// What became of the datagrams of a run over UDP.
    pub datagrams: Option<DatagramRecords>,
    /// What the replies of a STAMP reflector tell.
    pub stamp: Option<Box<StampRecords>>,
    /// Where the time of the requests that had their reply went, if the replies carry the server's
    /// times.
    pub parts: Option<Box<Parts>>,
    /// What TCP did on connections that the generator ended.
    pub tcp: TcpCounts,
    /// What became of the rude clients.
    pub rude: Vec<RudeCount>,
    /// Replies per second of one thread, sampled.
    pub rates: Histogram<u64>,
    /// When the last request ended, with a reply or without.
    pub last_end: Time,
    /// Replies of each established connection.
    pub replies_each: Vec<u64>,
    /// When measuring began and ended; both zero if it never began.
    pub began: Time,
    pub ended: Time,
    /// Processor use of each thread during the measured period.
    pub thread_uses: Vec<ThreadUse>,
}

/// An empty histogram of latencies in nanoseconds. All histograms that are added up have the same
/// bounds.
pub fn latency_histogram() -> Histogram<u64> {
    histogram(LATENCY_MAX_NS)
}

/// The value that this percentage of the values do not exceed. In binary, a hundredth of 99.9 is
/// slightly more than 0.999, which for 1000 values selects the largest value instead of the one
/// before it; hence the next lower quantile.
pub fn percentile(values: &Histogram<u64>, percentile: f64) -> u64 {
    values.value_at_quantile((percentile / 100.0).next_down())
}

fn histogram(max: u64) -> Histogram<u64> {
    Histogram::new_with_bounds(1, max, SIGNIFICANT_DIGITS).expect("the bounds are valid")
}

/// Memory of a histogram, in bytes.
pub fn histogram_bytes(values: &Histogram<u64>) -> u64 {
    (values.distinct_values() * size_of::<u64>()) as u64
}

impl Default for Records {
    fn default() -> Records {
        Records {
            established: 0,
            connect_errors: BTreeMap::new(),
            tls: None,
            losses: Losses::default(),
            mismatches: 0,
            first_mismatches: Vec::with_capacity(MISMATCHES_SHOWN),
            offered: 0,
            requests: 0,
            replies: 0,
            replies_late: 0,
            timed_out: 0,
            unanswered: 0,
            never_sent: 0,
            warmup_requests: 0,
            bytes: 0,
            bytes_verified: 0,
            latency: latency_histogram(),
            unfinished: latency_histogram(),
            service_time: latency_histogram(),
            send_lag: latency_histogram(),
            own_lag: latency_histogram(),
            connect: latency_histogram(),
            reconnects: 0,
            reconnects_failed: 0,
            server_closes: 0,
            seconds: Series::default(),
            saturated_seconds: 0,
            longest_stall: Duration::ZERO,
            backlog: None,
            targets: Vec::new(),
            target_latencies: Vec::new(),
            hub: None,
            datagrams: None,
            stamp: None,
            parts: None,
            tcp: TcpCounts::default(),
            rude: Vec::new(),
            rates: histogram(RATE_MAX),
            last_end: Time::ZERO,
            replies_each: Vec::new(),
            began: Time::ZERO,
            ended: Time::ZERO,
            thread_uses: Vec::new(),
        }
    }
}

impl Records {
    /// The records of a thread of clients before its first request. Allocates all histograms.
    pub fn of_targets(count: usize) -> Records {
        Records {
            targets: vec![TargetCount::default(); count],
            target_latencies: vec![latency_histogram(); target_latencies(count)],
            ..Records::default()
        }
    }

    /// Memory of the histograms and the seconds of a run with this many targets, in bytes, with the
    /// copy of a closed loop's latencies that is made at its end.
    pub fn bytes(targets: usize) -> u64 {
        let Records { latency, rates, .. } = Records::default();
        let count = 6 + target_latencies(targets) as u64;
        count * histogram_bytes(&latency) + histogram_bytes(&rates) + Series::BYTES
    }

    /// The histogram for latencies of this target.
    #[inline]
    fn latency_of(&mut self, target: Option<usize>) -> &mut Histogram<u64> {
        match target.and_then(|target| self.target_latencies.get_mut(target)) {
            Some(own) => own,
            None => &mut self.latency,
        }
    }

    /// Adds the latencies of the targets to those of the whole, once, at the end of the run.
    pub fn add_up_targets(&mut self) {
        for own in &self.target_latencies {
            self.latency.add(own).expect("the bounds are equal");
        }
    }

    /// Records one reply of this target. `in_period`: whether it arrived within the measured period.
    #[inline]
    pub fn reply(&mut self, now: Time, target: usize, latency: Duration, in_period: bool) {
        self.latency_of(Some(target)).saturating_record(latency.as_nanos() as u64);
        self.last_end = now;
        if in_period {
            self.replies += 1;
        } else {
            self.replies_late += 1;
        }
    }

    /// Records the send of a request. `own_since`: the time since which only the generator has
    /// delayed it, because its connection has had room.
    #[inline]
    pub fn sent(&mut self, now: Time, intended: Time, own_since: Time) {
        self.send_lag.saturating_record((now - intended).as_nanos() as u64);
        self.own_lag.saturating_record((now - intended.max(own_since)).as_nanos() as u64);
    }

    /// Records latencies of which only this lower bound is known. `target`: `None` if they were given
    /// to no connection.
    pub fn at_least(&mut self, target: Option<usize>, age: Duration, count: u64) {
        let nanos = age.as_nanos() as u64;
        self.latency_of(target).saturating_record_n(nanos, count);
        self.unfinished.saturating_record_n(nanos, count);
    }

    /// Records a request that is given up without a reply. `target`: as for
    /// [`at_least`](Self::at_least).
    pub fn give_up(&mut self, now: Time, target: Option<usize>, intended: Time, end: GivenUp) {
        self.at_least(target, now - intended, 1);
        self.last_end = self.last_end.max(now);
        let sent = match end {
            GivenUp::TimedOut { sent } => {
                self.timed_out += 1;
                sent
            }
            GivenUp::Unanswered { sent } => {
                self.unanswered += 1;
                sent
            }
            GivenUp::NeverSent => {
                self.never_sent += 1;
                return;
            }
        };
        self.service_time.saturating_record((now - sent).as_nanos() as u64);
    }

    /// Requests that had their reply.
    pub fn completed(&self) -> u64 {
        self.replies + self.replies_late
    }

    /// # Panics
    /// A request was counted twice, or not at all.
    pub fn assert_balanced(&self) {
        let Records { offered, timed_out, unanswered, never_sent, .. } = self;
        let ended = self.completed() + timed_out + unanswered + never_sent;
        assert_eq!(*offered, ended, "each request offered has one end");
        assert_eq!(*offered, self.latency.len(), "each request offered has a latency");
        if let Some(parts) = &self.parts {
            assert_eq!(self.completed(), parts.count(), "each reply is split into its parts");
        }
    }

    /// Records the rate of a part of the measured period.
    pub fn rate(&mut self, replies: u64, span: Duration) {
        let nanos = span.as_nanos().max(1);
        self.rates.saturating_record((u128::from(replies) * 1_000_000_000 / nanos) as u64);
    }

    /// Records that a connection was lost.
    pub fn loss(&mut self, loss: Loss) {
        match loss {
            // Counted where it was found.
            Loss::Mismatch => {}
            Loss::TimedOut => self.losses.timed_out += 1,
            Loss::ClosedByPeer => self.losses.closed_by_peer += 1,
            Loss::Reset => self.losses.reset += 1,
            Loss::PeerLost => self.losses.peer_lost += 1,
            Loss::TlsTruncated => self.losses.tls_truncated += 1,
            Loss::TlsAlert => self.losses.tls_alert += 1,
            Loss::Failed => self.losses.failed += 1,
        }
    }

    /// Records a connection whose bytes differed.
    pub fn mismatch(&mut self, mismatch: Mismatch) {
        self.mismatches += 1;
        if self.first_mismatches.len() < MISMATCHES_SHOWN {
            self.first_mismatches.push(mismatch);
        }
    }

    /// Adds the records of another thread.
    pub fn merge(&mut self, other: Records) {
        self.established += other.established;
        for (error, count) in other.connect_errors {
            *self.connect_errors.entry(error).or_default() += count;
        }
        match (&mut self.tls, other.tls) {
            (Some(own), Some(other)) => own.merge(*other),
            (own, other) => *own = own.take().or(other),
        }
        self.losses = self.losses.plus(other.losses);
        self.mismatches += other.mismatches;
        self.first_mismatches.extend(other.first_mismatches);
        self.first_mismatches.truncate(MISMATCHES_SHOWN);
        self.offered += other.offered;
        self.requests += other.requests;
        self.replies += other.replies;
        self.replies_late += other.replies_late;
        self.timed_out += other.timed_out;
        self.unanswered += other.unanswered;
        self.never_sent += other.never_sent;
        self.warmup_requests += other.warmup_requests;
        self.bytes += other.bytes;
        self.bytes_verified += other.bytes_verified;
        self.latency.add(other.latency).expect("the bounds are equal");
        self.unfinished.add(other.unfinished).expect("the bounds are equal");
        self.service_time.add(other.service_time).expect("the bounds are equal");
        self.send_lag.add(other.send_lag).expect("the bounds are equal");
        self.own_lag.add(other.own_lag).expect("the bounds are equal");
        self.connect.add(other.connect).expect("the bounds are equal");
        self.reconnects += other.reconnects;
        self.reconnects_failed += other.reconnects_failed;
        self.server_closes += other.server_closes;
        self.seconds.merge(other.seconds);
        self.saturated_seconds = self.saturated_seconds.max(other.saturated_seconds);
        self.longest_stall = self.longest_stall.max(other.longest_stall);
        if let Some(other) = other.backlog {
            let own = self.backlog.unwrap_or_default();
            let (middle, end) = (own.middle + other.middle, own.end + other.end);
            self.backlog = Some(Backlog { middle, end });
        }
        merge_targets(&mut self.targets, other.targets, |to, from| *to = to.plus(&from));
        merge_targets(&mut self.target_latencies, other.target_latencies, |to, from| {
            to.add(from).expect("the bounds are equal");
        });
        if let Some(hub) = other.hub {
            self.hub = Some(self.hub.unwrap_or_default().plus(&hub));
        }
        if let Some(datagrams) = other.datagrams {
            self.datagrams = Some(self.datagrams.unwrap_or_default().plus(&datagrams));
        }
        match (&mut self.stamp, other.stamp) {
            (Some(own), Some(other)) => own.merge(&other),
            (own, other) => *own = own.take().or(other),
        }
        self.tcp = self.tcp.plus(&other.tcp);
        match (&mut self.parts, other.parts) {
            (Some(own), Some(other)) => own.merge(&other),
            (own, other) => *own = own.take().or(other),
        }
        self.rude.extend(other.rude);
        self.rates.add(other.rates).expect("the bounds are equal");
        self.last_end = self.last_end.max(other.last_end);
        self.replies_each.extend(other.replies_each);
        // All threads begin at the same time; a thread that never began has zero.
        self.began = self.began.max(other.began);
        self.ended = self.ended.max(other.ended);
        self.thread_uses.extend(other.thread_uses);
    }

    /// Adds the records of a later run of the same plan. The length becomes the sum of both. The use
    /// of the busiest thread of one is added to that of the busiest of the other, and so on. Times of
    /// the clock, and the series of seconds, mean nothing any more.
    pub fn append(&mut self, mut later: Records) {
        let elapsed = self.elapsed() + later.elapsed();
        let saturated_seconds = self.saturated_seconds + later.saturated_seconds;
        let mut thread_uses = std::mem::take(&mut later.thread_uses);
        for uses in [&mut thread_uses, &mut self.thread_uses] {
            uses.sort_by_key(|used| Reverse(used.busy()));
        }
        for (used, before) in thread_uses.iter_mut().zip(&self.thread_uses) {
            *used = used.plus(before);
        }
        self.merge(later);
        (self.began, self.ended) = (Time::ZERO, Time::ZERO + elapsed);
        (self.saturated_seconds, self.thread_uses) = (saturated_seconds, thread_uses);
    }

    /// The length of the measured period.
    pub fn elapsed(&self) -> Duration {
        self.ended - self.began
    }

    /// A time that a thread used, as a share of the time in which it was measured. That is longer
    /// than the measured period if the thread could not end it in time.
    pub fn share(&self, used: &ThreadUse, time: Duration) -> f64 {
        let whole = self.elapsed().max(used.span).as_secs_f64();
        if whole > 0.0 { time.as_secs_f64() / whole } else { 0.0 }
    }

    /// The largest share of the measured period in which a thread waited for a processor. `None`: no
    /// thread was measured.
    pub fn waiting_share_max(&self) -> Option<f64> {
        let shares = self.thread_uses.iter().map(|used| self.share(used, used.waiting));
        shares.reduce(f64::max).map(|share| share.min(1.0))
    }

    /// Connections that had at least one verified reply.
    pub fn served(&self) -> u64 {
        self.replies_each.iter().filter(|replies| **replies > 0).count() as u64
    }

    /// Jain's fairness index of the replies per connection: 1 if all had the same number, 1/n if
    /// one of n had them all; 1 if there were none.
    pub fn fairness(&self) -> f64 {
        let sum: f64 = self.replies_each.iter().map(|replies| *replies as f64).sum();
        let squares: f64 = self.replies_each.iter().map(|replies| (*replies as f64).powi(2)).sum();
        if squares == 0.0 { 1.0 } else { sum * sum / (squares * self.replies_each.len() as f64) }
    }

    /// Connects that failed.
    pub fn connect_failed(&self) -> u64 {
        let handshakes = self.tls.iter().flat_map(|tls| tls.failed.values());
        self.connect_errors.values().chain(handshakes).sum()
    }
}

/// The number of targets, out of `count`, that have a histogram of their own. The latency of a single
/// target is that of the whole.
fn target_latencies(count: usize) -> usize {
    if (2..=TARGET_LATENCIES_MAX).contains(&count) { count } else { 0 }
}

/// Merges values of each target into those of other threads, of which there may be none yet.
fn merge_targets<T>(all: &mut Vec<T>, other: Vec<T>, mut merge: impl FnMut(&mut T, T)) {
    if all.is_empty() {
        *all = other;
        return;
    }
    for (to, from) in all.iter_mut().zip(other) {
        merge(to, from);
    }
}

/// How a request without a reply ended. `sent`: when it was actually sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GivenUp {
    TimedOut { sent: Time },
    Unanswered { sent: Time },
    NeverSent,
}

impl Losses {
    /// The sum over all kinds.
    pub fn total(self) -> u64 {
        self.timed_out
            + self.closed_by_peer
            + self.reset
            + self.peer_lost
            + self.tls_truncated
            + self.tls_alert
            + self.failed
    }

    fn plus(self, other: Losses) -> Losses {
        Losses {
            timed_out: self.timed_out + other.timed_out,
            closed_by_peer: self.closed_by_peer + other.closed_by_peer,
            reset: self.reset + other.reset,
            peer_lost: self.peer_lost + other.peer_lost,
            tls_truncated: self.tls_truncated + other.tls_truncated,
            tls_alert: self.tls_alert + other.tls_alert,
            failed: self.failed + other.failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn losses_are_added_up_each_by_itself() {
        let distinct = |times: u64| Losses {
            timed_out: times * 2,
            closed_by_peer: times * 3,
            reset: times * 5,
            peer_lost: times * 7,
            tls_truncated: times * 11,
            tls_alert: times * 13,
            failed: times * 17,
        };
        assert_eq!(distinct(1).plus(distinct(2)), distinct(3));
        assert_eq!(distinct(1).total(), 58);
    }

    #[test]
    fn latencies_of_each_target_are_in_those_of_the_whole_once() {
        let mut records = Records::of_targets(2);
        for (target, nanos) in [(0, 100), (1, 200), (1, 300)] {
            records.reply(at(1), target, Duration::from_nanos(nanos), true);
        }
        let lens = records.target_latencies.iter().map(Histogram::len);
        assert_eq!(lens.collect::<Vec<_>>(), [1, 2]);
        records.add_up_targets();
        assert_eq!((records.latency.len(), records.latency.max()), (3, 300));
        let mut alone = Records::of_targets(1);
        alone.reply(at(1), 0, Duration::from_nanos(100), true);
        alone.add_up_targets();
        assert_eq!(alone.latency.len(), 1);
    }

    /// Threads have the same seconds: two that were saturated in three of them make no six.
    #[test]
    fn seconds_of_several_threads_are_the_same_seconds() {
        let thread = |saturated_seconds| Records { saturated_seconds, ..Records::default() };
        let mut all = Records::default();
        [3, 3, 1].map(thread).into_iter().for_each(|records| all.merge(records));
        assert_eq!(all.saturated_seconds, 3);
    }

    #[test]
    fn merging_adds_everything_up() {
        let thread = |offset: u64| {
            let mut records = Records { established: 2, began: at(100), ..Records::default() };
            records.reply(at(200 + offset), 0, Duration::from_micros(5), true);
            records.reply(at(300 + offset), 0, Duration::from_micros(7), false);
            records.loss(Loss::Reset);
            records.loss(Loss::Mismatch);
            *records.connect_errors.entry(7).or_default() += 1;
            records.ended = at(250 + offset);
            records.replies_each = vec![2, 0];
            records
        };
        let mut all = thread(0);
        all.merge(thread(50));
        assert_eq!((all.established, all.replies, all.replies_late), (4, 2, 2));
        assert_eq!((all.losses.reset, all.losses.total()), (2, 2));
        assert_eq!((all.connect_failed(), all.served()), (2, 2));
        assert_eq!((all.latency.len(), all.last_end), (4, at(350)));
        assert_eq!(all.elapsed(), Duration::from_nanos(200));
    }

    #[test]
    fn a_later_run_lengthens_the_period_and_the_use_of_each_thread() {
        let run = |began: u64, nanos: u64| {
            let mut records = Records { began: at(began), ..Records::default() };
            records.reply(at(began + 1), 0, Duration::from_micros(5), true);
            records.ended = at(began + nanos);
            records.saturated_seconds = 1;
            let used = |nanos| ThreadUse {
                running: Duration::from_nanos(nanos),
                switches_voluntary: nanos,
                ..ThreadUse::default()
            };
            records.thread_uses = vec![used(nanos), used(10 * nanos)];
            records
        };
        let mut all = run(1_000, 100);
        all.append(run(5_000, 300));
        assert_eq!((all.elapsed(), all.replies), (Duration::from_nanos(400), 2));
        assert_eq!((all.saturated_seconds, all.latency.len()), (2, 2));
        let running: Vec<_> = all.thread_uses.iter().map(|used| used.running.as_nanos()).collect();
        assert_eq!(running, [4_000, 400]);
        assert_eq!(all.thread_uses[0].switches_voluntary, 4_000);
    }

    #[test]
    fn every_request_has_one_end_and_one_latency() {
        let mut records = Records { offered: 5, ..Records::default() };
        let (now, intended, sent) = (at(1_000), at(100), at(600));
        records.reply(now, 0, now - intended, true);
        records.reply(now, 0, now - intended, false);
        records.give_up(now, Some(0), intended, GivenUp::TimedOut { sent });
        records.give_up(now, Some(0), intended, GivenUp::Unanswered { sent });
        records.give_up(now, Some(0), intended, GivenUp::NeverSent);
        records.assert_balanced();
        assert_eq!((records.timed_out, records.unanswered, records.never_sent), (1, 1, 1));
        assert_eq!((records.latency.min(), records.service_time.min()), (900, 400));
        records.offered += 1;
        assert!(std::panic::catch_unwind(move || records.assert_balanced()).is_err());
    }

    #[test]
    fn the_generators_own_part_of_the_lag_begins_when_the_connection_has_room() {
        let mut records = Records::default();
        records.sent(at(1_000), at(100), at(900));
        assert_eq!((records.send_lag.max(), records.own_lag.max()), (900, 100));
        records.sent(at(1_000), at(950), at(900));
        assert_eq!((records.send_lag.min(), records.own_lag.min()), (50, 50));
    }

    #[test]
    fn a_percentile_is_the_value_of_its_rank_whatever_its_fraction_is_in_binary() {
        for count in [1_000u64, 2_000, 7_000, 10_000] {
            let mut values = Histogram::<u64>::new_with_bounds(1, 1 << 30, 5).expect("bounds");
            (1..=count).for_each(|value| values.record(value).expect("in bounds"));
            for permille in [1, 500, 750, 900, 950, 990, 995, 999, 1000] {
                let found = percentile(&values, permille as f64 / 10.0);
                assert_eq!(
                    found,
                    count * permille / 1000,
                    "p{} of {count}",
                    permille as f64 / 10.0
                );
            }
        }
        assert_eq!(percentile(&latency_histogram(), 99.0), 0);
    }

    #[test]
    fn jains_index_goes_from_one_for_all_to_all_for_one() {
        let with = |replies_each: Vec<u64>| Records { replies_each, ..Records::default() };
        assert_eq!(with(vec![7, 7, 7, 7]).fairness(), 1.0);
        assert_eq!(with(vec![0, 9, 0, 0]).fairness(), 0.25);
        assert_eq!(with(vec![1, 3]).fairness(), 0.8);
        assert_eq!(with(vec![0, 0]).fairness(), 1.0);
        assert_eq!(with(vec![]).fairness(), 1.0);
    }

    #[test]
    fn a_latency_beyond_the_bounds_is_recorded_as_the_largest() {
        let mut records = Records::default();
        records.reply(at(1), 0, Duration::from_secs(100_000), true);
        assert!(records.latency.max() >= LATENCY_MAX_NS);
    }

    #[test]
    fn each_count_of_a_thread_is_added_to_its_own() {
        let thread = |first: u64| {
            let mut records = Records::default();
            let counts = [
                &mut records.established,
                &mut records.mismatches,
                &mut records.offered,
                &mut records.requests,
                &mut records.replies,
                &mut records.replies_late,
                &mut records.timed_out,
                &mut records.unanswered,
                &mut records.never_sent,
                &mut records.warmup_requests,
                &mut records.bytes,
                &mut records.bytes_verified,
                &mut records.reconnects,
                &mut records.reconnects_failed,
                &mut records.server_closes,
                &mut records.losses.timed_out,
                &mut records.losses.closed_by_peer,
                &mut records.losses.reset,
                &mut records.losses.peer_lost,
                &mut records.losses.failed,
            ];
            (first..).zip(counts).for_each(|(value, count)| *count = value);
            records.backlog = Some(Backlog { middle: first + 20, end: first + 21 });
            let count = |completed| TargetCount { completed, ..TargetCount::default() };
            records.targets = vec![count(first + 22), count(first + 23)];
            let joined = first + 24;
            records.hub = Some(HubRecords { joined, ..HubRecords::default() });
            records
        };
        // The first one is merged into nothing, as the main thread does.
        let mut all = Records::default();
        all.merge(thread(10));
        all.merge(thread(1_000));
        let losses = all.losses;
        let [one, other] = all.targets.as_slice() else { panic!("{:?}", all.targets) };
        let found = [
            all.established,
            all.mismatches,
            all.offered,
            all.requests,
            all.replies,
            all.replies_late,
            all.timed_out,
            all.unanswered,
            all.never_sent,
            all.warmup_requests,
            all.bytes,
            all.bytes_verified,
            all.reconnects,
            all.reconnects_failed,
            all.server_closes,
            losses.timed_out,
            losses.closed_by_peer,
            losses.reset,
            losses.peer_lost,
            losses.failed,
            all.backlog.expect("both have one").middle,
            all.backlog.expect("both have one").end,
            one.completed,
            other.completed,
            all.hub.expect("both have one").joined,
        ];
        let expected: Vec<u64> = (0..25).map(|nth| 1_010 + 2 * nth).collect();
        assert_eq!(found.as_slice(), expected);
    }

    #[test]
    fn each_kind_of_loss_has_its_own_count() {
        let mut records = Records::default();
        let kinds = [
            Loss::TimedOut,
            Loss::ClosedByPeer,
            Loss::Reset,
            Loss::PeerLost,
            Loss::TlsTruncated,
            Loss::TlsAlert,
            Loss::Failed,
            Loss::Mismatch,
        ];
        for (count, kind) in (1..).zip(kinds) {
            (0..count).for_each(|_| records.loss(kind));
        }
        let expected = Losses {
            timed_out: 1,
            closed_by_peer: 2,
            reset: 3,
            peer_lost: 4,
            tls_truncated: 5,
            tls_alert: 6,
            failed: 7,
        };
        assert_eq!((records.losses, records.losses.total()), (expected, 28));
    }

    #[test]
    fn all_mismatches_are_counted_and_the_first_ones_are_kept() {
        let mut records = Records::default();
        (0..10).for_each(|connection| {
            records.mismatch(Mismatch { connection, ..crate::report::tests::mismatch() })
        });
        assert_eq!((records.mismatches, records.first_mismatches.len()), (10, MISMATCHES_SHOWN));
        assert_eq!(records.first_mismatches[7].connection, 7);
    }

    #[test]
    fn a_share_of_no_time_is_none() {
        let records = Records::default();
        assert_eq!(records.share(&ThreadUse::default(), Duration::ZERO), 0.0);
        assert_eq!(records.share(&ThreadUse::default(), Duration::from_secs(1)), 0.0);
    }

    /// The sum of the memory is what the allocator is asked for. HdrHistogram's arithmetic: 1,024
    /// counts of 8 bytes for each doubling of the value above 2,048, and 2,048 for those below.
    #[test]
    fn the_memory_of_histograms_is_that_of_their_counts() {
        let counts_of_an_hour = (31 + 2) * 1_024;
        assert_eq!(histogram_bytes(&latency_histogram()), counts_of_an_hour * 8);
        let counts_of_a_rate = (19 + 2) * 1_024;
        let seconds = 3_600 * size_of::<crate::stats::timeseries::Second>() as u64;
        for (targets, histograms) in [(1, 6), (2, 8), (16, 22), (17, 6)] {
            let counts = histograms * counts_of_an_hour + counts_of_a_rate;
            assert_eq!(Records::bytes(targets), counts * 8 + seconds, "{targets} targets");
        }
    }
}
