//! The directory of a server's connections. Each worker writes its own part of the [`Directory`],
//! and any thread may read it without waiting.

use std::net::{Ipv6Addr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use bytemuck::allocation::zeroed_slice_box;

use crate::base::endpoint::Peer;
use crate::base::key::{ConnectionId, LISTENERS_MAX};
use crate::base::time::Time;

/// A connected client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ClientInfo {
    /// Its id: never 0, and never given to another client.
    pub id: ConnectionId,
    /// Its address, with IPv4-mapped addresses shown as IPv4, or its process.
    pub peer: Peer,
    /// The index of its listener in [`Config::listen`](crate::Config::listen).
    pub listener: usize,
    /// When it was connected or, behind a byte layer such as TLS, when its peer was known.
    pub since: Time,
    /// The number that its service has stored with it, see
    /// [`Connection::set_user_data`](crate::service::Connection::set_user_data). Initially 0.
    pub user_data: u64,
    /// Its group, see [`Connection::set_group`](crate::service::Connection::set_group). Initially
    /// 0.
    pub group: u64,
}

/// One entry: the id, the peer in 16 bytes, and what is left of the peer with the listener. All
/// zero if the entry is empty. A TCP peer has its address in the 16 bytes, and then its port (16
/// bits), the listener (15) and the scope (32). A process has its user and group in the 16 bytes,
/// and then [`UNIX`], the listener and its process id. The last number is the time of the entry.
type Entry = [AtomicU64; 5];

/// Marks an entry whose peer is a process.
const UNIX: u64 = 1 << 31;

const _: () = assert!(LISTENERS_MAX <= 1 << 15);

/// The connections of a server. Each worker writes its own part, and any thread may read all of it.
pub struct Directory {
    parts: Box<[Part]>,
}

struct Part {
    entries: Box<[Entry]>,
    /// User data and group of each slot, as set by services. In an array of its own that is only
    /// written if a value is not 0, so that it takes no resident memory if no service sets
    /// anything.
    values: Box<[[AtomicU64; 2]]>,
    /// One more than the highest slot that was ever used.
    used: AtomicU32,
}

impl Directory {
    /// Memory per slot and worker, in bytes.
    pub(crate) const BYTES_PER_SLOT: usize = size_of::<Entry>() + size_of::<[AtomicU64; 2]>();

    pub(crate) fn new(workers: usize, slots: usize) -> Arc<Directory> {
        // Zeroed pages from the system: slots that are never used take no resident memory.
        let part = |_| Part {
            entries: zeroed_slice_box(slots),
            values: zeroed_slice_box(slots),
            used: AtomicU32::new(0),
        };
        Arc::new(Directory { parts: (0..workers).map(part).collect() })
    }

    /// Adds a connection. Only its worker may call this.
    pub(crate) fn enter(&self, id: ConnectionId, peer: Peer, listener: u64, now: Time) {
        let part = &self.parts[id.worker()];
        let [number, high, low, rest, since] = &part.entries[id.slot() as usize];
        number.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        let (bits, low_rest, high_rest) = match peer {
            Peer::Tcp(SocketAddr::V4(v4)) => (v4.ip().to_ipv6_mapped().to_bits(), v4.port(), 0),
            Peer::Tcp(SocketAddr::V6(v6)) => (v6.ip().to_bits(), v6.port(), v6.scope_id()),
            Peer::Unix { pid, uid, gid } => (u128::from(uid) << 64 | u128::from(gid), 0, pid),
        };
        let mark = if matches!(peer, Peer::Unix { .. }) { UNIX } else { 0 };
        high.store((bits >> 64) as u64, Ordering::Relaxed);
        low.store(bits as u64, Ordering::Relaxed);
        let low_rest = u64::from(low_rest) | (listener & 0x7FFF) << 16 | mark;
        rest.store(low_rest | u64::from(high_rest) << 32, Ordering::Relaxed);
        since.store(now.as_nanos(), Ordering::Relaxed);
        number.store(id.to_bits(), Ordering::Release);
        part.used.fetch_max(id.slot() + 1, Ordering::Release);
    }

