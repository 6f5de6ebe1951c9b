//! Writes and reads the frames of the hub's protocol. No I/O, no state. `docs/hub-protocol.md`
//! explains what they mean.
//!
//! The first part is for servers, the second for clients.

use super::framing::{ByteOrder, FrameError, LENGTH_BYTES, encode, length};

/// Requests the list of clients.
pub const LIST: u8 = 1;
/// A message to one client.
pub const SEND: u8 = 2;
/// A message to all clients.
pub const BROADCAST: u8 = 3;
/// A client's own id.
pub const WELCOME: u8 = 128;
/// The list of clients.
pub const CLIENTS: u8 = 129;
/// A message.
pub const MESSAGE: u8 = 130;
/// A client has joined.
pub const JOINED: u8 = 131;
/// A client has left.
pub const LEFT: u8 = 132;
/// A SEND was not delivered.
pub const NOT_SENT: u8 = 133;
/// Messages were dropped.
pub const DROPPED: u8 = 134;

/// Why a SEND was not delivered: no client has this id.
pub const GONE: u8 = 1;
/// Why a SEND was not delivered: the client's queue is full.
pub const QUEUE_FULL: u8 = 2;

/// Size of an id or a count, in bytes.
const NUMBER_BYTES: usize = 8;

/// Bytes before the payload of a MESSAGE, including the frame's length.
pub const MESSAGE_HEAD_BYTES: usize = LENGTH_BYTES + 2 + NUMBER_BYTES;

/// Bytes before the ids of CLIENTS, including the frame's length.
pub const CLIENTS_HEAD_BYTES: usize = LENGTH_BYTES + 2;

/// Size of a frame with one number, in bytes: WELCOME, JOINED, LEFT, DROPPED.
pub const NUMBER_FRAME_BYTES: usize = LENGTH_BYTES + 1 + NUMBER_BYTES;

/// Size of NOT_SENT, in bytes.
pub const NOT_SENT_BYTES: usize = LENGTH_BYTES + 2 + NUMBER_BYTES;

/// Bytes before the payload of a SEND, including the frame's length: the longest head of a request.
pub const SEND_HEAD_BYTES: usize = LENGTH_BYTES + 1 + NUMBER_BYTES;

/// Maximum size of a frame from a server, without its length, in bytes, if messages have at most
/// `max_message` bytes.
pub fn server_frame_max(max_message: usize) -> usize {
    MESSAGE_HEAD_BYTES - LENGTH_BYTES + max_message
}

/// A request of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Request {
    /// Request the list of clients.
    List,
    /// Send the payload to one client.
    Send {
        /// The client's id.
        to: u64,
    },
    /// Send the payload to all clients.
    Broadcast,
}

/// The head of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The request.
    pub request: Request,
    /// Bytes before the payload, including the frame's length.
    pub bytes: usize,
    /// Bytes of the payload.
    pub payload: usize,
}

/// Why a request is invalid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Refusal {
    /// The payload is too long.
    TooLong,
    /// The frame is not a request.
    Malformed,
}

/// Reads the head of a request from the first bytes of the stream. [`SEND_HEAD_BYTES`] are always
/// enough. Returns `None` if more are needed.
///
/// # Errors
/// The request is invalid. This is reported as early as the bytes allow.
pub fn request(
    first: &[u8],
    order: ByteOrder,
    max_message: usize,
) -> Result<Option<Head>, Refusal> {
    let Some((prefix, rest)) = first.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let max = u32::try_from(1 + NUMBER_BYTES + max_message).unwrap_or(i32::MAX as u32);
    let frame = length(*prefix, order, max).map_err(|error| match error {
        FrameError::TooLong { .. } => Refusal::TooLong,
        FrameError::Negative(_) => Refusal::Malformed,
    })?;
    if frame == 0 {
        return Err(Refusal::Malformed);
    }
    let Some((&kind, rest)) = rest.split_first() else { return Ok(None) };
    let (request, fields) = match kind {
        LIST if frame == 1 => (Request::List, 0),
        BROADCAST => (Request::Broadcast, 0),
        SEND if frame > NUMBER_BYTES => {
            let Some(&id) = rest.first_chunk() else { return Ok(None) };
            (Request::Send { to: number(id, order) }, NUMBER_BYTES)
        }
        _ => return Err(Refusal::Malformed),
    };
    let payload = frame - 1 - fields;
    let bytes = LENGTH_BYTES + 1 + fields;
    if payload > max_message {
        return Err(Refusal::TooLong);
    }
    Ok(Some(Head { request, bytes, payload }))
}

