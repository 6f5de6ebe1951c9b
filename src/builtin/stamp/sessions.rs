//! The sessions of a stateful reflector: for each, the number of its next reply. A table of fixed
//! size, of one thread. The kernel gives all packets of a session to the same thread.
//!
//! A session ends when no packet has arrived for [`IDLE_NS`]. If all places of its set are taken, a
//! new session gets no replies. Otherwise a flood of forged sources could end the sessions of
//! others, whose senders would take the new numbers for losses.

use std::hash::{BuildHasher, Hash, RandomState};
use std::net::{IpAddr, SocketAddr};

/// Sets of places. A hash selects the set.
const SETS: usize = 1024;
/// Places in a set.
const WAYS: usize = 8;

/// How long a session lasts after its last packet, in nanoseconds.
pub(super) const IDLE_NS: u64 = 60_000_000_000;

/// What tells sessions of a socket apart (RFC 8972, section 3).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Session {
    pub(super) source: SocketAddr,
    pub(super) local: Option<IpAddr>,
    pub(super) identifier: u16,
}

/// A place of the table. One that was never used has the time 0.
#[derive(Clone, Copy, Default)]
struct Place {
    hash: u64,
    /// Of the last packet, in nanoseconds since 1970.
    used_at: u64,
    next: u32,
}

pub(super) struct Sessions<H = RandomState> {
    /// Keyed at random, so that nobody can choose sessions of the same hash.
    hasher: H,
    places: Box<[Place]>,
}

impl Sessions {
    /// Memory of the table, in bytes.
    pub(super) const BYTES: u64 = (SETS * WAYS * size_of::<Place>()) as u64;
}

impl<H: BuildHasher> Sessions<H> {
    pub(super) fn new(hasher: H) -> Sessions<H> {
        let places = vec![Place::default(); SETS * WAYS].into();
        Sessions { hasher, places }
    }

    /// The number of the next reply of a session. `None` if there is no place for it.
    pub(super) fn next(&mut self, session: &Session, now: u64) -> Option<u32> {
        let hash = self.hasher.hash_one(session);
        let set = &mut self.places[(hash as usize % SETS) * WAYS..][..WAYS];
        let is_over = |place: &Place| now.abs_diff(place.used_at) >= IDLE_NS;
        let known = set.iter().position(|place| place.hash == hash && !is_over(place));
        let place = match known {
            Some(at) => &mut set[at],
            None => {
                let free = set.iter_mut().find(|place| is_over(place))?;
                free.next = 0;
                free
            }
        };
        let number = place.next;
        *place = Place { hash, used_at: now, next: number.wrapping_add(1) };
        Some(number)
    }
}
