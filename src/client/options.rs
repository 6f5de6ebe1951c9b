//! What a client is asked to be ([`Options`]), how it connects again ([`Reconnect`]), and what it
//! says of itself ([`State`]).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::error::Error;
use crate::protocol::framing::Framing;

/// How long one round over all addresses of a target may take by default: two lost segments of the
/// handshake (1 s and 2 s, RFC 6298), and a round trip.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest wait before an attempt to connect: an `Instant` so far away can be told.
const WAIT_MAX: Duration = Duration::from_secs(365 * 86_400);

/// Told of each change of state, on the loop's thread.
pub(super) type OnState = Box<dyn FnMut(&State) + Send>;

/// What a client is asked to be.
#[derive(Default)]
pub struct Options {
    pub(super) framing: Option<Framing>,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) reconnect: Option<Reconnect>,
    pub(super) unsent: Unsent,
    pub(super) on_state: Option<OnState>,
}

impl Options {
    /// A client of plain bytes that does not connect again.
    pub fn new() -> Options {
        Options::default()
    }

    /// How the stream is cut into messages. A target that names a service with messages
    /// (`framed://`, `message://`) sets it too, and then that is the one.
    pub fn framing(mut self, framing: Framing) -> Options {
        self.framing = Some(framing);
        self
    }

    /// How long one round may take: looking up the name, and trying all addresses of the target. The
    /// default is [`CONNECT_TIMEOUT`]. If a round ends before it has tried all addresses, the next
    /// round begins with those that it did not try.
    pub fn connect_timeout(mut self, timeout: Duration) -> Options {
        self.connect_timeout = Some(timeout);
        self
    }

    /// Connects again whenever the connection is lost or could not be made, until it is
    /// disconnected.
    pub fn reconnect(mut self, reconnect: Reconnect) -> Options {
        self.reconnect = Some(reconnect);
        self
    }

    /// What becomes of messages that had not been sent completely when the connection was lost.
    pub fn unsent(mut self, unsent: Unsent) -> Options {
        self.unsent = unsent;
        self
    }

    /// Has `callback` called at each change of state, on the loop's thread. It must not block. A
    /// panic in it is logged, and it is not called again.
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

/// What becomes of a message that had not been handed to the kernel completely when the connection
/// was lost, if the client connects again. One that had been is never sent twice.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Unsent {
    /// Its send completes with an error that says how many bytes went out.
    #[default]
    Report,
    /// It is kept, and sent again from its first byte on the next connection, in its place. So the
    /// server may see the begin of a message twice, on two connections, but one of them whole.
    Keep,
}

/// How long is waited before the next attempt to connect.
///
/// It is exponential back-off with full jitter, as in M. Brooker, "Exponential Backoff And Jitter"
/// (AWS Architecture Blog, 2015), but never less than the lower bound. Before the `n`th attempt
/// since the client was last connected it waits between `shortest` and `shortest * 2^n`, the latter
/// not above `longest`, all equally likely. The jitter spreads the clients that lost the same
/// server at the same moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reconnect {
    shortest: Duration,
    longest: Duration,
    attempts_max: Option<u32>,
}

impl Default for Reconnect {
    /// From 100 ms to 10 s, without end.
    fn default() -> Reconnect {
        Reconnect::between(Duration::from_millis(100), Duration::from_secs(10))
    }
}

impl Reconnect {
    /// Waits at least `shortest`, which is 1 ms or more, and at most `longest`. If they are the
    /// same, it is always that. More than a year counts as a year.
    pub fn between(shortest: Duration, longest: Duration) -> Reconnect {
        let shortest = shortest.clamp(Duration::from_millis(1), WAIT_MAX);
        Reconnect { shortest, longest: longest.clamp(shortest, WAIT_MAX), attempts_max: None }
    }

    /// Gives up after this many rounds in a row in which no address could be connected to, at least
    /// 1. A round that connected begins the count anew, however soon the connection was lost.
    pub fn attempts_max(mut self, attempts: u32) -> Reconnect {
        self.attempts_max = Some(attempts.max(1));
        self
    }

    /// The longest wait.
    pub(super) fn longest(&self) -> Duration {
        self.longest
    }

    /// Whether no further attempt is to be made after so many that failed.
    pub(super) fn gives_up(&self, failures: u32) -> bool {
        self.attempts_max.is_some_and(|max| failures >= max)
    }

    /// How long to wait before this attempt, the first of which is 1. `random` is from 0 to 1.
    pub(super) fn wait(&self, attempt: u32, random: f64) -> Duration {
        let factor = 2_u32.saturating_pow(attempt.min(31));
        let most = self.shortest.saturating_mul(factor).min(self.longest);
        self.shortest + (most - self.shortest).mul_f64(random)
    }
}

/// What a client is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum State {
    /// The name is looked up and its addresses are tried.
    Connecting,
    /// The connection is there.
    Connected {
        /// The address that answered.
        address: SocketAddr,
    },
    /// The connection was lost or not made; the next attempt is waited for.
    Waiting {
        /// When it is made.
        until: Instant,
        /// Which it will be, from 1, since the client was last connected for a while.
        attempt: u32,
        /// What the last connection or attempt ended with.
        why: Error,
    },
    /// There is no connection, and none will be made by itself.
    Closed {
        /// Why; [`Error::Cancelled`] if it was asked for.
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
