//! What a hub is asked to be ([`HubOptions`]), checked against a server's limits and completed
//! ([`Bounds`]).

use super::protocol::MESSAGE_HEAD_BYTES;
use crate::buffer::Pool;
use crate::config::Limits;
use crate::framing::ByteOrder;
use crate::units::show_size;

use super::post::PARCEL_HEAD_BYTES;

/// Bytes that stand in a buffer beside a message at most: its head, and that of the parcel in which
/// it travels to another worker.
pub const MESSAGE_OVERHEAD: usize = MESSAGE_HEAD_BYTES + PARCEL_HEAD_BYTES;

/// The longest message when none was asked for, if a buffer has room for it: most are far shorter.
pub const MAX_MESSAGE: usize = 16 << 10;

/// Bytes that may wait for one client when nothing was asked for: a second of a stream of 2 Mbit/s.
pub const QUEUE: usize = 256 << 10;

/// Buffers that a queue holds at least: a full parcel, behind what is being sent.
const QUEUE_BUFFERS_MIN: usize = 2;

/// The part of all buffers that one queue may take, 1 in so many: one client that does not read
/// must leave the others room.
const QUEUE_SHARE: usize = 4;

/// Places in buffers that a client's queue has beside those that it takes when all messages are
/// broadcasts: for messages to it alone, between which lie those to others.
const REFERENCES_EXTRA: usize = 8;

/// What happens to a client for which `queue` bytes wait, and whose connection takes no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Slow {
    /// Messages for it are dropped, and it is told how many.
    #[default]
    Drop,
    /// It is closed, with [`CloseReason::SlowReader`](crate::CloseReason::SlowReader).
    Close,
}

/// How a [`Hub`](super::Hub) works.
///
/// ```
/// use echopool::framing::ByteOrder;
/// use echopool::service::hub::{Hub, HubOptions, Slow};
///
/// let options = HubOptions::new().order(ByteOrder::Big).queue(64 << 10).slow(Slow::Close);
/// let hub = Hub::new(options);
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubOptions {
    pub(super) order: ByteOrder,
    pub(super) max_message: Option<usize>,
    pub(super) queue: Option<usize>,
    pub(super) slow: Slow,
    pub(super) notices: bool,
}

impl Default for HubOptions {
    fn default() -> HubOptions {
        HubOptions::new()
    }
}

impl HubOptions {
    /// The defaults.
    pub fn new() -> HubOptions {
        HubOptions {
            order: ByteOrder::Little,
            max_message: None,
            queue: None,
            slow: Slow::Drop,
            notices: true,
        }
    }

    /// The order of the bytes of all numbers. Unset: little.
    pub fn order(mut self, order: ByteOrder) -> HubOptions {
        self.order = order;
        self
    }

    /// The longest payload of a message, in bytes; 1 to the size of a buffer less 28. Unset: 16 KiB,
    /// or what fits into a buffer.
    pub fn max_message(mut self, bytes: usize) -> HubOptions {
        self.max_message = Some(bytes);
        self
    }

    /// Bytes that may wait for one client, what is being sent to it included; from two buffers to a
    /// quarter of all. Unset: 256 KiB, or a quarter of the buffers.
    pub fn queue(mut self, bytes: usize) -> HubOptions {
        self.queue = Some(bytes);
        self
    }

    /// What happens to a client that reads too slowly. Unset: drop.
    pub fn slow(mut self, slow: Slow) -> HubOptions {
        self.slow = slow;
        self
    }

    /// Whether clients are told who comes and goes. Unset: yes.
    pub fn notices(mut self, on: bool) -> HubOptions {
        self.notices = on;
        self
    }

