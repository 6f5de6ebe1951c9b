//! What the services that echo whole messages have in common: splitting complete messages off the
//! input, sending a message from another thread, the size that the pool must have, and the close
//! reason for an invalid message. Where messages end is determined by
//! [`framing`](crate::protocol::framing).

use crate::buffer::{Chain, Shared};
use crate::config::{Limits, MESSAGE_LEASES_MAX};
use crate::error::{CloseReason, SettingError};
use crate::protocol::framing::{FrameError, Framing};
use crate::service::{Answer, Connection};
use crate::shared::receipt::SendError;

/// Maximum number of references per connection: one in the input, to the rest of a buffer; two in
/// the output, to that rest after the message has been completed, and to the beginning of the next
/// buffer that was split.
const REFERENCES_PER_CONNECTION: usize = 3;

/// Maximum number of references for all connections of a worker.
pub(crate) fn references(limits: &Limits) -> usize {
    REFERENCES_PER_CONNECTION * limits.max_connections as usize
}

/// Moves the first `count` bytes of the input to the output. Copies nothing and takes no buffer,
/// because none may be free: a buffer that has to be split is shared by both chains from then on.
///
/// The rest of a shared buffer must not be split again. It never is, because it belongs to an
/// incomplete message, whose end arrives in a later buffer.
///
/// Returns false if no reference was free, which [`REFERENCES_PER_CONNECTION`] rules out.
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
    // A split at the end of a buffer always succeeds.
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

/// Appends a message with this payload to the output.
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

/// Checks that the pool has room for messages of `wire_max` bytes, with framing. `field` is the
/// setting that limits them to `max`.
pub(crate) fn check_room(
    limits: &Limits,
    wire_max: usize,
    field: &'static str,
    max: u32,
) -> Result<(), SettingError> {
    let size = limits.buffer_size as u64;
    // A message may start in the middle of a buffer, hence + 1. The factor 2 is there because
    // pieces that arrive one by one fill buffers at least by half, and so that two connections can
    // finish.
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

/// Closes a connection whose next message is invalid. Replies to earlier messages still arrive.
#[cold]
pub(crate) fn refuse(error: FrameError) -> Answer {
    Answer::CloseAfterSendFor(match error {
        FrameError::TooLong { .. } => CloseReason::MessageTooLong,
        FrameError::Negative(_) => CloseReason::ProtocolError,
    })
}

/// Handles a missing reference, which [`REFERENCES_PER_CONNECTION`] rules out.
#[cold]
pub(crate) fn out_of_references() -> Answer {
    debug_assert!(false, "more references in use than a connection needs");
    Answer::CloseFor(CloseReason::Failed)
}
