//! The session reflector of STAMP (RFC 8762, with the session identifiers and extensions of RFC
//! 8972): sends test packets back with the times at which they arrived and left. Clients of TWAMP
//! Light (RFC 5357, appendix I) get replies too.
//!
//! Sessions need no configuration. A stateless reflector stores nothing per session. A stateful one
//! stores the number of its next reply (`sessions`), which shows a sender in which direction a
//! packet was lost.

use std::hash::{BuildHasher, RandomState};

use super::Discard;
use super::option::{About, Allowed, Options, Value, declare, options};
use crate::config::Limits;
use crate::engine::sys::{ClockError, clock_error, unix_now_ns};
use crate::protocol::stamp::{self, ErrorEstimate, Format, Reflection};
use crate::service::{Arrival, DatagramService, ServiceFactory, ServicePlan};
use sessions::{Session, Sessions};

mod sessions;
#[cfg(test)]
mod tests;

/// How long the error of the clock is used after it was read, in nanoseconds.
const ERROR_NS: u64 = 1_000_000_000;

options! {
    /// Options of the reflector.
    #[derive(Copy)]
    pub struct StampOptions {
        /// Whether the replies of each session are numbered on their own. Otherwise a reply has the
        /// number of its packet. Default: no.
        pub stateful: bool = false, "stateful" = "WHETHER", Words(&["on", "off"]),
            "whether the replies of each session have numbers of their own";
    }
    impl {
        fn has_flags(&self) -> bool {
            false
        }
    }
}

/// The clock of the times in test packets.
pub(crate) trait Clock {
    /// Nanoseconds since 1970.
    fn unix_now_ns(&self) -> u64;

    /// How far it may be wrong.
    fn error(&self) -> ClockError;
}

/// The wall clock of the system.
pub(crate) struct WallClock;

impl Clock for WallClock {
    fn unix_now_ns(&self) -> u64 {
        unix_now_ns()
    }

    fn error(&self) -> ClockError {
        clock_error()
    }
}

/// Sends test packets back.
pub(crate) struct Stamp<C = WallClock, H = RandomState> {
    clock: C,
    sessions: Option<Sessions<H>>,
    error: ErrorEstimate,
    /// When it was read, in nanoseconds since 1970.
    error_at: u64,
}

impl<C: Clock, H: BuildHasher> Stamp<C, H> {
    pub(crate) fn new(options: StampOptions, clock: C, hasher: H) -> Stamp<C, H> {
        let sessions = options.stateful.then(|| Sessions::new(hasher));
        let unknown = ErrorEstimate { is_synchronized: false, format: Format::Ntp, error_ns: 0 };
        Stamp { clock, sessions, error: unknown, error_at: 0 }
    }

    /// The error of the clock, as it was a second ago at most.
    fn error(&mut self, now: u64) -> ErrorEstimate {
        if now.abs_diff(self.error_at) >= ERROR_NS {
            let ClockError { is_synchronized, error_ns } = self.clock.error();
            self.error = ErrorEstimate { is_synchronized, error_ns, ..self.error };
            self.error_at = now;
        }
        self.error
    }
}

impl<C: Clock, H: BuildHasher> DatagramService for Stamp<C, H> {
    fn reply(&mut self, packet: &mut [u8], arrival: Arrival<'_>) -> Option<usize> {
        let session = stamp::session(packet)?;
        let now = self.clock.unix_now_ns();
        let number = match &mut self.sessions {
            Some(sessions) => {
                let (source, local) = (arrival.source(), arrival.local());
                sessions.next(&Session { source, local, identifier: session }, now)?
            }
            None => stamp::number(packet),
        };
        let reflection = Reflection {
            number,
            hop_limit: arrival.hop_limit().unwrap_or(0),
            // Without a time of the kernel, which a clock that is set back can make a later one.
            received_unix_ns: arrival.received_unix_ns().unwrap_or(now).min(now),
            sent_unix_ns: now,
            error: self.error(now),
        };
        reflection.write(packet);
        Some(packet.len())
    }

    fn needs_times(&self) -> bool {
        true
    }

    fn memory_bytes(&self) -> u64 {
        self.sessions.as_ref().map_or(0, |_| Sessions::BYTES)
    }
}

/// There are no connections. A listener of connections with this service discards what it receives.
impl ServiceFactory for StampOptions {
    type Service = Discard;

    fn datagrams(&self, _: usize) -> Option<Box<dyn DatagramService + Send>> {
        Some(Box::new(Stamp::new(*self, WallClock, RandomState::new())))
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Discard> {
        Discard.plan(limits)
    }
}
