//! The limits of a hub ([`Bounds`]): checks the options against a server's limits, and completes
//! them.

use super::options::{HubOptions, MESSAGE_MAX, QUEUE};
use super::outbox::PARCEL_HEAD_BYTES;
use crate::base::units::show_size;
use crate::config::Limits;
use crate::error::SettingError;
use crate::protocol::hub::MESSAGE_HEAD_BYTES;

/// The most bytes that a buffer holds in addition to a message's payload: the message head, and the
/// head of the parcel that carries the message to another worker.
const MESSAGE_OVERHEAD: usize = MESSAGE_HEAD_BYTES + PARCEL_HEAD_BYTES;

/// The fewest buffers that a queue holds: a full parcel, behind the output that is being sent.
const QUEUE_BUFFERS_MIN: usize = 2;

/// Divisor for the share of all buffers that one queue may take. A client that does not read must
/// leave room for the others.
const QUEUE_SHARE: usize = 4;

/// Divisor for the part of a queue that is handed to the kernel at once. With the default, this is
/// as much as a connection may send in one turn.
const SEND_SHARE: usize = 4;

/// The fewest buffers per worker. A broadcast takes one buffer on each worker at the same time. Its
/// request may hold two more on each, because one receive fills two buffers.
const BUFFERS_PER_WORKER_MIN: usize = 3;

/// References that a client's queue may hold in addition to those that it needs if all messages are
/// broadcasts. They are for messages to this client alone: in the buffers, messages to other
/// clients lie between them.
const REFERENCES_EXTRA: usize = 8;

/// The complete limits of a hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Bounds {
    /// Size of a buffer, in bytes.
    pub(super) buffer_size: usize,
    /// The longest payload, in bytes.
    pub(super) max_message: usize,
    /// The most bytes that may wait for one client.
    pub(super) queue: usize,
    /// Bytes that are put on a client's output at once. Sent output makes room in the queue in
    /// steps of this size.
    pub(super) send: usize,
    /// Parts of buffers that may wait for one client. At this number, further messages to the
    /// client are copied.
    pub(super) parts: usize,
}

impl Bounds {
    /// Returns the limits of a hub with these options, if the hub can work within these limits of
    /// the server. If there are few buffers, a queue of the default size is made shorter.
    ///
    /// # Errors
    /// The hub cannot work within the limits. The text names the remedy.
    pub(super) fn check(options: &HubOptions, limits: &Limits) -> Result<Bounds, SettingError> {
        let (size, count) = (limits.buffer_size, limits.buffers as usize);
        if let Some(asked) = options.max_message
            && !(1..=size - MESSAGE_OVERHEAD).contains(&(asked as usize))
        {
            let text = format!(
                "`max_message` is {asked} bytes, but must be from 1 to {}, which is what a buffer of \
                 {} has room for; ask for less, or larger buffers (`buffer_size`)",
                size - MESSAGE_OVERHEAD,
                show_size(size as u64),
            );
            return Err(SettingError::new("max_message", asked, text));
        }
        let needed = (QUEUE_BUFFERS_MIN * QUEUE_SHARE).max(BUFFERS_PER_WORKER_MIN * limits.workers);
        if count < needed {
            let text = format!(
                "a hub with {} workers needs {needed} buffers, but there are {count}: ask for more \
                 (`buffers`, `memory`), or for fewer workers (`workers`)",
                limits.workers,
            );
            return Err(SettingError::new("buffers", count, text));
        }
        let (min, max) = (QUEUE_BUFFERS_MIN * size, count / QUEUE_SHARE * size);
        let asked = options.queue as usize;
        if options.queue != QUEUE && !(min..=max).contains(&asked) {
            let text = format!(
                "`queue` is {asked} bytes, but must be from {min} (two buffers) to {max} (a quarter \
                 of all {count} buffers of {}); ask for another, or for more \
                 buffers (`buffers`, `memory`)",
                show_size(size as u64),
            );
            return Err(SettingError::new("queue", asked, text));
        }
        let bounds = Bounds::new(options, size, count);
        let references = limits.max_connections as u64 * bounds.references_per_client() as u64;
        if references + count as u64 >= u64::from(u32::MAX) {
            let text = format!(
                "{} connections with queues of {} bytes need more than 2^32 places in buffers of \
                 {}: ask for fewer connections (`max_connections`), shorter queues (`queue`), or \
                 larger buffers (`buffer_size`)",
                limits.max_connections,
                bounds.queue,
                show_size(size as u64),
            );
            return Err(SettingError::new("max_connections", limits.max_connections, text));
        }
        Ok(bounds)
    }

