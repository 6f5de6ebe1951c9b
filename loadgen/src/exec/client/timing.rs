//! The times in the replies of a timed server, and what splitting a round trip needs beside them.

use std::time::Duration;

use echopool::buffer::Chain;
use echopool::builtin::timed::{TIMES_BYTES, Times, clock_id};
use echopool::framing::{ByteOrder, LENGTH_BYTES};
use echopool::time::Time;

use super::conversation::Conversation;
use crate::exec::lifecycle::{Lifecycle, Phase};
use crate::plan::Plan;
use crate::stats::loss::Mismatch;
use crate::traffic::wire::Wire;

/// The state of one thread.
pub(super) struct Timing {
    order: ByteOrder,
    /// Names the clock of this machine.
    clock: u64,
    /// For each connection: the times of the reply that is not complete, as far as they have
    /// arrived.
    headers: Vec<[u8; TIMES_BYTES]>,
    /// Of the replies that the present call has completed, in order.
    complete: Vec<Times>,
    /// A ring of `pipeline` times per connection, as that of the sends: how late the generator was.
    /// Empty in a closed loop.
    pub(super) own_lags: Vec<Duration>,
    /// When the present turn began, and when it would have begun if the thread had not been stalled.
    turn: Time,
    told: Time,
}

impl Timing {
    /// `None` unless the replies carry times.
    pub(super) fn new(plan: &Plan, connections: usize, sends: usize) -> Option<Timing> {
        let order = plan.wire.order_of_times()?;
        Some(Timing {
            order,
            clock: clock_id(),
            headers: vec![[0; TIMES_BYTES]; connections],
            complete: Vec::with_capacity(plan.pipeline as usize),
            own_lags: vec![Duration::ZERO; sends],
            turn: Time::ZERO,
            told: Time::ZERO,
        })
    }

    /// Called with the begin of the present turn before anything is done in it for a reply.
    #[inline]
    pub(super) fn begin_turn(&mut self, turn: Time, lifecycle: &Lifecycle) {
        if turn == self.turn {
            return;
        }
        // After the period nothing is due, and no stall is known.
        let late = match lifecycle.phase {
            Phase::Measuring => lifecycle.stalls.late(turn),
            _ => Duration::ZERO,
        };
        (self.turn, self.told) = (turn, turn.saturating_sub(late));
    }

    /// When the loop was told of what it reads in the present turn. After a stall: when it could
    /// have been told, because a reply that came in the stall would otherwise seem to have spent it
    /// in the network.
    #[inline]
    pub(super) fn told(&self) -> Time {
        self.told
    }

    /// Takes the times out of verified input, which begins at the offset `before` of the stream.
    ///
    /// # Errors
    /// The times of a reply are not in order.
    pub(super) fn read(
        &mut self,
        index: usize,
        conversation: &Conversation,
        wire: &Wire,
        before: u64,
        input: &Chain,
    ) -> Result<(), Box<Mismatch>> {
        self.complete.clear();
        let end = before + input.len() as u64;
        let mut reply = conversation.next_reply(wire);
        loop {
            let begin = reply.begin + LENGTH_BYTES as u64;
            let (from, to) = (begin.max(before), (begin + TIMES_BYTES as u64).min(end));
            let header = &mut self.headers[index];
            if from < to {
                let place = (from - begin) as usize..(to - begin) as usize;
                let found = input.read_at((from - before) as usize, &mut header[place]);
                assert!(found, "the input has all of its bytes");
            }
            if end < reply.end() {
                return Ok(());
            }
            let times = Times::decode(header, self.order);
            if !times.are_in_order() {
                return Err(conversation.wrong_times(reply, header));
            }
            self.complete.push(times);
            reply = wire.after(conversation.stream, reply);
        }
    }

    /// The times of a reply that the present call has completed, and whether they are from this
    /// machine's clock.
    #[inline]
    pub(super) fn of(&self, nth: u64) -> (Times, bool) {
        let times = self.complete[nth as usize];
        (times, times.clock == self.clock && self.clock != 0)
    }
}
