//! Counters. Each worker writes its own, and any thread may read them.
//!
//! A counter has one writer, so adding takes a load and a store, not a locked instruction. Each
//! worker's counters lie on cache lines of their own.
//!
//! One table declares them, and the histograms of times beside them. The totals of the log, the
//! metrics, the JSON and the table in `docs/operations.md` come from it. The totals contain two
//! quantiles of each histogram.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::histogram::Histogram;
#[cfg(feature = "admin")]
use super::histogram::Recorded;
use crate::error::CloseReason;

/// A counter with one writer.
#[derive(Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// Adds. Only the worker that owns the counter may call this.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.set(self.0.load(Ordering::Relaxed).wrapping_add(count));
    }

    /// Sets. Only the worker that owns the counter may call this.
    #[inline]
    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Whether a value only grows.
#[cfg(feature = "admin")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MetricKind {
    /// It counts what has happened since the start.
    Counter,
    /// It says how much there is now.
    Gauge,
}

#[cfg(feature = "admin")]
impl MetricKind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
        }
    }
}

/// A row of the table of counters: how logs, metrics, JSON and documents name and explain a value of
/// [`Counts`].
#[cfg(feature = "admin")]
pub(crate) struct CounterRow {
    /// The name in logs and JSON, that of the field.
    pub(crate) name: &'static str,
    pub(crate) kind: MetricKind,
    /// What is counted, in the plural.
    #[cfg(test)]
    pub(crate) unit: &'static str,
    /// The name of the metric.
    pub(crate) metric: &'static str,
    /// Whether it is also counted by the reason for closing.
    pub(crate) by_reason: bool,
    /// The documentation of the field, in one line.
    help: &'static str,
    pub(crate) value: fn(&Counts) -> u64,
}

#[cfg(feature = "admin")]
impl CounterRow {
    /// What the value means, in one line.
    pub(crate) fn help(&self) -> &'static str {
        self.help.trim_start()
    }
}

/// A row of the table that is a histogram of times.
#[cfg(feature = "admin")]
pub(crate) struct HistogramRow {
    /// The name in JSON, that of the field.
    pub(crate) name: &'static str,
    /// The name of the metric.
    pub(crate) metric: &'static str,
    /// The documentation of the field, in one line.
    help: &'static str,
    pub(crate) of: fn(&Counters) -> &Histogram,
}

#[cfg(feature = "admin")]
impl HistogramRow {
    /// What the times mean, in one line.
    pub(crate) fn help(&self) -> &'static str {
        self.help.trim_start()
    }

    /// What these workers have recorded together.
    pub(crate) fn sum(&self, workers: &[std::sync::Arc<Counters>]) -> Recorded {
        let mut sum = Recorded::default();
        workers.iter().for_each(|counters| sum.add(&(self.of)(counters).read()));
        sum
    }
}