/// A frame of one number: WELCOME, JOINED, LEFT or DROPPED.
pub fn number_frame(kind: u8, value: u64, order: ByteOrder) -> [u8; NUMBER_FRAME_BYTES] {
    let mut frame = [0; NUMBER_FRAME_BYTES];
    frame[..4].copy_from_slice(&encode((NUMBER_FRAME_BYTES - LENGTH_BYTES) as u32, order));
    frame[4] = kind;
    frame[5..].copy_from_slice(&number_bytes(value, order));
    frame
}

/// The bytes before the payload of a MESSAGE.
pub fn message_head(
    to_all: bool,
    from: u64,
    payload: usize,
    order: ByteOrder,
) -> [u8; MESSAGE_HEAD_BYTES] {
    let mut head = [0; MESSAGE_HEAD_BYTES];
    let len = MESSAGE_HEAD_BYTES - LENGTH_BYTES + payload;
    head[..4].copy_from_slice(&encode(len as u32, order));
    (head[4], head[5]) = (MESSAGE, u8::from(to_all));
    head[6..].copy_from_slice(&number_bytes(from, order));
    head
}

/// Reads the sender of a MESSAGE from its head.
pub fn sender(head: &[u8; MESSAGE_HEAD_BYTES], order: ByteOrder) -> u64 {
    let mut from = [0; NUMBER_BYTES];
    from.copy_from_slice(&head[6..]);
    number(from, order)
}

/// The bytes before the ids of CLIENTS, for this number of ids.
pub fn clients_head(more: bool, ids: usize, order: ByteOrder) -> [u8; CLIENTS_HEAD_BYTES] {
    let mut head = [0; CLIENTS_HEAD_BYTES];
    let len = CLIENTS_HEAD_BYTES - LENGTH_BYTES + ids * NUMBER_BYTES;
    head[..4].copy_from_slice(&encode(len as u32, order));
    (head[4], head[5]) = (CLIENTS, u8::from(more));
    head
}

/// Maximum number of ids in a CLIENTS frame. At least 1.
pub fn clients_ids_max(max_message: usize) -> usize {
    (server_frame_max(max_message) + LENGTH_BYTES - CLIENTS_HEAD_BYTES) / NUMBER_BYTES
}

/// A NOT_SENT frame.
pub fn not_sent(reason: u8, id: u64, order: ByteOrder) -> [u8; NOT_SENT_BYTES] {
    let mut frame = [0; NOT_SENT_BYTES];
    frame[..4].copy_from_slice(&encode((NOT_SENT_BYTES - LENGTH_BYTES) as u32, order));
    (frame[4], frame[5]) = (NOT_SENT, reason);
    frame[6..].copy_from_slice(&number_bytes(id, order));
    frame
}

/// Encodes a number for the wire.
pub fn number_bytes(value: u64, order: ByteOrder) -> [u8; NUMBER_BYTES] {
    match order {
        ByteOrder::Little => value.to_le_bytes(),
        ByteOrder::Big => value.to_be_bytes(),
    }
}

fn number(bytes: [u8; NUMBER_BYTES], order: ByteOrder) -> u64 {
    match order {
        ByteOrder::Little => u64::from_le_bytes(bytes),
        ByteOrder::Big => u64::from_be_bytes(bytes),
    }
}

