//! Where the time of each request went, for a server whose replies carry its times (`timed://`).
//!
//! The clocks of both sides need not agree: of the server's times only the differences are used.
//! What neither side accounts for is the network and the kernels, there and back. The parts of a
//! request add up to its latency, by construction, and that is asserted for each request.

use std::time::Duration;

use echopool::builtin::timed::Times;
use echopool::time::Time;
use hdrhistogram::Histogram;

use crate::stats::records::{histogram_bytes, latency_histogram};

/// A part of the latency of a request, in the order in which they follow each other, except that the
/// network is passed twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The request was due, its connection had room, and the generator was late.
    Generator,
    /// The request was due, and no connection had room for it.
    Connection,
    /// From the send to the server's loop, and from there to the generator's, less the next two.
    Network,
    /// From when the server's loop was told of the request to when its service took it up.
    Waiting,
    /// The service worked on it.
    Service,
    /// From when the generator's loop was told of the reply, or could have been if its thread had had
    /// a processor, to when it read it.
    Reading,
}

impl Part {
    /// All parts.
    pub const ALL: [Part; 6] = [
        Part::Generator,
        Part::Connection,
        Part::Network,
        Part::Waiting,
        Part::Service,
        Part::Reading,
    ];

    /// Its name in words.
    pub fn words(self) -> &'static str {
        match self {
            Part::Generator => "generator lag",
            Part::Connection => "waiting for a connection",
            Part::Network => "network and kernel, there and back",
            Part::Waiting => "waiting at the server",
            Part::Service => "service",
            Part::Reading => "generator's reading",
        }
    }

    /// Its name in a table of several runs.
    pub fn short(self) -> &'static str {
        match self {
            Part::Generator => "Lag",
            Part::Connection => "Connection",
            Part::Network => "Network",
            Part::Waiting => "Waiting",
            Part::Service => "Serving",
            Part::Reading => "Reading",
        }
    }

    /// Its key in JSON.
    pub fn key(self) -> &'static str {
        match self {
            Part::Generator => "generator_lag",
            Part::Connection => "connection_wait",
            Part::Network => "network",
            Part::Waiting => "server_wait",
            Part::Service => "server_service",
            Part::Reading => "generator_read",
        }
    }
}

/// A value for each [`Part`], in the order of [`Part::ALL`].
pub type OfParts<T> = [T; Part::ALL.len()];

/// The times of a request on the generator's clock.
#[derive(Clone, Copy, Debug)]
pub struct RoundTrip {
    /// When it was due.
    pub intended: Time,
    /// The part of its send lag that the generator caused.
    pub own_lag: Duration,
    /// When it was sent.
    pub sent: Time,
    /// When the generator's loop was told that something has arrived, or could have been.
    pub told: Time,
    /// When it had read the complete reply.
    pub arrived: Time,
}

/// The parts of one request, in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Split {
    pub parts: OfParts<u64>,
    /// Whether the times of the server did not fit into the round trip, and were cut.
    pub cut: bool,
}

impl Split {
    /// Splits a round trip. What was measured as one interval takes precedence over what is a
    /// difference of several: the service's time, then the generator's reading, then the waiting. A
    /// loop that was told of one request may find a later one beside it, so the latter two can be
    /// too long.
    ///
    /// # Panics
    /// The parts do not add up to the latency.
    #[inline]
    pub fn new(trip: &RoundTrip, times: &Times) -> Split {
        let RoundTrip { intended, own_lag, sent, told, arrived } = *trip;
        let nanos = |time: Duration| time.as_nanos() as u64;
        let (whole, lag) = (nanos(arrived - sent), nanos(sent - intended));
        let own = nanos(own_lag).min(lag);
        let (service, waiting) =
            (nanos(times.sent - times.taken_up), nanos(times.taken_up - times.received));
        let cut = service.saturating_add(waiting) > whole;
        let service = service.min(whole);
        let reading = nanos(arrived - told).min(whole - service);
        let waiting = waiting.min(whole - service - reading);
        let network = whole - service - reading - waiting;
        let parts = [own, lag - own, network, waiting, service, reading];
        let latency = nanos(arrived - intended);
        assert_eq!(
            parts.iter().sum::<u64>(),
            latency,
            "the parts are the whole: {trip:?} {times:?}"
        );
        Split { parts, cut }
    }
}

