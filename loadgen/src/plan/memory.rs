//! The memory of a run, all of which is allocated before the first connection is begun: buffers,
//! tables and histograms of each thread of clients, and the buffers of the local server.

use std::time::Duration;

use echopool::builtin::timed::TIMES_BYTES;
use echopool::builtin::url::ServiceOptions;
use echopool::internals::{Batch, ClientLimits};

use super::Plan;
use crate::stats::interval::{Collector, Handover};
use crate::stats::parts::Parts;
use crate::stats::records::Records;
use crate::stats::stamp::StampRecords;
use crate::stats::tls::TlsRecords;
use crate::traffic::datagram;
use crate::traffic::dispatch::Dispatch;
use crate::traffic::hub_frames::BROADCAST_BYTES;

/// The server's default buffer size, and the largest sum of its buffers.
const SERVER_BUFFER_SIZE: u64 = 16 << 10;
const SERVER_BYTES_MAX: u64 = 512 << 20;
const BUFFER_SIZE_MIN: u64 = 4 << 10;
const BUFFER_SIZE_MAX: u64 = 64 << 10;
const OUTPUT_WINDOW_MAX: u64 = 128 << 10;
/// Sum over all threads.
const OUTPUT_BYTES_MAX: u64 = 128 << 20;
const INPUT_LEASES_FACTOR: u32 = 2;
/// Leases with TLS for each without.
const TLS_LEASES_FACTOR: u64 = 2;
const LINGER_MAX: Duration = Duration::from_secs(5);

/// Intervals in the summary of a run: the seconds of an hour.
pub const INTERVALS_MAX: u64 = 3_600;
/// Size of an interval there. A compile-time assertion in the report checks it.
pub const INTERVAL_BYTES: u64 = 480;
/// And of its encoded histogram, which is less for all but the widest distributions.
const INTERVAL_HISTOGRAM_BYTES: u64 = 8 << 10;

/// Size of the tables per connection: its conversation and its place. A compile-time assertion in
/// the clients checks it.
pub const CONNECTION_BYTES: u64 = 168;

/// What the engine of a thread needs for each connection, and for any number of them, at most. A
/// compile-time assertion in the clients checks it.
pub const ENGINE_BYTES_PER_CONNECTION: usize = 448;
pub const ENGINE_BYTES: usize = 192 << 10;
/// What it needs in addition for each connection that begins with a header of the PROXY protocol:
/// its state, and the header until it is sent.
pub const PROXY_BYTES_PER_CONNECTION: usize = 256;
/// What it needs in addition for each connection with TLS: its session. A compile-time assertion in
/// the clients checks it.
pub const TLS_BYTES_PER_CONNECTION: usize = 42 << 10;
/// What the engine needs for each buffer in addition to its bytes: its places in lists.
const BUFFER_LIST_BYTES: u64 = 36;
/// The part of a thread's stack that it uses.
const STACK_BYTES: u64 = 64 << 10;

/// State of a socket over UDP, and of a datagram that it remembers. A compile-time assertion in the
/// sockets checks both.
pub const DATAGRAM_SOCKET_BYTES: u64 = 192;
pub const DATAGRAM_BYTES: u64 = 24;

/// The same in addition, if the target is a STAMP reflector.
pub const STAMP_SOCKET_BYTES: u64 = 136;
pub const STAMP_PACKET_BYTES: u64 = 24;

/// The share of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The number of its first connection.
    pub first_connection: u64,
    pub connections: usize,
    pub limits: ClientLimits,
    /// Leases that may be on outputs at once. The rest is reserved for input, and for TLS.
    pub output_leases_max: usize,
}

impl Share {
    fn buffer_bytes(&self) -> u64 {
        u64::from(self.limits.buffers) * (self.limits.buffer_size as u64 + BUFFER_LIST_BYTES)
    }
}

impl Plan {
    /// Memory of all clients in bytes: all that is allocated for the run, at most. Allocated before the first connection is begun.
    pub fn memory_bytes(&self) -> u64 {
        let times = self.wire.order_of_times();
        // A thread also has the times of the replies that complete together.
        let parts = times.map_or(0, |_| Parts::bytes() + self.pipeline * TIMES_BYTES as u64);
        let thread = |share: Share| {
            let connections = share.connections as u64;
            let own = match self.over_udp {
                true => self.datagram_bytes(connections),
                false => share.buffer_bytes() + self.table_bytes(connections),
            };
            own + thread_bytes(self.targets.len())
                + self.tls.as_ref().map_or(0, |_| TlsRecords::bytes())
                + parts
        };
        (0..self.threads).map(|nth| thread(self.share(nth))).sum::<u64>()
            + main_thread_bytes(self.targets.len(), self.duration)
            + parts
            + self.hub.map_or(0, |hub| hub.memory_bytes())
    }

    /// What a thread over UDP allocates for its sockets: their state, what they remember of their
    /// datagrams, and two batches.
    fn datagram_bytes(&self, sockets: u64) -> u64 {
        let remembered = datagram::remembered(self.pipeline) * DATAGRAM_BYTES;
        let schedule = self.open_loop.as_ref().map_or(0, |_| Dispatch::BYTES_PER_CONNECTION as u64);
        let batches = 2 * Batch::bytes(datagram::BATCH, self.size as usize + 1);
        let packets = datagram::remembered(self.pipeline) * STAMP_PACKET_BYTES;
        let stamp = match self.service {
            ServiceOptions::Stamp(_) => {
                sockets * (STAMP_SOCKET_BYTES + packets) + StampRecords::bytes()
            }
            _ => 0,
        };
        sockets * (DATAGRAM_SOCKET_BYTES + remembered + schedule) + batches + stamp
    }

