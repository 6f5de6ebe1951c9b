//! The daemon's log lines for its operator: limits, rates, totals, and how it ended.
//!
//! Lines consist of `name=value` pairs with the unit in the name, readable by people and by awk.

use std::fmt;
use std::time::Duration;

use crate::config::Limits;
use crate::error::CloseReason;
use crate::server::{Drained, ServerHandle};
use crate::shared::counters::{Counts, HistogramRow, ROWS, TIMES};
use crate::shared::histogram::Recorded;

/// The log target of figures requested by a flag or a signal.
pub(super) const TARGET: &str = "echopool::stats";

/// The log target of everything else.
const DAEMON: &str = "echopool::daemon";

/// The most clients of a line about the progress of a drain.
const CLIENTS_SHOWN: usize = 5;

/// Logs the limits that the server runs with.
pub(super) fn limits(limits: &Limits) {
    let per_address = limits.max_connections_per_address;
    log::info!(
        target: DAEMON,
        "limits: workers={} max_connections={} max_connections_per_address={} buffers={} \
         buffer_size_bytes={} leases_per_connection={} backlog={}",
        limits.workers,
        limits.max_connections,
        per_address.map_or("off".to_owned(), |most| most.to_string()),
        limits.buffers,
        limits.buffer_size,
        limits.leases_per_connection_max,
        limits.backlog,
    );
}

/// Warns if busy-polling workers take all processors.
pub(super) fn busy_workers(limits: &Limits) {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    if limits.busy_poll && take_all(limits.workers, processors) {
        log::warn!(
            target: DAEMON,
            "--busy-poll with {} workers uses all {processors} processors that this \
             process may use; leave some for the clients if they run here too: --workers {}",
            limits.workers,
            (processors / 2).max(1),
        );
    }
}

/// Whether so many workers leave no processor to others. One worker is the fewest that there can be.
fn take_all(workers: usize, processors: usize) -> bool {
    workers > 1 && workers >= processors
}

/// Logs what happened between two readings.
pub(super) fn rates(before: &Counts, after: &Counts, elapsed: Duration) {
    log::info!(target: TARGET, "{}", IntervalRates { before, after, elapsed });
}

/// Logs what happened since the start.
pub(super) fn totals(server: &ServerHandle) {
    log::info!(target: TARGET, "{}", Totals::of(server));
}

/// Logs who is still connected in a drain. Returns whether there is somebody.
pub(super) fn draining(server: &ServerHandle, since: Duration) -> bool {
    let mut clients = server.clients();
    clients.sort_by_key(|client| client.since);
    let longest: String =
        clients.iter().take(CLIENTS_SHOWN).map(|client| format!(" {}", client.peer)).collect();
    if !clients.is_empty() {
        let (seconds, count) = (since.as_secs(), clients.len());
        log::info!(target: DAEMON, "draining for {seconds}s: connections={count} longest:{longest}");
    }
    !clients.is_empty()
}

/// Logs how the server ended.
pub(super) fn end(drained: Drained, server: &ServerHandle) {
    let totals = Totals::of(server);
    let counts = &totals.counts;
    match drained {
        Drained::Clean if counts.unaccepted == 0 && counts.unanswered == 0 => {
            log::info!(target: DAEMON, "ended, every connection finished: {totals}");
        }
        Drained::Clean => log::warn!(
            target: DAEMON,
            "ended, every accepted connection finished, but unaccepted={} were reset and \
             unanswered={} got no reply to what they sent last: {totals}",
            counts.unaccepted,
            counts.unanswered,
        ),
        Drained::Cut(connections) => {
            log::warn!(target: DAEMON, "ended with connections_cut={connections}: {totals}");
        }
        Drained::Failed | Drained::OnWorkerThread => {
            log::error!(target: DAEMON, "ended by a failure: {totals}");
        }
    }
}

struct IntervalRates<'a> {
    before: &'a Counts,
    after: &'a Counts,
    elapsed: Duration,
}

impl fmt::Display for IntervalRates<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        let IntervalRates { before, after, elapsed } = self;
        let count = |of: fn(&Counts) -> u64| of(after).wrapping_sub(of(before));
        let rate = |of| count(of) as f64 / elapsed.as_secs_f64();
        write!(
            f,
            "connections={} accepted_per_s={:.0} receives_per_s={:.0} in_mib_per_s={:.1} \
             out_mib_per_s={:.1} buffers_held={} waits_for_buffer={} waits_for_slot={}",
            after.connections,
            rate(|c| c.accepted),
            rate(|c| c.receives),
            rate(|c| c.bytes_received) / MIB,
            rate(|c| c.bytes_sent) / MIB,
            after.buffers_held,
            count(|c| c.waits_for_buffer),
            count(|c| c.waits_for_slot),
        )
    }
}