/// Rows of [`ByLatency`]: 32 for each doubling, up to more than an hour.
const STEP_BITS: u32 = 5;
const EXACT: u64 = 2 << STEP_BITS;
const ROWS: usize = EXACT as usize + (36 << STEP_BITS);

/// Requests of about the same latency (within 3 %), and the sums of their parts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Row {
    pub count: u64,
    /// In nanoseconds.
    pub sums: OfParts<u64>,
}

impl Row {
    /// Adds another row.
    pub fn add(&mut self, other: &Row) {
        self.count += other.count;
        self.sums.iter_mut().zip(other.sums).for_each(|(to, from)| *to += from);
    }

    /// The sums as shares of the sum of all; zero if there is nothing.
    pub fn shares(&self) -> OfParts<f64> {
        let whole = self.sums.iter().sum::<u64>().max(1) as f64;
        self.sums.map(|sum| sum as f64 / whole)
    }
}

/// The row of a latency in nanoseconds.
fn row_of(latency: u64) -> usize {
    if latency < EXACT {
        return latency as usize;
    }
    let doublings = latency.ilog2() - STEP_BITS;
    let step = latency >> doublings;
    let row = EXACT + (u64::from(doublings - 1) << STEP_BITS) + step - (1 << STEP_BITS);
    (row as usize).min(ROWS - 1)
}

/// The largest latency of a row.
fn latency_max(row: usize) -> u64 {
    let row = row as u64;
    if row < EXACT {
        return row;
    }
    let (doublings, step) = ((row - EXACT) >> STEP_BITS, (row - EXACT) & ((1 << STEP_BITS) - 1));
    (((1 << STEP_BITS) + step + 1) << (doublings + 1)) - 1
}

/// One-way times, for replies whose times are from the clock of this machine.
#[derive(Clone, Debug)]
pub struct OneWay {
    /// From the send to the server's loop.
    pub there: Histogram<u64>,
    /// From the server's send to the generator's loop.
    pub back: Histogram<u64>,
    /// Requests that were taken up before they were sent, or replies that arrived before they were:
    /// there are none if the clock is one. And by how much at most, in nanoseconds.
    pub contradictions: u64,
    pub contradiction_max: u64,
}

/// The parts of all requests that had their reply.
#[derive(Clone, Debug)]
pub struct Parts {
    /// In nanoseconds.
    pub each: OfParts<Histogram<u64>>,
    rows: Box<[Row]>,
    /// Replies whose server's times were cut.
    pub cut: u64,
    pub one_way: OneWay,
}

impl Default for Parts {
    fn default() -> Parts {
        Parts {
            each: Part::ALL.map(|_| latency_histogram()),
            rows: vec![Row::default(); ROWS].into(),
            cut: 0,
            one_way: OneWay {
                there: latency_histogram(),
                back: latency_histogram(),
                contradictions: 0,
                contradiction_max: 0,
            },
        }
    }
}

impl Parts {
    /// Memory, in bytes.
    pub fn bytes() -> u64 {
        let histograms = Part::ALL.len() as u64 + 2;
        histograms * histogram_bytes(&latency_histogram()) + (ROWS * size_of::<Row>()) as u64
    }

    /// Records a request. `same_clock`: whether the server's times are from this machine's clock.
    #[inline]
    pub fn record(&mut self, trip: &RoundTrip, times: &Times, same_clock: bool) {
        let Split { parts, cut } = Split::new(trip, times);
        for (values, nanos) in self.each.iter_mut().zip(parts) {
            values.saturating_record(nanos);
        }
        let row = row_of((trip.arrived - trip.intended).as_nanos() as u64);
        self.rows[row].add(&Row { count: 1, sums: parts });
        self.cut += u64::from(cut);
        if same_clock {
            self.one_way.record(trip, times);
        }
    }

