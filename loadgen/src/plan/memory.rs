//! The memory of a run, all of which is fixed before the first connection is begun: buffers and
//! tables of each thread of clients, and the buffers of a server of our own.

use std::time::Duration;

use echopool::internals::ClientLimits;

use super::Plan;
use crate::traffic::dispatch::Dispatch;
use crate::traffic::hub_frames::BROADCAST_BYTES;

/// The server's own default for the size of its buffers, and the bytes that they are given at most.
const SERVER_BUFFER_SIZE: u64 = 16 << 10;
const SERVER_BYTES_MAX: u64 = 512 << 20;
const BUFFER_SIZE_MIN: u64 = 4 << 10;
const BUFFER_SIZE_MAX: u64 = 64 << 10;
const OUTPUT_WINDOW_MAX: u64 = 128 << 10;
/// For all threads together.
const OUTPUT_BYTES_MAX: u64 = 128 << 20;
const INPUT_LEASES_FACTOR: u32 = 2;
const LINGER_MAX: Duration = Duration::from_secs(5);

/// What a client's tables take for each connection: its conversation and its place. The clients
/// check it when they are compiled.
pub const CONNECTION_BYTES: u64 = 168;

/// One thread's part of the work.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// The number of its first connection.
    pub first_connection: u64,
    pub connections: usize,
    pub limits: ClientLimits,
}

impl Share {
    /// Leases that may be on outputs at once; the rest is for input.
    pub fn output_leases_max(&self) -> usize {
        let input = INPUT_LEASES_FACTOR * u32::from(self.limits.leases_per_connection_max);
        (self.limits.buffers - input) as usize
    }

    fn buffer_bytes(&self) -> u64 {
        u64::from(self.limits.buffers) * self.limits.buffer_size as u64
    }
}

impl Plan {
    /// All memory of the clients in bytes, fixed before the first connection is begun.
    pub fn memory_bytes(&self) -> u64 {
        (0..self.threads)
            .map(|thread| self.share(thread))
            .map(|share| share.buffer_bytes() + self.table_bytes(share.connections as u64))
            .sum::<u64>()
            + self.hub.map_or(0, |hub| hub.memory_bytes())
    }

    /// What a thread's tables take: a conversation and a place for each connection, its rings of times,
    /// its entries in the queues, and its schedule.
    fn table_bytes(&self, connections: u64) -> u64 {
        // Two queues of at most all connections.
        let queues = 2 * 16;
        let (times, schedule) = match self.open_loop {
            None => (1, 0),
            Some(_) => (2, Dispatch::BYTES_PER_CONNECTION as u64),
        };
        connections
            * (CONNECTION_BYTES
                + queues
                + schedule
                + self.pipeline * times * size_of::<u64>() as u64)
    }

    /// The sum for the buffers of one thread. A buffer is in use while the kernel has no room for
    /// the bytes in it, and while received bytes are checked:
    ///
    /// * output: for each connection the buffers of its window, up to a budget of bytes. Where the
    ///   budget is smaller than that, connections wait for each other's buffers.
    /// * input: received bytes are checked and given back at once, one connection after the other,
    ///   so what one receive fills is enough; twice that, and never taken for output, so that
    ///   reading goes on when writing cannot.
    pub(super) fn client_limits(&self, connections: usize) -> ClientLimits {
        let under_way = self.request_bytes_max() * self.pipeline;
        // One byte more than a reply: a receive that does not fill its buffer has emptied the
        // socket, and needs no second call to know it.
        let buffer_size = (under_way.min(BUFFER_SIZE_MAX) + 1)
            .next_power_of_two()
            .clamp(BUFFER_SIZE_MIN, BUFFER_SIZE_MAX);
        let leases = OUTPUT_WINDOW_MAX / buffer_size;
        let leases_per_connection_max = leases.clamp(1, 8) as u8;
        let wanted = connections as u64 * self.output_window().div_ceil(buffer_size);
        let affordable = OUTPUT_BYTES_MAX / self.threads as u64 / buffer_size;
        let output = wanted.min(affordable).max(1);
        let buffers =
            output + u64::from(INPUT_LEASES_FACTOR * u32::from(leases_per_connection_max));
        ClientLimits {
            connections_max: connections,
            buffers: buffers as u32,
            buffer_size: buffer_size as usize,
            leases_per_connection_max,
            linger: self.timeout.min(LINGER_MAX),
            busy_poll: self.busy_poll,
        }
    }

    /// Bytes that are put on a connection's output before the kernel has taken them all: what a
    /// connection can have under way, but no more than a socket's buffer usually takes at once.
    pub fn output_window(&self) -> u64 {
        (self.request_bytes_max() * self.pipeline).min(OUTPUT_WINDOW_MAX)
    }

    /// Bytes of the largest request, all that the protocol adds included.
    fn request_bytes_max(&self) -> u64 {
        match self.hub {
            Some(_) => self.size + BROADCAST_BYTES as u64,
            None => self.wire.len_max(),
        }
    }

    /// Buffers for a server of our own, where its default would be too few for requests that it has
    /// to see whole: of each connection a largest one, up to a budget of bytes.
    pub fn server_buffers(&self) -> Option<u64> {
        let longest = self.service.framing()?.wire_max() as u64;
        let each = |bytes: u64| bytes.div_ceil(SERVER_BUFFER_SIZE) + 1;
        let wanted = self.connections * each(self.wire.len_max());
        Some(wanted.min(SERVER_BYTES_MAX / SERVER_BUFFER_SIZE).max(2 * each(longest)).max(128))
    }
}