    /// Returns the limits of a hub with these options and buffers.
    pub(super) fn new(options: &HubOptions, buffer_size: usize, buffers: usize) -> Bounds {
        let queue_max = (buffers / QUEUE_SHARE).max(QUEUE_BUFFERS_MIN) * buffer_size;
        let queue = (options.queue as usize).max(QUEUE_BUFFERS_MIN * buffer_size).min(queue_max);
        let fits = buffer_size - MESSAGE_OVERHEAD;
        Bounds {
            buffer_size,
            max_message: fits.min(options.max_message.unwrap_or(MESSAGE_MAX) as usize),
            queue,
            send: queue / SEND_SHARE,
            parts: queue / buffer_size + REFERENCES_EXTRA,
        }
    }

    /// References for one client: those of its queue, and two for frames of its own in the output.
    pub(super) fn references_per_client(&self) -> usize {
        self.parts + 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    fn check(config: Config, options: HubOptions) -> Result<Bounds, SettingError> {
        let any_port = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        let config = config.listen(any_port).max_connections(100);
        Bounds::check(&options, &config.check().unwrap())
    }

    #[test]
    fn what_is_not_asked_for_follows_from_the_buffers() {
        let bounds = check(Config::new().workers(1).buffers(64), HubOptions::default()).unwrap();
        let expected = Bounds {
            buffer_size: 16 << 10,
            max_message: (16 << 10) - 28,
            queue: 256 << 10,
            send: 64 << 10,
            parts: 24,
        };
        assert_eq!(bounds, expected);
        let small = Config::new().workers(1).buffers(8).buffer_size(256);
        let bounds = check(small, HubOptions::default()).unwrap();
        assert_eq!((bounds.max_message, bounds.queue), (228, 512), "a quarter of the buffers");
        let large =
            check(Config::new().workers(1).buffers(64).buffer_size(1 << 20), HubOptions::default());
        assert_eq!(large.unwrap().max_message, 16 << 10);
        assert_eq!(large_queue(), 2 << 20, "two buffers at least");
    }

    fn large_queue() -> usize {
        check(Config::new().workers(1).buffers(64).buffer_size(1 << 20), HubOptions::default())
            .unwrap()
            .queue
    }

    #[test]
    fn what_cannot_be_is_refused_with_the_remedy() {
        let options = HubOptions::default();
        let sixteen = || Config::new().workers(1).buffers(16).buffer_size(1024);
        let eight_workers = |buffers| Config::new().workers(8).buffers(buffers);
        let message = |bytes| HubOptions { max_message: Some(bytes), ..options };
        let queue = |bytes| HubOptions { queue: bytes, ..options };
        for (config, options, remedy) in [
            (sixteen(), message(997), "from 1 to 996"),
            (sixteen(), message(0), "`max_message`"),
            (sixteen(), queue(2047), "from 2048 (two buffers) to 4096"),
            (sixteen(), queue(4097), "`queue`"),
            (Config::new().workers(1).buffers(7), options, "needs 8 buffers"),
            (eight_workers(23), options, "a hub with 8 workers needs 24 buffers"),
        ] {
            let text = check(config, options).unwrap_err().to_string();
            assert!(text.contains(remedy), "{text}");
        }
        for options in [message(996), message(1), queue(2048), options] {
            check(sixteen(), options).unwrap();
        }
        check(eight_workers(24), options).unwrap();
    }
}