    /// Requests that were recorded.
    ///
    /// # Panics
    /// A part was not recorded for each of them.
    pub fn count(&self) -> u64 {
        let count = self.rows.iter().map(|row| row.count).sum();
        assert!(self.each.iter().all(|values| values.len() == count), "each request has each part");
        count
    }

    /// The rows that have requests, from the lowest latency, each with its largest one in
    /// nanoseconds.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = (u64, Row)> {
        let rows = self.rows.iter().enumerate().filter(|(_, row)| row.count > 0);
        rows.map(|(nth, row)| (latency_max(nth), *row))
    }

    /// Adds those of another thread.
    pub fn merge(&mut self, other: &Parts) {
        for (to, from) in self.each.iter_mut().zip(&other.each) {
            to.add(from).expect("the bounds are equal");
        }
        self.rows.iter_mut().zip(&other.rows).for_each(|(to, from)| to.add(from));
        self.cut += other.cut;
        let (to, from) = (&mut self.one_way, &other.one_way);
        to.there.add(&from.there).expect("the bounds are equal");
        to.back.add(&from.back).expect("the bounds are equal");
        to.contradictions += from.contradictions;
        to.contradiction_max = to.contradiction_max.max(from.contradiction_max);
    }
}

impl OneWay {
    /// A loop that was told of one request may find another beside it that came later; hence the
    /// larger of two times at each end.
    #[inline]
    fn record(&mut self, trip: &RoundTrip, times: &Times) {
        let nanos = |time: Duration| time.as_nanos() as u64;
        self.there.saturating_record(nanos(times.received - trip.sent));
        self.back.saturating_record(nanos(trip.told - times.sent));
        let by = nanos(trip.sent - times.taken_up).max(nanos(times.sent - trip.arrived));
        if by > 0 {
            self.contradictions += 1;
            self.contradiction_max = self.contradiction_max.max(by);
        }
    }
}