    /// Whether a hub like this can work with these limits.
    pub(super) fn check(&self, limits: &Limits) -> Result<Bounds, String> {
        let (size, count) = (limits.buffer_size, limits.buffers as usize);
        if let Some(asked) = self.max_message
            && !(1..=size - MESSAGE_OVERHEAD).contains(&asked)
        {
            return Err(format!(
                "max-message is {asked} bytes, but must be from 1 to {}, which is what a buffer of \
                 {} has room for; ask for less (--max-message) or larger buffers (--buffer-size)",
                size - MESSAGE_OVERHEAD,
                show_size(size as u64),
            ));
        }
        let (min, max) = (QUEUE_BUFFERS_MIN * size, count / QUEUE_SHARE * size);
        if max < min {
            return Err(format!(
                "a hub needs {} buffers, but there are {count}: ask for more (--buffers, --memory)",
                QUEUE_BUFFERS_MIN * QUEUE_SHARE
            ));
        }
        if let Some(asked) = self.queue
            && !(min..=max).contains(&asked)
        {
            return Err(format!(
                "queue is {asked} bytes, but must be from {min} (two buffers) to {max} (a quarter \
                 of all {count} buffers of {}); ask for another queue (--queue), or for more \
                 buffers (--buffers, --memory)",
                show_size(size as u64),
            ));
        }
        let bounds = Bounds::new(self, size, count);
        let references = limits.max_connections as u64 * bounds.references_per_client() as u64;
        if references + count as u64 >= u64::from(u32::MAX) {
            return Err(format!(
                "{} connections with queues of {} bytes need more than 2^32 places in buffers of \
                 {}: ask for fewer connections (--max-connections), shorter queues (--queue), or \
                 larger buffers (--buffer-size)",
                limits.max_connections,
                bounds.queue,
                show_size(size as u64),
            ));
        }
        Ok(bounds)
    }
}

/// The limits of a hub, all known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    /// Bytes of a buffer.
    pub(super) buffer_size: usize,
    /// The longest payload, in bytes.
    pub(super) max_message: usize,
    /// Bytes that may wait for one client.
    pub(super) queue: usize,
    /// Parts of buffers that may wait for one client before messages to it are copied.
    pub(super) parts: usize,
}

impl Bounds {
    fn new(options: &HubOptions, buffer_size: usize, buffers: usize) -> Bounds {
        let queue_max = (buffers / QUEUE_SHARE).max(QUEUE_BUFFERS_MIN) * buffer_size;
        let queue = options.queue.unwrap_or(QUEUE.max(QUEUE_BUFFERS_MIN * buffer_size));
        let queue = queue.min(queue_max);
        let fits = buffer_size - MESSAGE_OVERHEAD;
        Bounds {
            buffer_size,
            max_message: options.max_message.unwrap_or(MAX_MESSAGE).min(fits),
            queue,
            parts: queue / buffer_size + REFERENCES_EXTRA,
        }
    }

    /// Those of the hub that works with this pool.
    pub(super) fn of_pool(options: &HubOptions, pool: &Pool) -> Bounds {
        Bounds::new(options, pool.buffer_size(), pool.count())
    }

    /// Places in buffers for one client: its queue, and two frames of its own in the output.
    pub(super) fn references_per_client(&self) -> usize {
        self.parts + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn check(config: Config, options: HubOptions) -> Result<Bounds, String> {
        let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        options.check(&config.workers(1).listen(any_port).max_connections(100).check().unwrap())
    }

    #[test]
    fn what_is_not_asked_for_follows_from_the_buffers() {
        let bounds = check(Config::new().buffers(64), HubOptions::new()).unwrap();
        let expected = Bounds {
            buffer_size: 16 << 10,
            max_message: (16 << 10) - 28,
            queue: 256 << 10,
            parts: 24,
        };
        assert_eq!(bounds, expected);
        let small = Config::new().buffers(8).buffer_size(256);
        let bounds = check(small, HubOptions::new()).unwrap();
        assert_eq!((bounds.max_message, bounds.queue), (228, 512), "a quarter of the buffers");
        let large = check(Config::new().buffers(64).buffer_size(1 << 20), HubOptions::new());
        assert_eq!(large.unwrap().max_message, MAX_MESSAGE);
        assert_eq!(large_queue(), 2 << 20, "two buffers at least");
    }

    fn large_queue() -> usize {
        check(Config::new().buffers(64).buffer_size(1 << 20), HubOptions::new()).unwrap().queue
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        let options = HubOptions::new();
        let sixteen = || Config::new().buffers(16).buffer_size(1024);
        for (config, options, remedy) in [
            (sixteen(), options.max_message(997), "from 1 to 996"),
            (sixteen(), options.max_message(0), "--max-message"),
            (sixteen(), options.queue(2047), "from 2048 (two buffers) to 4096"),
            (sixteen(), options.queue(4097), "--queue"),
            (Config::new().buffers(7), options, "a hub needs 8 buffers"),
        ] {
            let text = check(config, options).unwrap_err();
            assert!(text.contains(remedy), "{text}");
        }
        for options in [options.max_message(996), options.max_message(1), options.queue(2048)] {
            check(sixteen(), options).unwrap();
        }
    }
}