/// The bytes before the payload of a client's request.
///
/// ```
/// use echopool::framing::ByteOrder;
/// use echopool::builtin::hub::protocol::{Request, request_head};
///
/// let head = request_head(Request::Broadcast, 2, ByteOrder::Little);
/// assert_eq!(head.bytes(), [3, 0, 0, 0, 3]);
/// ```
pub fn request_head(request: Request, payload: usize, order: ByteOrder) -> RequestHead {
    let (kind, to) = match request {
        Request::List => (LIST, None),
        Request::Send { to } => (SEND, Some(to)),
        Request::Broadcast => (BROADCAST, None),
    };
    let mut head = RequestHead { bytes: [0; SEND_HEAD_BYTES], len: LENGTH_BYTES + 1 };
    if let Some(to) = to {
        head.bytes[5..].copy_from_slice(&number_bytes(to, order));
        head.len = SEND_HEAD_BYTES;
    }
    let frame = head.len - LENGTH_BYTES + payload;
    head.bytes[..4].copy_from_slice(&encode(frame as u32, order));
    head.bytes[4] = kind;
    head
}

/// The head of a request, encoded.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHead {
    bytes: [u8; SEND_HEAD_BYTES],
    len: usize,
}

impl RequestHead {
    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A frame from a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The client's own id.
    Welcome(u64),
    /// The list of clients.
    Clients {
        /// Whether another frame of the same list follows.
        more: bool,
        /// The ids.
        ids: Ids<'a>,
    },
    /// A message.
    Message {
        /// Whether it is a broadcast.
        to_all: bool,
        /// The sender's id. 0 if the server sent it.
        from: u64,
        /// The payload.
        payload: &'a [u8],
    },
    /// A client has joined.
    Joined(u64),
    /// A client has left.
    Left(u64),
    /// A SEND was not delivered.
    NotSent {
        /// [`GONE`] or [`QUEUE_FULL`].
        reason: u8,
        /// The id that the SEND was for.
        id: u64,
    },
    /// This many messages for the client were dropped.
    Dropped(u64),
    /// A frame type that this version does not know.
    Unknown(u8),
}

/// The ids in a CLIENTS frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
}

impl Ids<'_> {
    /// Iterates over the ids.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let (all, _) = self.bytes.as_chunks::<NUMBER_BYTES>();
        all.iter().map(|&bytes| number(bytes, self.order))
    }
}

/// Reads a frame from a server, given without its length. Returns `None` if it is not a valid
/// frame.
pub fn event(frame: &[u8], order: ByteOrder) -> Option<Event<'_>> {
    let (&kind, fields) = frame.split_first()?;
    let only = |fields: &[u8]| Some(number(fields.try_into().ok()?, order));
    let flagged = |fields: &'_ [u8]| Some((*fields.first()?, only(fields.get(1..9)?)?));
    let flag = |byte| match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    };
    match kind {
        WELCOME => Some(Event::Welcome(only(fields)?)),
        JOINED => Some(Event::Joined(only(fields)?)),
        LEFT => Some(Event::Left(only(fields)?)),
        DROPPED => Some(Event::Dropped(only(fields)?)),
        CLIENTS => {
            let (&more, bytes) = fields.split_first()?;
            let whole = bytes.len() % NUMBER_BYTES == 0;
            whole.then_some(Event::Clients { more: flag(more)?, ids: Ids { bytes, order } })
        }
        MESSAGE => {
            let (to_all, from) = flagged(fields)?;
            Some(Event::Message { to_all: flag(to_all)?, from, payload: &fields[9..] })
        }
        NOT_SENT if fields.len() == 9 => {
            let (reason, id) = flagged(fields)?;
            Some(Event::NotSent { reason, id })
        }
        NOT_SENT => None,
        _ => (kind > DROPPED).then_some(Event::Unknown(kind)),
    }
}

#[cfg(test)]
mod tests;