/// The rows of the slowest requests, at least this part of all, added up. `rows`: from the lowest
/// latency. Returns the sum, and the largest latency below them.
pub fn slowest(rows: impl DoubleEndedIterator<Item = (u64, Row)> + Clone, part: f64) -> (Row, u64) {
    let all: u64 = rows.clone().map(|(_, row)| row.count).sum();
    let wanted = (all as f64 * part).ceil() as u64;
    let mut sum = Row::default();
    for (latency, row) in rows.rev() {
        if sum.count >= wanted {
            return (sum, latency);
        }
        sum.add(&row);
    }
    (sum, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Time {
        Time::from_nanos(nanos)
    }

    #[test]
    fn the_memory_is_that_of_the_histograms_and_rows() {
        let Parts { each, rows, one_way, .. } = Parts::default();
        let histograms = each.into_iter().chain([one_way.there, one_way.back]);
        let bytes: u64 = histograms.map(|histogram| histogram_bytes(&histogram)).sum();
        assert_eq!(Parts::bytes(), bytes + size_of_val(&*rows) as u64);
    }

    /// A round trip of 1,000 ns, due 300 ns before, of which the generator caused 100, read 50 ns
    /// after the loop was told.
    fn trip() -> RoundTrip {
        RoundTrip {
            intended: at(9_700),
            own_lag: Duration::from_nanos(100),
            sent: at(10_000),
            told: at(10_950),
            arrived: at(11_000),
        }
    }

    fn times(received: u64, waiting: u64, service: u64) -> Times {
        let (received, taken_up) = (at(received), at(received + waiting));
        Times { clock: 1, received, taken_up, sent: taken_up + Duration::from_nanos(service) }
    }

    #[test]
    fn a_round_trip_is_split_without_trusting_the_clocks_to_agree() {
        for received in [0, 10_100, 1 << 60] {
            let split = Split::new(&trip(), &times(received, 200, 300));
            assert_eq!(split, Split { parts: [100, 200, 450, 200, 300, 50], cut: false });
        }
    }

    #[test]
    fn times_that_do_not_fit_into_the_round_trip_are_cut() {
        let split = |waiting, service| Split::new(&trip(), &times(0, waiting, service));
        assert_eq!(split(0, 2_000), Split { parts: [100, 200, 0, 0, 1_000, 0], cut: true });
        assert_eq!(split(700, 350), Split { parts: [100, 200, 0, 600, 350, 50], cut: true });
        assert_eq!(split(u64::MAX / 2, 0).parts, [100, 200, 0, 950, 0, 50]);
        // The generator's reading alone does not fit: nothing is wrong with the server's times.
        assert_eq!(split(0, 980), Split { parts: [100, 200, 0, 0, 980, 20], cut: false });
        let late = RoundTrip { own_lag: Duration::from_secs(1), ..trip() };
        assert_eq!(Split::new(&late, &times(0, 0, 0)).parts, [300, 0, 950, 0, 0, 50]);
    }

    #[test]
    fn rows_are_within_a_thirty_second_of_their_latencies_and_in_order() {
        let mut before = None;
        for latency in (0..200).chain((200..3_600_000_000_000).step_by(7_919_777_777)) {
            let row = row_of(latency);
            let max = latency_max(row);
            assert!(latency <= max && max - latency <= latency / 32, "{latency}: {max}");
            assert_eq!(row_of(max), row);
            assert_ne!(row_of(max + 1), row);
            assert!(before <= Some(row));
            before = Some(row);
        }
        assert_eq!(row_of(u64::MAX), ROWS - 1);
        assert!(latency_max(ROWS - 1) >= 3_600_000_000_000);
    }

    #[test]
    fn the_slowest_requests_have_shares_of_their_own() {
        let mut parts = Parts::default();
        let quick = RoundTrip { intended: at(10_000), own_lag: Duration::ZERO, ..trip() };
        (0..198).for_each(|_| parts.record(&quick, &times(10_040, 0, 950), true));
        let slow = RoundTrip { told: at(109_990), arrived: at(110_000), ..quick };
        (0..2).for_each(|_| parts.record(&slow, &times(10_100, 75_000, 5_000), true));
        assert_eq!(parts.count(), 200);
        let (sum, below) = slowest(parts.rows().collect::<Vec<_>>().into_iter(), 0.01);
        assert_eq!((sum.count, row_of(below)), (2, row_of(1_000)));
        assert_eq!(sum.sums, [0, 0, 2 * 19_990, 2 * 75_000, 2 * 5_000, 2 * 10]);
        assert_eq!(sum.shares()[Part::Waiting as usize], 0.75);
        let (all, below) = slowest(parts.rows().collect::<Vec<_>>().into_iter(), 1.0);
        assert_eq!((all.count, below), (200, 0));
        assert_eq!(parts.one_way.contradictions, 0);
        assert_eq!(parts.one_way.there.max(), 100);
    }

    #[test]
    fn a_clock_that_is_not_the_same_contradicts_itself() {
        let mut parts = Parts::default();
        parts.record(&trip(), &times(10_500, 0, 700), true);
        parts.record(&trip(), &times(9_000, 100, 700), true);
        parts.record(&trip(), &times(0, 0, 0), false);
        assert_eq!((parts.one_way.contradictions, parts.one_way.contradiction_max), (2, 900));
        assert_eq!(parts.one_way.there.len(), 2);
    }

    #[test]
    fn threads_add_up() {
        let mut one = Parts::default();
        one.record(&trip(), &times(10_500, 0, 700), true);
        let mut sum = one.clone();
        sum.record(&trip(), &times(0, 0, 2_000), true);
        let mut other = Parts::default();
        other.record(&trip(), &times(0, 0, 2_000), true);
        one.merge(&other);
        assert!(one.each == sum.each && one.rows == sum.rows);
        assert_eq!((one.cut, one.count()), (1, 2));
        let of = |parts: &Parts| (parts.one_way.contradictions, parts.one_way.contradiction_max);
        assert_eq!(of(&one), of(&sum));
        assert!(one.one_way.there == sum.one_way.there && one.one_way.back == sum.one_way.back);
    }
}
