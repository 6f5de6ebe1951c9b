//! Counters. Each worker writes its own, and any thread may read them.
//!
//! A counter has one writer, so adding takes a load and a store, not a locked instruction. Each
//! worker's counters lie on cache lines of their own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one worker.
        #[derive(Default)]
        #[repr(align(128))]
        pub(crate) struct Counters {
            $($(#[$doc])* pub(crate) $name: Counter,)*
            pub(crate) closed: [Counter; CloseReason::ALL.len()],
            /// Whether bytes on the wire are counted separately from the services' bytes.
            pub(crate) counts_wire: AtomicBool,
        }

        /// The counts of one worker, or of all workers together, since the start.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[non_exhaustive]
        pub struct Counts {
            $($(#[$doc])* pub $name: u64,)*
            closed: [u64; CloseReason::ALL.len()],
        }

        impl Counters {
            pub(crate) fn read(&self) -> Counts {
                let mut closed = [0; CloseReason::ALL.len()];
                for (to, from) in closed.iter_mut().zip(&self.closed) {
                    *to = from.get();
                }
                let mut counts = Counts { $($name: self.$name.get(),)* closed };
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
                for (to, from) in self.closed.iter_mut().zip(other.closed) {
                    *to += from;
                }
            }
        }
    };
}

counters! {
    /// Connections established and not yet closed.
    connections,
    /// Connections accepted.
    accepted,
    /// Bytes delivered to the service.
    bytes_received,
    /// Bytes from the service that the kernel accepted to send.
    bytes_sent,
    /// Bytes that arrived from the network, without discarded bytes. The same as `bytes_received`
    /// unless there is a byte layer between the network and the service.
    wire_bytes_received,
    /// Bytes that the kernel accepted to send. The same as `bytes_sent` unless there is a byte
    /// layer between the service and the network.
    wire_bytes_sent,
    /// Receive operations that returned bytes.
    receives,
    /// Send operations that sent bytes.
    sends,
    /// Bytes read and discarded while a connection lingered after this side closed it.
    bytes_discarded,
    /// Times that accepting paused because open files, memory or another resource ran out.
    accept_pauses,
    /// Accepts that failed with an error other than EAGAIN.
    accept_errors,
    /// Times that accepting stopped because the limit of connections was reached, whether or not a
    /// client was waiting.
    waits_for_slot,
    /// Times that a connection had to wait because no buffer was free.
    waits_for_buffer,
    /// Buffers in use.
    buffers_held,
    /// Messages that a service did not send to a client because the client reads too slowly. Each
    /// client that did not get a message counts.
    messages_dropped,
    /// Connections that were still in the backlog when a listener was closed: the kernel resets
    /// them.
    unaccepted,
    /// Connections that ended by a drain or stop while their client still sent: bytes arrived that
    /// no service received, so the client got FIN or a reset instead of a reply to them.
    unanswered,
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
