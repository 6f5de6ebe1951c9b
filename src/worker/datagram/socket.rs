//! What a thread for datagrams needs of the system. The kernel gives it by a file descriptor, and the
//! simulated world by a socket of its own.

use std::hash::{BuildHasher, RandomState};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use crate::base::time::Time;
use crate::engine::sys::monotonic_now;
use crate::net::message_calls::MessageCalls;
use crate::net::sockopt::{datagrams_dropped, knows_segments};

/// A socket for datagrams, and the clock beside it.
pub(crate) trait Socket: MessageCalls {
    /// Hashes the sources of datagrams.
    type Hasher: BuildHasher;

    /// Ends the receive that waits in the socket, and each later one.
    fn shut_down(&self);

    /// How many datagrams the system has dropped at the socket, also before it was this thread's. The
    /// number wraps around. `None` if the system does not tell.
    fn dropped(&self) -> Option<u32>;

    /// Whether the system knows messages of several datagrams (UDP_SEGMENT).
    fn knows_segments(&self) -> bool;

    /// The time of a clock that is never set.
    fn now(&self) -> Time;

    /// Lets time pass.
    fn pause(&self, time: Duration);
}

impl Socket for OwnedFd {
    /// Keyed at random, so that nobody can choose sources of the same hash.
    type Hasher = RandomState;

    fn shut_down(&self) {
        // Linux says ENOTCONN, and wakes the receive nevertheless, now and for good (inet_shutdown
        // in net/ipv4/af_inet.c).
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Both);
    }

    fn dropped(&self) -> Option<u32> {
        datagrams_dropped(self)
    }

    fn knows_segments(&self) -> bool {
        knows_segments(self)
    }

    #[inline]
    fn now(&self) -> Time {
        monotonic_now()
    }

    fn pause(&self, time: Duration) {
        thread::sleep(time);
    }
}
