//! The frames of the hub's protocol, written and read: no I/O, no state. What they mean is in
//! `docs/hub-protocol.md`.
//!
//! The first part is what a server reads and writes, the second what a client does.

use super::framing::{ByteOrder, FrameError, LENGTH_BYTES, encode, length};

/// Asks for the clients.
pub const LIST: u8 = 1;
/// A message to one client.
pub const SEND: u8 = 2;
/// A message to all clients.
pub const BROADCAST: u8 = 3;
/// A client's own id.
pub const WELCOME: u8 = 128;
/// Who is there.
pub const CLIENTS: u8 = 129;
/// A message.
pub const MESSAGE: u8 = 130;
/// A client came.
pub const JOINED: u8 = 131;
/// A client left.
pub const LEFT: u8 = 132;
/// A SEND was not delivered.
pub const NOT_SENT: u8 = 133;
/// Messages were dropped.
pub const DROPPED: u8 = 134;

/// Why a SEND was not delivered: nobody has the id.
pub const GONE: u8 = 1;
/// Why a SEND was not delivered: too much waits for the client already.
pub const QUEUE_FULL: u8 = 2;

/// Bytes of an id or a count.
const NUMBER_BYTES: usize = 8;

/// Bytes in front of the payload of a MESSAGE, its length included.
pub const MESSAGE_HEAD_BYTES: usize = LENGTH_BYTES + 2 + NUMBER_BYTES;

/// Bytes in front of the ids of CLIENTS, its length included.
pub const CLIENTS_HEAD_BYTES: usize = LENGTH_BYTES + 2;

/// Bytes of a frame with one number: WELCOME, JOINED, LEFT, DROPPED.
pub const NUMBER_FRAME_BYTES: usize = LENGTH_BYTES + 1 + NUMBER_BYTES;

/// Bytes of NOT_SENT.
pub const NOT_SENT_BYTES: usize = LENGTH_BYTES + 2 + NUMBER_BYTES;

/// Bytes in front of the payload of a SEND, its length included: the longest head of a request.
pub const SEND_HEAD_BYTES: usize = LENGTH_BYTES + 1 + NUMBER_BYTES;

/// The longest frame that a server sends, without its length, in bytes; the messages have
/// `max_message` at most.
pub fn server_frame_max(max_message: usize) -> usize {
    MESSAGE_HEAD_BYTES - LENGTH_BYTES + max_message
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request {
    /// Who is there.
    List,
    /// The payload to one client.
    Send {
        /// Its id.
        to: u64,
    },
    /// The payload to all.
    Broadcast,
}

/// The beginning of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// What it is.
    pub request: Request,
    /// Bytes in front of the payload, the length included.
    pub bytes: usize,
    /// Bytes of the payload.
    pub payload: usize,
}

/// A request that is not allowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The payload is too long.
    TooLong,
    /// It is no request at all.
    Malformed,
}

/// Reads the head of a request from the first bytes of the stream, of which [`SEND_HEAD_BYTES`] are
/// enough; `None` if more are needed.
///
/// # Errors
/// It is not allowed, which is known from as few bytes as can be.
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

/// What stands in front of the payload of a MESSAGE.
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

/// The sender of a MESSAGE, read from its head.
pub fn sender(head: &[u8; MESSAGE_HEAD_BYTES], order: ByteOrder) -> u64 {
    let mut from = [0; NUMBER_BYTES];
    from.copy_from_slice(&head[6..]);
    number(from, order)
}

/// What stands in front of the ids of CLIENTS, when there are so many.
pub fn clients_head(more: bool, ids: usize, order: ByteOrder) -> [u8; CLIENTS_HEAD_BYTES] {
    let mut head = [0; CLIENTS_HEAD_BYTES];
    let len = CLIENTS_HEAD_BYTES - LENGTH_BYTES + ids * NUMBER_BYTES;
    head[..4].copy_from_slice(&encode(len as u32, order));
    (head[4], head[5]) = (CLIENTS, u8::from(more));
    head
}

/// How many ids a frame of CLIENTS has at most, at least one.
pub fn clients_ids_max(max_message: usize) -> usize {
    (server_frame_max(max_message) + LENGTH_BYTES - CLIENTS_HEAD_BYTES) / NUMBER_BYTES
}

/// NOT_SENT.
pub fn not_sent(reason: u8, id: u64, order: ByteOrder) -> [u8; NOT_SENT_BYTES] {
    let mut frame = [0; NOT_SENT_BYTES];
    frame[..4].copy_from_slice(&encode((NOT_SENT_BYTES - LENGTH_BYTES) as u32, order));
    (frame[4], frame[5]) = (NOT_SENT, reason);
    frame[6..].copy_from_slice(&number_bytes(id, order));
    frame
}

/// A number as it is sent.
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

/// A request as a client sends it: what stands in front of the payload.
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

/// The first bytes of a request.
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

/// What a server says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// Your own id.
    Welcome(u64),
    /// Who is there.
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
        /// The sender's id, or 0: the server.
        from: u64,
        /// What it says.
        payload: &'a [u8],
    },
    /// A client came.
    Joined(u64),
    /// A client left.
    Left(u64),
    /// A SEND was not delivered.
    NotSent {
        /// [`GONE`] or [`QUEUE_FULL`].
        reason: u8,
        /// To whom.
        id: u64,
    },
    /// So many messages for you were dropped.
    Dropped(u64),
    /// A type that is newer than this.
    Unknown(u8),
}

/// The ids of a frame of CLIENTS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ids<'a> {
    bytes: &'a [u8],
    order: ByteOrder,
}

impl Ids<'_> {
    /// One after the other.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let (all, _) = self.bytes.as_chunks::<NUMBER_BYTES>();
        all.iter().map(|&bytes| number(bytes, self.order))
    }
}

/// Reads a frame from a server, given without its length; `None` if that is none.
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