    /// Sets since when a connection has existed. Only its worker may call this.
    pub(crate) fn set_since(&self, id: ConnectionId, since: Time) {
        let [.., to] = &self.parts[id.worker()].entries[id.slot() as usize];
        to.store(since.as_nanos(), Ordering::Relaxed);
    }

    /// Since when a connection has existed that is in the directory.
    pub(crate) fn since(&self, id: ConnectionId) -> Time {
        let [.., since] = &self.parts[id.worker()].entries[id.slot() as usize];
        Time::from_nanos(since.load(Ordering::Relaxed))
    }

    /// Removes a connection. Only its worker may call this.
    pub(crate) fn leave(&self, id: ConnectionId) {
        self.parts[id.worker()].entries[id.slot() as usize][0].store(0, Ordering::Release);
        for value in [USER_DATA, GROUP] {
            if self.value(id, value) != 0 {
                self.set_value(id, value, 0);
            }
        }
    }

    /// A value that the service has set for a connection in the directory.
    pub(crate) fn value(&self, id: ConnectionId, value: ClientValue) -> u64 {
        self.parts[id.worker()].values[id.slot() as usize][value.0].load(Ordering::Relaxed)
    }

    /// Sets a value. Only the connection's worker may call this.
    pub(crate) fn set_value(&self, id: ConnectionId, value: ClientValue, to: u64) {
        let values = &self.parts[id.worker()].values[id.slot() as usize];
        values[value.0].store(to, Ordering::Release);
    }

    /// Whether the connection is in the directory.
    pub fn has(&self, id: ConnectionId) -> bool {
        let entry = self.parts.get(id.worker()).and_then(|p| p.entries.get(id.slot() as usize));
        entry.is_some_and(|entry| entry[0].load(Ordering::Acquire) == id.to_bits() && id.0 != 0)
    }

    /// The first connection at or after position `from`, with its position, in the order of workers
    /// and slots. Positions start at 0.
    pub fn next(&self, from: u64) -> Option<(u64, ClientInfo)> {
        let (first, mut slot) = ((from >> 32) as usize, from as u32);
        for worker in first..self.parts.len() {
            let part = &self.parts[worker];
            let used = part.used.load(Ordering::Acquire);
            while slot < used {
                if let Some(client) = part.read(slot as usize) {
                    return Some(((worker as u64) << 32 | u64::from(slot), client));
                }
                slot += 1;
            }
            slot = 0;
        }
        None
    }

    /// Whether a worker has had connections.
    pub(crate) fn any(&self, worker: usize) -> bool {
        self.parts[worker].used.load(Ordering::Acquire) > 0
    }

    /// How many connections a worker has, of one listener or of all.
    pub(crate) fn count(&self, worker: usize, listener: Option<usize>) -> u64 {
        let part = &self.parts[worker];
        let used = part.used.load(Ordering::Acquire) as usize;
        let there = |[number, .., rest, _]: &&Entry| {
            let of = || listener_of(rest.load(Ordering::Relaxed));
            number.load(Ordering::Relaxed) != 0 && listener.is_none_or(|one| one == of())
        };
        part.entries[..used].iter().filter(there).count() as u64
    }

    /// All connections.
    pub(crate) fn list(&self) -> Vec<ClientInfo> {
        let mut from = 0;
        std::iter::from_fn(|| {
            let (place, client) = self.next(from)?;
            from = place + 1;
            Some(client)
        })
        .collect()
    }
}

/// The listener in the last number of the peer.
fn listener_of(rest: u64) -> usize {
    (rest >> 16) as usize & 0x7FFF
}

/// Selects one of the values that a service sets.
#[derive(Clone, Copy)]
pub(crate) struct ClientValue(usize);

pub(crate) const USER_DATA: ClientValue = ClientValue(0);
pub(crate) const GROUP: ClientValue = ClientValue(1);

