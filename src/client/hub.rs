//! The hub's frames as its clients see them: what is asked, and what comes. A frame here is the
//! payload of a length-prefixed message; the length is the framing's business. What the frames mean
//! is in the description of the hub's protocol.

use crate::framing::ByteOrder;

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// Who is there.
    List,
    /// To one client.
    Send {
        /// Its id.
        to: u64,
        /// What.
        payload: &'a [u8],
    },
    /// To all clients, the sender included.
    Broadcast(&'a [u8]),
}

impl Request<'_> {
    /// The frame to be sent.
    ///
    /// ```
    /// use echopool::client::hub::Request;
    /// use echopool::framing::ByteOrder;
    ///
    /// let frame = Request::Send { to: 7, payload: b"hi" }.frame(ByteOrder::Little);
    /// assert_eq!(frame, [2, 7, 0, 0, 0, 0, 0, 0, 0, b'h', b'i']);
    /// ```
    pub fn frame(&self, order: ByteOrder) -> Vec<u8> {
        match *self {
            Request::List => vec![1],
            Request::Send { to, payload } => {
                let id = match order {
                    ByteOrder::Little => to.to_le_bytes(),
                    ByteOrder::Big => to.to_be_bytes(),
                };
                [&[2], &id[..], payload].concat()
            }
            Request::Broadcast(payload) => [&[3], payload].concat(),
        }
    }
}

/// What a hub tells.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// The client's own id: the first frame of each connection.
    Welcome(u64),
    /// Some of the clients that are there.
    Clients {
        /// Their ids.
        ids: Vec<u64>,
        /// Whether another such frame follows.
        more: bool,
    },
    /// A message.
    Message {
        /// Whether it was for all.
        to_all: bool,
        /// Who sent it; `None` for the server.
        from: Option<u64>,
        /// The message.
        payload: &'a [u8],
    },
    /// A client came.
    Joined(u64),
    /// A client left.
    Left(u64),
    /// A message to one client was not delivered.
    NotSent {
        /// To whom.
        to: u64,
        /// Whether it is there, and too much waits for it; otherwise it is gone.
        queue_full: bool,
    },
    /// So many messages for this client were dropped, because it read too slowly.
    Dropped(u64),
}

impl Event<'_> {
    /// Understands a frame. `None`: it is of no kind that there is, or too short for its kind.
    ///
    /// ```
    /// use echopool::client::hub::Event;
    /// use echopool::framing::ByteOrder;
    ///
    /// let frame = [128, 5, 0, 0, 0, 0, 0, 0, 0];
    /// assert_eq!(Event::parse(&frame, ByteOrder::Little), Some(Event::Welcome(5)));
    /// ```
    pub fn parse(frame: &[u8], order: ByteOrder) -> Option<Event<'_>> {
        let (&kind, fields) = frame.split_first()?;
        let number = |fields: &[u8]| {
            let bytes = *fields.first_chunk()?;
            Some(match order {
                ByteOrder::Little => u64::from_le_bytes(bytes),
                ByteOrder::Big => u64::from_be_bytes(bytes),
            })
        };
        Some(match kind {
            128 => Event::Welcome(number(fields)?),
            129 => {
                let (&more, ids) = fields.split_first()?;
                if ids.len() % 8 != 0 {
                    return None;
                }
                let ids = ids.chunks(8).map(number).collect::<Option<_>>()?;
                Event::Clients { ids, more: more != 0 }
            }
            130 => {
                let (&to_all, rest) = fields.split_first()?;
                let from = number(rest)?;
                let payload = &rest[8..];
                Event::Message { to_all: to_all != 0, from: (from != 0).then_some(from), payload }
            }
            131 => Event::Joined(number(fields)?),
            132 => Event::Left(number(fields)?),
            133 => {
                let (&reason, rest) = fields.split_first()?;
                Event::NotSent { to: number(rest)?, queue_full: reason == 2 }
            }
            134 => Event::Dropped(number(fields)?),
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_frame_is_understood_in_either_order_and_none_that_is_too_short() {
        let id = |order| match order {
            ByteOrder::Little => 0x0102_0304_u64.to_le_bytes(),
            ByteOrder::Big => 0x0102_0304_u64.to_be_bytes(),
        };
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let id = id(order);
            let of = |head: &[u8], rest: &[u8]| [head, &id, rest].concat();
            let n = 0x0102_0304;
            let message = |to_all, from| Event::Message { to_all, from, payload: b"hi" };
            for (frame, event) in [
                (of(&[128], b""), Event::Welcome(n)),
                (of(&[129, 1], &id), Event::Clients { ids: vec![n, n], more: true }),
                (of(&[130, 1], b"hi"), message(true, Some(n))),
                ([&[130, 0], &[0; 8][..], b"hi"].concat(), message(false, None)),
                (of(&[131], b""), Event::Joined(n)),
                (of(&[132], b""), Event::Left(n)),
                (of(&[133, 1], b""), Event::NotSent { to: n, queue_full: false }),
                (of(&[133, 2], b""), Event::NotSent { to: n, queue_full: true }),
                (of(&[134], b""), Event::Dropped(n)),
            ] {
                assert_eq!(Event::parse(&frame, order), Some(event));
                let short = &frame[..frame.len().min(8)];
                assert_eq!(Event::parse(short, order), None, "{short:?}");
            }
            assert_eq!(
                Event::parse(&[129, 0], order),
                Some(Event::Clients { ids: vec![], more: false })
            );
            assert_eq!((Event::parse(&[], order), Event::parse(&[9; 20], order)), (None, None));
        }
    }
}