    /// Size of the tables of a thread: a conversation and a place per connection, its rings of
    /// times, its entries in the queues, and its schedule.
    fn table_bytes(&self, connections: u64) -> u64 {
        // Two queues that hold all connections at most.
        let queues = 2 * 16;
        let (times, schedule) = match self.open_loop {
            None => (1, 0),
            Some(_) => (2, Dispatch::BYTES_PER_CONNECTION as u64),
        };
        let (header, times) = match self.wire.order_of_times() {
            // In an open loop, the own lag of each request too, which takes twice a time.
            Some(_) => (TIMES_BYTES as u64, 3 * times - 2),
            None => (0, times),
        };
        connections
            * (CONNECTION_BYTES
                + ENGINE_BYTES_PER_CONNECTION as u64
                + self.proxy.map_or(0, |_| PROXY_BYTES_PER_CONNECTION as u64)
                + self.tls.as_ref().map_or(0, |_| TLS_BYTES_PER_CONNECTION as u64)
                + queues
                + header
                + schedule
                + self.pipeline * times * size_of::<u64>() as u64)
    }

    /// The buffers of one thread. A buffer is in use while the kernel has no room for its bytes, or
    /// while received bytes are verified:
    ///
    /// * output: for each connection the buffers of its window, up to a budget of bytes. If the
    ///   budget is smaller, connections wait for each other's buffers.
    /// * input: received bytes are verified and released at once, one connection after the other,
    ///   so the buffers of one receive are enough. Twice as many are reserved and never used for
    ///   output, so that reading continues when writing cannot.
    /// * TLS: bytes are in a buffer before they are encrypted and in another one afterwards, which
    ///   are at most two if a record reaches over its end. The same for input.
    ///
    /// Returns the limits, and the leases that may be on outputs.
    pub(super) fn client_limits(&self, connections: usize) -> (ClientLimits, usize) {
        let under_way = self.request_bytes_max() * self.pipeline;
        // One byte more than a reply: a receive that does not fill its buffer has drained the
        // socket, so no second call is needed.
        let buffer_size = (under_way.min(BUFFER_SIZE_MAX) + 1)
            .next_power_of_two()
            .clamp(BUFFER_SIZE_MIN, BUFFER_SIZE_MAX);
        let leases = OUTPUT_WINDOW_MAX / buffer_size;
        let leases_per_connection_max = leases.clamp(1, 8) as u8;
        let wanted = connections as u64 * self.output_window().div_ceil(buffer_size);
        let affordable = OUTPUT_BYTES_MAX / self.threads as u64 / buffer_size;
        let output = wanted.min(affordable).max(1);
        let input = u64::from(INPUT_LEASES_FACTOR * u32::from(leases_per_connection_max));
        let each = if self.tls.is_some() { TLS_LEASES_FACTOR } else { 1 };
        let buffers = (output + input) * each;
        let limits = ClientLimits {
            connections_max: connections,
            buffers: buffers as u32,
            buffer_size: buffer_size as usize,
            leases_per_connection_max,
            linger: self.timeout.min(LINGER_MAX),
            busy_poll: self.busy_poll,
        };
        (limits, output as usize)
    }

    /// Bytes put on a connection's output before the kernel has accepted them: all outstanding
    /// requests, but no more than a socket buffer usually accepts at once.
    pub fn output_window(&self) -> u64 {
        (self.request_bytes_max() * self.pipeline).min(OUTPUT_WINDOW_MAX)
    }

    /// Size of the largest request in bytes, including what the protocol adds.
    fn request_bytes_max(&self) -> u64 {
        match self.hub {
            Some(_) => self.size + BROADCAST_BYTES as u64,
            None => self.wire.len_max(),
        }
    }

    /// Buffers of the local server, if its default is too small for requests that it has to hold
    /// completely: one largest request per connection, up to a budget of bytes. It comes in pieces
    /// that do not fill their buffers. Two that follow each other have more than fits into one, so a
    /// request takes at most twice the buffers that its bytes fill.
    pub fn server_buffers(&self) -> Option<u64> {
        let longest = self.service.framing()?.wire_max() as u64;
        let each = |bytes: u64| bytes.div_ceil(SERVER_BUFFER_SIZE) + 1;
        let wanted = self.connections * 2 * each(self.wire.len_max());
        Some(wanted.min(SERVER_BYTES_MAX / SERVER_BUFFER_SIZE).max(2 * each(longest)).max(128))
    }
}

/// What a thread needs for any number of connections: its engine, and the histograms of the run and
/// of the present second.
fn thread_bytes(targets: usize) -> u64 {
    ENGINE_BYTES as u64 + STACK_BYTES + Records::bytes(targets) + Handover::bytes()
}

/// The sums over all threads: of the run, of a second, of an interval of the summary, and the rows
/// of all intervals. A run without a duration may have more rows: a few hundred KiB for each
/// doubling of its length.
fn main_thread_bytes(targets: usize, duration: Option<Duration>) -> u64 {
    let rows = duration.map_or(INTERVALS_MAX, |time| time.as_secs().min(INTERVALS_MAX));
    Records::bytes(targets)
        + 2 * Collector::bytes()
        + rows * (INTERVAL_BYTES + INTERVAL_HISTOGRAM_BYTES)
        + view_bytes()
}

/// What the live view sums up, and a second on its way to it.
fn view_bytes() -> u64 {
    if cfg!(feature = "live") { Records::bytes(1) + Collector::bytes() } else { 0 }
}
