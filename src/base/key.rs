//! Identifiers of sockets and connections.
//!
//! A [`Key`] identifies a socket within one worker: its slot, the generation of the slot, and an
//! operation. It is the mio `Token` of the socket, so an event for a closed connection is not
//! mistaken for an event of the connection that uses the slot now. A [`ConnectionId`] identifies a
//! connection within the process.

use std::fmt;

#[cfg(not(target_pointer_width = "64"))]
compile_error!("a key has 64 bits, and so must a mio Token: echopool runs on 64-bit targets only");

const SLOT_BITS: u32 = 24;
const GENERATION_BITS: u32 = 32;
const WORKER_BITS: u32 = 6;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;

/// Slots from this number on are listeners and the engine's own descriptors instead of connections.
pub const RESERVED_SLOTS: u32 = (1 << SLOT_BITS) - LISTENERS_MAX as u32;

/// The largest number of listeners: each has a reserved slot.
pub const LISTENERS_MAX: usize = 4096;

/// How many more listeners than at its start a server may have later. The tables have room for them,
/// and open files are reserved.
pub(crate) const LISTENERS_ADDED_MAX: usize = 8;

/// The largest number of worker threads: a worker's number has 6 bits in a [`ConnectionId`], and
/// one 64-bit word records which workers need a buffer. An echo server saturates a network card
/// long before 64 cores.
pub const WORKERS_MAX: usize = 1 << WORKER_BITS;

/// An operation, as part of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum OpKind {
    /// No operation: the socket itself.
    Socket,
    /// Taking a connection from a listener.
    Accept,
    /// Establishing a connection.
    Connect,
    /// Receiving bytes.
    Recv,
    /// Sending bytes.
    Send,
    /// Closing the sending side.
    Shutdown,
    /// Ending all other operations.
    Cancel,
    /// Closing the socket.
    Close,
}

const KINDS: [OpKind; 8] = [
    OpKind::Socket,
    OpKind::Accept,
    OpKind::Connect,
    OpKind::Recv,
    OpKind::Send,
    OpKind::Shutdown,
    OpKind::Cancel,
    OpKind::Close,
];

/// Operation (8 bits), generation (32) and slot (24) in one word.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(u64);

impl Key {
    /// The key of the socket in `slot` with this generation of the slot.
    ///
    /// # Panics
    /// If the slot has more than 24 bits.
    #[inline]
    pub fn new(slot: u32, generation: u32) -> Key {
        assert!(u64::from(slot) <= SLOT_MASK, "a slot has 24 bits");
        Key(u64::from(generation) << SLOT_BITS | u64::from(slot))
    }

    /// The key of the listener with this index.
    pub fn listener(index: usize) -> Key {
        Key::new(RESERVED_SLOTS + u32::try_from(index).expect("few listeners"), 0)
    }

    /// The index of the listener, if this is the key of one.
    #[inline]
    pub fn listener_index(self) -> Option<usize> {
        (self.slot() >= RESERVED_SLOTS).then(|| (self.slot() - RESERVED_SLOTS) as usize)
    }

    /// The same socket with an operation.
    #[inline]
    pub fn with(self, op: OpKind) -> Key {
        Key(self.socket().0 | (op as u64) << (SLOT_BITS + GENERATION_BITS))
    }

    /// The same without an operation.
    #[inline]
    pub fn socket(self) -> Key {
        Key(self.0 & ((1 << (SLOT_BITS + GENERATION_BITS)) - 1))
    }

    /// The slot, below 2^24.
    #[inline]
    pub fn slot(self) -> u32 {
        (self.0 & SLOT_MASK) as u32
    }

    /// The generation: which use of the slot it is.
    #[inline]
    pub fn generation(self) -> u32 {
        (self.0 >> SLOT_BITS) as u32
    }

    /// The operation.
    #[inline]
    pub fn op(self) -> OpKind {
        KINDS[(self.0 >> (SLOT_BITS + GENERATION_BITS)) as usize % KINDS.len()]
    }

    /// The key as a number, to be stored in the kernel.
    #[inline]
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The key that was passed to the kernel as `bits`.
    #[inline]
    pub fn from_bits(bits: u64) -> Key {
        Key(bits)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({}.{})", self.op(), self.slot(), self.generation())
    }
}

/// The id of a connection, shown in logs as a plain number. It is never 0, and never reused for
/// another connection of the process.
///
/// It encodes where the connection is, so that a worker finds it without a table: slot (24 bits),
/// worker (6), generation (32).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ConnectionId(pub(crate) u64);

impl ConnectionId {
    /// The id of the connection with this key on the worker with this number.
    pub(crate) fn new(worker: usize, key: Key) -> ConnectionId {
        let place = u64::from(key.slot()) | (worker as u64) << SLOT_BITS;
        // The generation plus 1, so that no id is 0.
        ConnectionId(place | (u64::from(key.generation()) + 1) << (SLOT_BITS + WORKER_BITS))
    }

    /// The id as a number, to be sent or stored.
    pub fn to_bits(self) -> u64 {
        self.0
    }

    /// The id for a number that [`to_bits`](ConnectionId::to_bits) returned. An id made from any
    /// other number belongs to no connection.
    pub fn from_bits(bits: u64) -> ConnectionId {
        ConnectionId(bits)
    }

    /// The number of the connection's worker, below [`WORKERS_MAX`]. For an id that no connection
    /// has, it may be higher than the number of workers.
    pub fn worker(self) -> usize {
        (self.0 >> SLOT_BITS) as usize % WORKERS_MAX
    }

    /// The connection's slot on its worker.
    pub fn slot(self) -> u32 {
        (self.0 & SLOT_MASK) as u32
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_come_back_out() {
        for kind in KINDS {
            let key = Key::new(0xFF_FFFE, u32::MAX).with(kind);
            assert_eq!((key.slot(), key.generation(), key.op()), (0xFF_FFFE, u32::MAX, kind));
            assert_eq!(Key::from_bits(key.to_bits()), key);
            assert_eq!(key.socket(), Key::new(0xFF_FFFE, u32::MAX));
        }
        assert_eq!(Key::listener(3).listener_index(), Some(3));
        assert_eq!(Key::new(3, 0).listener_index(), None);
    }

    #[test]
    fn an_id_says_where_its_connection_is() {
        for (worker, slot, generation) in [(0, 0, 0), (63, 0xFF_FFFF, u32::MAX), (5, 3, 9)] {
            let id = ConnectionId::new(worker, Key::new(slot, generation));
            assert_eq!((id.worker(), id.slot()), (worker, slot));
            assert_ne!(id.to_bits(), 0);
            assert_eq!(ConnectionId::from_bits(id.to_bits()), id);
        }
        let uses = [0, 1].map(|generation| ConnectionId::new(5, Key::new(3, generation)));
        assert_ne!(uses[0], uses[1]);
    }
}
