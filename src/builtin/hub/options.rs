//! The options of a hub. `bounds` derives the limits from them and from the server's buffers.

use crate::builtin::option::{About, Allowed, ORDERS, Options, Value, Word, declare, options};
use crate::protocol::framing::ByteOrder;

/// Upper limit of a message, in bytes. One buffer holds the message for all clients of a worker,
/// and a default buffer has this size.
pub(super) const MESSAGE_MAX: u32 = 16 << 10;

/// Default of the bytes that may wait for one client: 16 of the longest messages.
pub(super) const QUEUE: u32 = 256 << 10;

/// Upper limit of the bytes that may wait for one client. No client justifies more memory.
pub(crate) const QUEUE_MAX: u32 = 1 << 30;

options! {
    /// Options of the hub.
    #[derive(Copy)]
    pub struct HubOptions {
        /// Byte order of numbers. Default: little endian.
        pub order: ByteOrder = ByteOrder::Little,
            "order" = "ORDER", Words(ORDERS), "byte order of numbers";
        /// Longest payload of a message in bytes, 1 to 16,384. `None`, the default: what fits into
        /// a buffer with its header, at most 16,384.
        pub max_message: Option<u32> = None, "max-message" = "SIZE", Size(1, MESSAGE_MAX),
            "longest message", "what fits into a buffer, at most 16Ki";
        /// Bytes that may wait for one client, 1 to 1 GiB. Default: 256 KiB.
        pub queue: u32 = QUEUE, "queue" = "SIZE", Size(1, QUEUE_MAX),
            "bytes that may wait for one client; two buffers to a quarter of all";
        /// What happens when the queue is full. Default: drop.
        pub slow: Slow = Slow::Drop, "slow" = "WHAT", Words(&["drop", "close"]),
            "when the queue is full, drops the message or closes the connection";
        /// Whether clients are notified of joins and leaves. Default: they are.
        pub notices: bool = true, "notices" = "WHETHER", Words(&["on", "off"]),
            "notifies clients of joins and leaves";
    }
}

/// What happens to a client that reads too slowly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Slow {
    /// Messages for it are dropped, and counted.
    #[default]
    Drop,
    /// It is closed.
    Close,
}

impl Word for Slow {
    const VALUES: &'static [Slow] = &[Slow::Drop, Slow::Close];
}
