//! What the services have in common that see messages whole: cutting complete ones off the input,
//! sending one from another thread, what the pool must have room for, and the reason that a bad
//! message closes a connection with. Where messages end is the business of
//! [`framing`](crate::protocol::framing).

use crate::buffer::{Chain, Shared};
use crate::config::{Limits, MESSAGE_LEASES_MAX};
use crate::error::{CloseReason, SettingError};
use crate::protocol::framing::{FrameError, Framing};
use crate::service::{Answer, Connection};
use crate::shared::receipt::SendError;

/// References that a connection needs at most: the rest of a buffer in its input, and in its output
/// that rest after the message was completed, and the beginning of the next buffer that was cut.
const REFERENCES_PER_CONNECTION: usize = 3;

/// References that all connections of a worker need at most.
pub(crate) fn references(limits: &Limits) -> usize {
    REFERENCES_PER_CONNECTION * limits.max_connections as usize
}

/// Moves the first `count` bytes of the input to the output. Nothing is copied, and no buffer is
/// taken, of which there may be none: where a buffer has to be cut, it is shared from then on by
/// both.
///
/// What is left of a shared buffer must not be cut again. It never is if it belongs to a message
/// that is not complete: the message's end comes in a later buffer.
///
/// Returns false if there was no reference to be had, which
/// [`REFERENCES_PER_CONNECTION`] rules out.
#[inline]
pub(crate) fn send_front(connection: &mut Connection<'_>, count: usize) -> bool {
    if count == connection.input.len() {
        connection.output.append(connection.input);
        return true;
    }
    count == 0 || cut(connection, count)
}

#[cold]
fn cut(connection: &mut Connection<'_>, count: usize) -> bool {
    let mut whole = 0;
    for slice in connection.input.slices() {
        if whole + slice.len() > count {
            break;
        }
        whole += slice.len();
    }
    // At the end of a buffer: always possible.
    let Some(mut front) = connection.input.split_to(whole) else { return false };
    connection.output.append(&mut front);
    if whole == count {
        return true;
    }
    let lease = connection.input.pop_front().expect("more bytes than were taken");
    let shared = Shared::from(lease);
    let range = shared.range();
    let at = range.start + count - whole;
    let mut rest = Chain::new(connection.pool);
    let done = rest.push_shared(&shared, at..range.end)
        && connection.output.push_shared(&shared, range.start..at);
    rest.append(connection.input);
    *connection.input = rest;
    done
}

/// Puts a message on the output that has these bytes for its payload.
pub(crate) fn send_payload(
    connection: &mut Connection<'_>,
    framing: Framing,
    payload: &[u8],
) -> Result<(), SendError> {
    let (before, after) = framing.around(payload.len()).map_err(|_| SendError::TooLong)?;
    if connection.output.leases() >= MESSAGE_LEASES_MAX {
        return Err(SendError::QueueFull);
    }
    match connection.send_parts(&[before.bytes(), payload, after]) {
        true => Ok(()),
        false => Err(SendError::QueueFull),
    }
}

/// Checks that the pool has room for messages of this many bytes on the wire. `field` is what limits
/// them to `max`.
pub(crate) fn check_room(
    limits: &Limits,
    wire_max: usize,
    field: &'static str,
    max: u32,
) -> Result<(), SettingError> {
    let size = limits.buffer_size as u64;
    // A message may begin in the middle of a buffer. Twice as many, because pieces that come one by
    // one fill buffers by half at least, and so that two connections can come to an end.
    let needed = 2 * ((wire_max as u64).div_ceil(size) + 1);
    if u64::from(limits.buffers) >= needed {
        return Ok(());
    }
    let text = format!(
        "messages of {wire_max} bytes need {needed} buffers of {size}, but there are {}: give \
         `buffers` {needed} or `memory` {}, or a smaller `{field}`",
        limits.buffers,
        needed * size,
    );
    Err(SettingError::new(field, max, text))
}

/// What becomes of a connection whose next message is not allowed: what was answered before still
/// arrives.
#[cold]
pub(crate) fn refuse(error: FrameError) -> Answer {
    Answer::CloseAfterSendFor(match error {
        FrameError::TooLong { .. } => CloseReason::MessageTooLong,
        FrameError::Negative(_) => CloseReason::ProtocolError,
    })
}

/// There was no reference left, against the count.
#[cold]
pub(crate) fn out_of_references() -> Answer {
    debug_assert!(false, "more references in use than a connection needs");
    Answer::CloseFor(CloseReason::Failed)
}