impl Part {
    /// The client in a slot. `None` if the slot is empty or being written.
    fn read(&self, slot: usize) -> Option<ClientInfo> {
        let [number, high, low, rest, since] = &self.entries[slot];
        let id = number.load(Ordering::Acquire);
        let (high, low) = (high.load(Ordering::Relaxed), low.load(Ordering::Relaxed));
        let (rest, since) = (rest.load(Ordering::Relaxed), since.load(Ordering::Relaxed));
        let [user_data, group] = &self.values[slot];
        let (user_data, group) = (user_data.load(Ordering::Acquire), group.load(Ordering::Acquire));
        fence(Ordering::Acquire);
        // Ids are never reused, so the same id means that the address was not overwritten in
        // between.
        if id == 0 || number.load(Ordering::Relaxed) != id {
            return None;
        }
        let high_rest = (rest >> 32) as u32;
        let peer = if rest & UNIX != 0 {
            Peer::Unix { pid: high_rest, uid: high as u32, gid: low as u32 }
        } else {
            let ip = Ipv6Addr::from_bits(u128::from(high) << 64 | u128::from(low));
            SocketAddr::from(SocketAddrV6::new(ip, rest as u16, 0, high_rest)).into()
        };
        let (id, listener) = (ConnectionId(id), listener_of(rest));
        Some(ClientInfo { id, peer, listener, since: Time::from_nanos(since), user_data, group })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(worker: u64, slot: u64, generation: u64) -> ConnectionId {
        ConnectionId(slot | worker << 24 | generation << 30)
    }

    #[test]
    fn who_is_entered_is_listed_with_its_address_until_it_leaves() {
        let directory = Directory::new(2, 8);
        let tcp = |address: &str| Peer::from(address.parse::<SocketAddr>().unwrap());
        let unix = Peer::Unix { pid: u32::MAX, uid: 0, gid: u32::MAX - 1 };
        let peers = [tcp("127.0.0.1:9"), tcp("[::1]:65535"), tcp("[fe80::1%7]:1"), unix];
        let ids = [id(0, 3, 1), id(1, 0, 1), id(1, 6, 9), id(1, 7, 9)];
        for (&id, &peer) in ids.iter().zip(&peers) {
            directory.enter(id, peer, LISTENERS_MAX as u64 - 1, Time::from_nanos(id.to_bits()));
        }
        let listed: Vec<_> =
            directory.list().iter().map(|client| (client.id, client.peer)).collect();
        assert_eq!(listed, ids.into_iter().zip(peers).collect::<Vec<_>>());
        assert!(directory.list().iter().all(|client| client.listener == LISTENERS_MAX - 1));
        assert!(directory.list().iter().all(|client| client.since.as_nanos() == client.id.0));
        directory.set_value(ids[1], USER_DATA, 7);
        directory.set_value(ids[1], GROUP, 9);
        let client = directory.next(1 << 32).unwrap().1;
        assert_eq!((client.id, client.user_data, client.group), (ids[1], 7, 9));
        directory.leave(ids[1]);
        let next = id(1, 0, 2);
        directory.enter(next, peers[0], 2, Time::ZERO);
        assert_eq!(directory.value(next, USER_DATA) + directory.value(next, GROUP), 0);
        directory.leave(next);
        assert!(!directory.has(ids[1]) && directory.has(ids[0]) && directory.has(ids[2]));
        assert_eq!(directory.list().len(), 3);
    }

    #[test]
    fn an_id_of_an_earlier_use_of_a_slot_or_of_nowhere_is_nobodys() {
        let directory = Directory::new(1, 2);
        directory.enter(id(0, 1, 2), SocketAddr::from(([127, 0, 0, 1], 9)).into(), 0, Time::ZERO);
        assert!(directory.has(id(0, 1, 2)));
        for stranger in [id(0, 1, 1), id(0, 0, 1), id(0, 9, 1), id(5, 1, 2), ConnectionId(0)] {
            assert!(!directory.has(stranger), "{stranger}");
        }
    }
}