/// Declares the table of counters: the fields of [`Counters`] and [`Counts`], [`ROWS`] and [`TIMES`].
/// The closed connections are counted by reason, so their row has no field.
macro_rules! counters {
    (
        $($(#[doc = $doc:literal])* $name:ident: $kind:ident, $unit:literal, $metric:literal;)*
        [by reason]
        $(#[doc = $closed_doc:literal])* closed: Counter, $closed_unit:literal, $closed_metric:literal;
        [further]
        $($(#[doc = $doc2:literal])* $name2:ident: $kind2:ident, $unit2:literal, $metric2:literal;)*
        [times]
        $($(#[doc = $doc3:literal])* $name3:ident, $metric3:literal;)*
    ) => {
        /// The counters of one worker.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $($(#[doc = $doc])* pub(crate) $name: Counter,)*
            $($(#[doc = $doc2])* pub(crate) $name2: Counter,)*
            pub(crate) closed: [Counter; CloseReason::ALL.len()],
            /// Whether bytes on the wire are counted separately from the services' bytes.
            pub(crate) counts_wire: AtomicBool,
            /// Whether somebody wants to know how long turns take, which needs the clock once more
            /// in each.
            times_turns: AtomicBool,
            $($(#[doc = $doc3])* pub(crate) $name3: Histogram,)*
        }

        /// The counts of one worker, or of all workers together, since the start.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[doc = $doc])* pub $name: u64,)*
            $($(#[doc = $doc2])* pub $name2: u64,)*
            closed: [u64; CloseReason::ALL.len()],
        }

        impl Counters {
            pub(crate) fn read(&self) -> Counts {
                let mut closed = [0; CloseReason::ALL.len()];
                for (to, from) in closed.iter_mut().zip(&self.closed) {
                    *to = from.get();
                }
                let mut counts = Counts {
                    $($name: self.$name.get(),)*
                    $($name2: self.$name2.get(),)*
                    closed,
                };
                if !self.counts_wire.load(Ordering::Relaxed) {
                    counts.wire_bytes_received = counts.bytes_received;
                    counts.wire_bytes_sent = counts.bytes_sent;
                }
                counts
            }
        }

        impl Counts {
            pub(crate) fn add(&mut self, other: &Counts) {
                $(self.$name += other.$name;)*
                $(self.$name2 += other.$name2;)*
                for (to, from) in self.closed.iter_mut().zip(other.closed) {
                    *to += from;
                }
            }
        }

        /// The table of counters, in the order in which logs and documents show it.
        #[cfg(feature = "admin")]
        pub(crate) const ROWS: &[CounterRow] = &[
            $(CounterRow {
                name: stringify!($name),
                kind: MetricKind::$kind,
                #[cfg(test)]
                unit: $unit,
                metric: $metric,
                by_reason: false,
                help: concat!($($doc),*),
                value: |counts| counts.$name,
            },)*
            CounterRow {
                name: "closed",
                kind: MetricKind::Counter,
                #[cfg(test)]
                unit: $closed_unit,
                metric: $closed_metric,
                by_reason: true,
                help: concat!($($closed_doc),*),
                value: Counts::closed_total,
            },
            $(CounterRow {
                name: stringify!($name2),
                kind: MetricKind::$kind2,
                #[cfg(test)]
                unit: $unit2,
                metric: $metric2,
                by_reason: false,
                help: concat!($($doc2),*),
                value: |counts| counts.$name2,
            },)*
        ];

        /// The histograms of the table, in the order in which documents show them.
        #[cfg(feature = "admin")]
        pub(crate) const TIMES: &[HistogramRow] = &[
            $(HistogramRow {
                name: stringify!($name3),
                metric: $metric3,
                help: concat!($($doc3),*),
                of: |counters| &counters.$name3,
            },)*
        ];
    };
}

counters! {
    /// Connections established and not yet closed.
    connections: Gauge, "connections", "echopool_connections";
    /// Connections accepted.
    accepted: Counter, "connections", "echopool_connections_accepted_total";

    [by reason]
    /// Connections closed.
    closed: Counter, "connections", "echopool_connections_closed_total";

    [further]
    /// Receive operations that returned bytes.
    receives: Counter, "operations", "echopool_receives_total";
    /// Send operations that sent bytes.
    sends: Counter, "operations", "echopool_sends_total";
    /// Bytes delivered to the service.
    bytes_received: Counter, "bytes", "echopool_received_bytes_total";
    /// Bytes from the service that the kernel accepted to send.
    bytes_sent: Counter, "bytes", "echopool_sent_bytes_total";
    /// Bytes read and discarded while a connection lingered after this side closed it.
    bytes_discarded: Counter, "bytes", "echopool_discarded_bytes_total";
    /// Buffers in use.
    buffers_held: Gauge, "buffers", "echopool_buffers_held";
    /// Times that a connection had to wait because no buffer was free.
    waits_for_buffer: Counter, "waits", "echopool_buffer_waits_total";
    /// Times that accepting stopped because the limit of connections was reached, whether or not a
    /// client was waiting.
    waits_for_slot: Counter, "waits", "echopool_slot_waits_total";
    /// Times that accepting paused because open files, memory or another resource ran out.
    accept_pauses: Counter, "pauses", "echopool_accept_pauses_total";
    /// Accepts that failed with an error other than EAGAIN.
    accept_errors: Counter, "errors", "echopool_accept_errors_total";
    /// Listening sockets at which accepting is paused now because open files, memory or another
    /// resource ran out.
    listeners_paused: Gauge, "sockets", "echopool_listeners_paused";
    /// Bytes that arrived from the network, without discarded bytes. The same as `bytes_received`
    /// unless there is a byte layer between the network and the service.
    wire_bytes_received: Counter, "bytes", "echopool_wire_received_bytes_total";
    /// Bytes that the kernel accepted to send. The same as `bytes_sent` unless there is a byte
    /// layer between the service and the network.
    wire_bytes_sent: Counter, "bytes", "echopool_wire_sent_bytes_total";
    /// Connections that were still in the backlog when a listener was closed: the kernel resets
    /// them.
    unaccepted: Counter, "connections", "echopool_connections_unaccepted_total";
    /// Connections that ended by a drain or stop while their client still sent: bytes arrived that
    /// no service received, so the client got FIN or a reset instead of a reply to them.
    unanswered: Counter, "connections", "echopool_connections_unanswered_total";
    /// Messages that a service did not send to a client because the client reads too slowly. Each
    /// client that did not get a message counts.
    messages_dropped: Counter, "messages", "echopool_messages_dropped_total";
    /// Datagrams received.
    datagrams_received: Counter, "datagrams", "echopool_datagrams_received_total";
    /// Datagrams that the kernel accepted to send.
    datagrams_sent: Counter, "datagrams", "echopool_datagrams_sent_total";
    /// Datagrams that the kernel refused to send: its send buffer was full, there was no route, or a
    /// packet filter said no.
    datagrams_unsent: Counter, "datagrams", "echopool_datagrams_unsent_total";
    /// Datagrams that the kernel dropped because the receive buffer was full, or the checksum was
    /// wrong. They are counted when the next datagram is received, or at the end.
    datagrams_dropped: Counter, "datagrams", "echopool_datagrams_dropped_total";
    /// Datagrams that were longer than `max-datagram`. They get no reply.
    datagrams_truncated: Counter, "datagrams", "echopool_datagrams_truncated_total";
    /// Datagrams that get no reply because it could harm others: they come from a port of another
    /// service, or were sent to a broadcast or multicast address.
    datagrams_refused: Counter, "datagrams", "echopool_datagrams_refused_total";
    /// Datagrams above the rate of their source (`source-rate`). They get no reply.
    datagrams_limited: Counter, "datagrams", "echopool_datagrams_limited_total";
    /// Connections that another process has taken over from this one in an upgrade.
    handed_over: Counter, "connections", "echopool_connections_handed_over_total";
    /// Connections that this process has taken over from another one in an upgrade.
    taken_over: Counter, "connections", "echopool_connections_taken_over_total";

    [times]
    /// Time that a turn of a worker's loop took, from the end of one wait to the begin of the next.
    turn_time, "echopool_turn_seconds";
    /// Time from when a connection was accepted to the first bytes for its service. Behind PROXY or
    /// TLS, from when the client was known or the handshake was done. In the time of the turns' begins.
    first_byte_time, "echopool_first_byte_seconds";
    /// Time that a hub took to pass messages on: from the begin of the turn in which the first of
    /// them was taken from its sender, to the end of the turn in which the last client of this worker
    /// that reads had its turn to be sent them. Each counts once for all messages that were passed on
    /// together.
    hub_delivery_time, "echopool_hub_delivery_seconds";
}

impl Counters {
    /// Whether turns are timed.
    #[inline]
    pub(crate) fn times_turns(&self) -> bool {
        Histogram::EXISTS && self.times_turns.load(Ordering::Relaxed)
    }

    /// Lets the worker time its turns from the next one on.
    #[cfg(feature = "admin")]
    pub(crate) fn time_turns(&self) {
        self.times_turns.store(true, Ordering::Relaxed);
    }
}

impl Counts {
    /// Connections closed for this reason.
    pub fn closed(&self, reason: CloseReason) -> u64 {
        self.closed[reason as usize]
    }

    /// Connections closed, for all reasons.
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().sum()
    }
}

/// A snapshot of all counters. The counters of a worker are read one by one while the worker
/// continues to count, so they may differ by the operations of that moment.
///
/// ```
/// use std::net::{Ipv6Addr, SocketAddr, TcpStream};
/// use echopool::{Config, Server};
/// use echopool::builtin::Echo;
///
/// let config = Config::new().listen(SocketAddr::from((Ipv6Addr::LOCALHOST, 0)));
/// let server = Server::start(config.workers(2).max_connections(10), Echo)?;
/// drop(TcpStream::connect(server.local_endpoints()[0].socket_addr().unwrap())?);
/// server.drain(std::time::Duration::from_secs(10));
///
/// let stats = server.stats();
/// assert_eq!(stats.total().accepted, 1);
/// assert_eq!(stats.total().closed_total(), 1);
/// assert_eq!(stats.workers().len(), 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stats {
    workers: Vec<Counts>,
}

impl Stats {
    pub(crate) fn read<'a>(workers: impl Iterator<Item = &'a Counters>) -> Stats {
        Stats { workers: workers.map(Counters::read).collect() }
    }

    /// Adds counters of a thread that stands beside this worker.
    pub(crate) fn add(&mut self, worker: usize, beside: &Counters) {
        self.workers[worker].add(&beside.read());
    }

    /// The counts of each worker.
    pub fn workers(&self) -> &[Counts] {
        &self.workers
    }

    /// The sum over all workers.
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.workers.iter().for_each(|worker| total.add(worker));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_sum_over_the_workers() {
        let (a, b) = (Counters::default(), Counters::default());
        a.accepted.add(3);
        b.accepted.add(4);
        b.closed[CloseReason::Shed as usize].add(2);
        let stats = Stats::read([&a, &b].into_iter());
        assert_eq!((stats.total().accepted, stats.workers()[0].accepted), (7, 3));
        assert_eq!(stats.total().closed(CloseReason::Shed), 2);
        assert_eq!(stats.total().closed_total(), 2);
    }
}