struct Totals {
    counts: Counts,
    /// In the order of the table.
    times: Vec<Recorded>,
}

impl Totals {
    fn of(server: &ServerHandle) -> Totals {
        Totals { counts: server.stats().total(), times: server.times() }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals { counts, times } = self;
        for (index, row) in ROWS.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(f, "{space}{}={}", row.name, (row.value)(counts))?;
        }
        for reason in CloseReason::ALL {
            if counts.closed(reason) > 0 {
                write!(f, " {reason}={}", counts.closed(reason))?;
            }
        }
        for (HistogramRow { name, .. }, recorded) in TIMES.iter().zip(times) {
            for (share, percent) in [(0.5, 50), (0.99, 99)] {
                if let Some(nanos) = recorded.quantile(share) {
                    write!(f, " {name}_p{percent}_us={:.1}", nanos / 1e3)?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::base::time::Time;
    use crate::shared::counters::Counters;

    #[test]
    fn workers_take_all_processors_if_there_are_as_many_and_not_only_one() {
        assert!(take_all(2, 2) && take_all(3, 2));
        assert!(!take_all(1, 1) && !take_all(2, 3) && !take_all(1, 2));
    }

    #[test]
    fn each_rate_has_its_own_name_and_is_by_the_second() {
        let counters = Counters::default();
        counters.accepted.add(7);
        counters.waits_for_slot.add(5);
        counters.waits_for_buffer.add(100);
        counters.bytes_received.add(1 << 30);
        let before = counters.read();
        counters.connections.set(3);
        counters.accepted.add(100);
        counters.receives.add(4000);
        counters.bytes_received.add(3 << 20);
        counters.bytes_sent.add(1 << 20);
        counters.buffers_held.set(2);
        counters.waits_for_buffer.add(9);
        counters.waits_for_slot.add(4);
        let after = counters.read();
        let rates =
            IntervalRates { before: &before, after: &after, elapsed: Duration::from_secs(2) };
        assert_eq!(
            rates.to_string(),
            "connections=3 accepted_per_s=50 receives_per_s=2000 in_mib_per_s=1.5 \
             out_mib_per_s=0.5 buffers_held=2 waits_for_buffer=9 waits_for_slot=4"
        );
    }

    #[test]
    fn each_total_has_its_own_name_and_reasons_are_those_that_occurred() {
        let counters = Counters::default();
        let all = [
            &counters.connections,
            &counters.accepted,
            &counters.receives,
            &counters.sends,
            &counters.bytes_received,
            &counters.bytes_sent,
            &counters.bytes_discarded,
            &counters.buffers_held,
            &counters.waits_for_buffer,
            &counters.waits_for_slot,
            &counters.accept_pauses,
            &counters.accept_errors,
            &counters.listeners_paused,
            &counters.wire_bytes_received,
            &counters.wire_bytes_sent,
            &counters.unaccepted,
            &counters.unanswered,
            &counters.messages_dropped,
            &counters.datagrams_received,
            &counters.datagrams_sent,
            &counters.datagrams_unsent,
            &counters.datagrams_dropped,
            &counters.datagrams_truncated,
            &counters.datagrams_refused,
            &counters.datagrams_limited,
            &counters.handed_over,
            &counters.taken_over,
        ];
        for (counter, value) in all.into_iter().zip(101..) {
            counter.add(value);
        }
        counters.counts_wire.store(true, Ordering::Relaxed);
        counters.closed[CloseReason::PeerClosed as usize].add(30);
        counters.closed[CloseReason::Reset as usize].add(1);
        // Those of one bucket lie evenly between 4.096 and 8.192 us.
        let from = Time::from_nanos(0);
        (0..100).for_each(|_| counters.first_byte_time.record(from, Time::from_nanos(5_000)));
        let counters = [Arc::new(counters)];
        let times = TIMES.iter().map(|times| times.sum(&counters)).collect();
        assert_eq!(
            Totals { counts: counters[0].read(), times }.to_string(),
            "connections=101 accepted=102 closed=31 receives=103 sends=104 bytes_received=105 \
             bytes_sent=106 bytes_discarded=107 buffers_held=108 waits_for_buffer=109 \
             waits_for_slot=110 accept_pauses=111 accept_errors=112 listeners_paused=113 \
             wire_bytes_received=114 wire_bytes_sent=115 unaccepted=116 unanswered=117 \
             messages_dropped=118 datagrams_received=119 datagrams_sent=120 \
             datagrams_unsent=121 datagrams_dropped=122 datagrams_truncated=123 \
             datagrams_refused=124 datagrams_limited=125 handed_over=126 \
             taken_over=127 peer-closed=30 reset=1 first_byte_time_p50_us=6.1 \
             first_byte_time_p99_us=8.2"
        );
    }
}
