//! A client's options ([`Options`]), its reconnect policy ([`Reconnect`]), and the states that it
//! reports ([`State`]).

use std::time::{Duration, Instant};

use super::error::Error;
use crate::base::endpoint::Endpoint;
use crate::protocol::framing::Framing;

/// Default time limit of one round over all addresses of a target. It covers two lost segments of
/// the handshake (1 s and 2 s, RFC 6298) and a round trip.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait before an attempt to connect. `Instant` can represent a time this far ahead.
const WAIT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Called on each state change, on the loop's thread.
pub(super) type OnState = Box<dyn FnMut(&State) + Send>;

/// Options of a client.
#[derive(Default)]
pub struct Options {
    pub(super) framing: Option<Framing>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) unsent: Unsent,
    pub(super) on_state: Option<OnState>,
}

impl Options {
    /// Options for a client of plain bytes that does not reconnect.
    pub fn new() -> Options {
        Options::default()
    }

    /// Sets how the stream is split into messages. A target that names a service with messages
    /// (`framed://`, `message://`) also sets the framing, and takes precedence.
    pub fn framing(mut self, framing: Framing) -> Options {
        self.framing = Some(framing);
        self
    }

    /// Sets the time limit of one round: looking up the name, and trying all addresses of the
    /// target. The default is [`CONNECT_TIMEOUT`]. If a round ends before it has tried all
    /// addresses, the next round starts with the addresses that it did not try.
    pub fn connect_timeout(mut self, timeout: Duration) -> Options {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Reconnects whenever the connection is lost or cannot be made, until
    /// [`Client::disconnect`](super::Client::disconnect).
    pub fn reconnect(mut self, reconnect: Reconnect) -> Options {
        self.reconnect = Some(reconnect);
        self
    }

    /// Sets what happens to messages that were not sent completely when the connection was lost.
    pub fn unsent(mut self, unsent: Unsent) -> Options {
        self.unsent = unsent;
        self
    }

    /// Calls `callback` on each state change, on the loop's thread. It must not block. A panic in
    /// it is logged, and it is not called again.
    pub fn on_state(mut self, callback: impl FnMut(&State) + Send + 'static) -> Options {
        self.on_state = Some(Box::new(callback));
        self
    }
}

impl std::fmt::Debug for Options {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options")
            .field("framing", &self.framing)
            .field("connect_timeout", &self.connect_timeout)
            .field("reconnect", &self.reconnect)
            .field("unsent", &self.unsent)
            .finish_non_exhaustive()
    }
}

/// What happens to a message if the connection is lost before the kernel has accepted all of it,
/// and the client reconnects. A message that the kernel has accepted is never sent twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum Unsent {
    /// The send completes with an error that states how many bytes were sent.
    #[default]
    Report,
    /// The message keeps its place and is sent again from its first byte on the next connection.
    /// The server may therefore see the start of a message on one connection and the whole message
    /// on the next.
    Keep,
}

/// How long the client waits before its next attempt to connect.
///
/// The wait is exponential back-off with full jitter, as in M. Brooker, "Exponential Backoff And
/// Jitter" (AWS Architecture Blog, 2015), but never less than the lower bound. The `n`th attempt
/// since the client was last connected waits a uniformly random time between `shortest` and
/// `shortest * 2^n`, and at most `longest`. The jitter spreads clients that lost the same server at
/// the same moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reconnect {
    shortest: Duration,
    longest: Duration,
    attempts_max: Option<u32>,
}

impl Default for Reconnect {
    /// Waits from 100 ms to 10 s, without a limit on attempts.
    fn default() -> Reconnect {
        Reconnect::between(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Reconnect {
    /// Waits at least `shortest`, which is raised to 1 ms if it is less, and at most `longest`. If
    /// both are equal, the interval is fixed. Values above a year count as a year.
    pub fn between(shortest: Duration, longest: Duration) -> Reconnect {
        let shortest = shortest.clamp(Duration::from_millis(1), WAIT_MAX);
        Reconnect { shortest, longest: longest.clamp(shortest, WAIT_MAX), attempts_max: None }
    }

    /// Gives up after this many rounds in a row, at least 1, in which no address could be connected
    /// to. A round that connects resets the count, however soon the connection is lost.
    pub fn attempts_max(mut self, attempts: u32) -> Reconnect {
        self.attempts_max = Some(attempts.max(1));
        self
    }

    /// The longest wait.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }

    /// Whether to stop after this many failed rounds in a row.
    pub(super) fn gives_up(&self, failures: u32) -> bool {
        self.attempts_max.is_some_and(|max| failures >= max)
    }

    /// The wait before this attempt; the first is number 1. `random` is from 0 to 1.
    pub(super) fn wait(&self, attempt: u32, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.min(31));
        let most = self.shortest.saturating_mul(factor).min(self.longest);
        self.shortest + (most - self.shortest).mul_f64(random)
    }
}

/// The state of a client.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// The client is looking up the name or trying its addresses.
    Connecting,
    /// The connection is open.
    Connected {
        /// The address that the client is connected to.
        address: Endpoint,
    },
    /// The connection was lost or could not be made; the client is waiting for its next attempt.
    Waiting {
        /// When the next attempt starts.
        until: Instant,
        /// Number of the next attempt, counted from 1 since the client was last connected for a
        /// while.
        attempt: u32,
        /// The error that ended the last connection or attempt.
        why: Error,
    },
    /// There is no connection, and the client does not reconnect by itself.
    Closed {
        /// The reason; [`Error::Cancelled`] if the caller closed it.
        why: Error,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::base::property::config())]

        #[test]
        fn a_wait_is_between_the_bounds_and_its_most_doubles(
            shortest in 1..5_000_u64,
            times in 1..10_000_u64,
            attempt in 1..100_u32,
            random in 0.0..=1.0,
        ) {
            let (low, high) = (Duration::from_millis(shortest), Duration::from_millis(shortest * times));
            let wait = Reconnect::between(low, high).wait(attempt, random);
            prop_assert!(low <= wait && wait <= high, "{wait:?}");
            let most = low.saturating_mul(2_u32.saturating_pow(attempt)).min(high);
            prop_assert!(wait <= most, "{wait:?} before {attempt}");
        }
    }

    #[test]
    fn it_gives_up_after_as_many_attempts_as_were_said() {
        let three = Reconnect::default().attempts_max(3);
        assert_eq!([2, 3, u32::MAX].map(|failures| three.gives_up(failures)), [false, true, true]);
        assert!(!Reconnect::default().gives_up(u32::MAX));
    }

    #[test]
    fn equal_bounds_are_a_fixed_interval() {
        let second = Duration::from_secs(1);
        for attempt in 1..40 {
            let wait = Reconnect::between(second, second).wait(attempt, 0.7);
            assert_eq!(wait, second);
        }
    }

    #[test]
    fn no_duration_is_too_long() {
        let for_ever = Reconnect::between(Duration::MAX, Duration::MAX);
        assert_eq!(for_ever.wait(u32::MAX, 1.0), WAIT_MAX);
        let _ = Instant::now() + Reconnect::between(Duration::ZERO, Duration::MAX).wait(40, 1.0);
    }
}
