//! How many connections each address has, for the limit of connections per address.
//!
//! The workers share one table behind a mutex, which is taken for a few steps when a connection is
//! accepted or freed, and only if there is a limit. Each connection has room in the table from the
//! start. The hash has a random key, so that clients cannot choose addresses that share a list.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytemuck::allocation::try_zeroed_slice_box;

use crate::base::endpoint::Peer;

/// Stands for the absence of an entry.
const NONE: u32 = 0;

/// The connections of each address.
pub(crate) struct Addresses {
    most: AtomicU32,
    hasher: RandomState,
    table: Mutex<Table>,
}

/// Lists of entries by hash. Entry 0 is not used.
struct Table {
    /// The first entry of each list. The length is a power of two.
    heads: Box<[u32]>,
    keys: Box<[u128]>,
    /// Connections of each entry.
    counts: Box<[u32]>,
    /// The next entry of the list, or the next free entry.
    nexts: Box<[u32]>,
    free: u32,
    /// Entries from this number on were never used.
    unused: u32,
}

impl Addresses {
    /// Memory in bytes for this many connections.
    pub(crate) fn bytes(connections: u32) -> u64 {
        let entries = u64::from(connections) + 1;
        let heads = u64::from(connections.next_power_of_two());
        let entry = size_of::<u128>() + 2 * size_of::<u32>();
        heads * size_of::<u32>() as u64 + entries * entry as u64
    }

    /// Allows each address `most` connections. There may be `connections` in all.
    ///
    /// # Errors
    /// There is not enough memory.
    pub(crate) fn new(most: u32, connections: u32) -> io::Result<Addresses> {
        let entries = connections as usize + 1;
        let make = || -> Result<Table, ()> {
            Ok(Table {
                heads: try_zeroed_slice_box(connections.next_power_of_two() as usize)?,
                keys: try_zeroed_slice_box(entries)?,
                counts: try_zeroed_slice_box(entries)?,
                nexts: try_zeroed_slice_box(entries)?,
                free: NONE,
                unused: NONE + 1,
            })
        };
        let table = make().map_err(|()| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Addresses {
            most: AtomicU32::new(most),
            hasher: RandomState::new(),
            table: Mutex::new(table),
        })
    }

    /// Changes how many connections an address may have. Those above it stay.
    pub(crate) fn set_most(&self, most: u32) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// Counts a connection of this peer. Returns its place, which [`leave`](Self::leave) takes
    /// back, or `None` if the address has as many connections as it may have.
    pub(crate) fn enter(&self, peer: Peer) -> Option<NonZeroU32> {
        let key = key_of(peer);
        let mut table = self.lock();
        let head = self.head(&table, key);
        let mut at = table.heads[head];
        while at != NONE && table.keys[at as usize] != key {
            at = table.nexts[at as usize];
        }
        if at == NONE {
            at = table.add(head, key);
        }
        let count = &mut table.counts[at as usize];
        if *count >= self.most.load(Ordering::Relaxed) {
            return None;
        }
        *count += 1;
        NonZeroU32::new(at)
    }

    /// Records that the connection that [`enter`](Self::enter) counted at this place has been
    /// closed.
    pub(crate) fn leave(&self, place: NonZeroU32) {
        let (mut table, place) = (self.lock(), place.get());
        table.counts[place as usize] -= 1;
        if table.counts[place as usize] == 0 {
            let head = self.head(&table, table.keys[place as usize]);
            table.remove(head, place);
        }
    }

    fn head(&self, table: &Table, key: u128) -> usize {
        self.hasher.hash_one(key) as usize & (table.heads.len() - 1)
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // Nothing panics while the table is locked.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Adds an entry for this key, of no connection yet.
    fn add(&mut self, head: usize, key: u128) -> u32 {
        let at = match self.free {
            NONE => {
                self.unused += 1;
                self.unused - 1
            }
            free => {
                self.free = self.nexts[free as usize];
                free
            }
        };
        self.keys[at as usize] = key;
        self.nexts[at as usize] = self.heads[head];
        self.heads[head] = at;
        at
    }

    /// Frees an entry.
    fn remove(&mut self, head: usize, at: u32) {
        let next = self.nexts[at as usize];
        if self.heads[head] == at {
            self.heads[head] = next;
        } else {
            let mut before = self.heads[head] as usize;
            while self.nexts[before] != at {
                before = self.nexts[before] as usize;
            }
            self.nexts[before] = next;
        }
        self.nexts[at as usize] = self.free;
        self.free = at;
    }
}

/// What is counted as one address: an IPv4 address; the /64 network of an IPv6 address, because a
/// host usually has all of it; a link-local IPv6 address with its interface, because one /64 has
/// all hosts of a link; the user of a process at a Unix socket.
fn key_of(peer: Peer) -> u128 {
    const NETWORK: u128 = !0 << 64;
    let address = match peer {
        Peer::Tcp(address) => address,
        // No connection comes from a multicast address, so no network has these bits.
        Peer::Unix { uid, .. } => return NETWORK | u128::from(uid),
    };
    let scope = match address {
        SocketAddr::V6(v6) => v6.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().to_bits(),
        // Bits 64 to 117 of a link-local address are zero, so there is room for the interface.
        IpAddr::V6(ip) if ip.is_unicast_link_local() => ip.to_bits() | u128::from(scope) << 64,
        IpAddr::V6(Ipv6Addr::LOCALHOST) => Ipv6Addr::LOCALHOST.to_bits(),
        IpAddr::V6(ip) => ip.to_bits() & NETWORK,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::collections::HashMap;

    use super::*;

    fn peer(address: &str) -> Peer {
        Peer::Tcp(address.parse::<SocketAddr>().unwrap())
    }

    #[test]
    fn what_is_one_address() {
        let same = |a, b| key_of(peer(a)) == key_of(peer(b));
        assert!(same("192.0.2.1:1", "192.0.2.1:2"));
        assert!(same("192.0.2.1:1", "[::ffff:192.0.2.1]:2"));
        assert!(!same("192.0.2.1:1", "192.0.2.2:1"));
        assert!(same("[2001:db8:0:1::1]:1", "[2001:db8:0:1:ffff::9]:2"));
        assert!(!same("[2001:db8:0:1::1]:1", "[2001:db8:0:2::1]:1"));
        assert!(!same("[fe80::1%1]:1", "[fe80::2%1]:1"));
        assert!(!same("[fe80::1%1]:1", "[fe80::1%2]:1"));
        assert!(same("[fe80::1%2]:1", "[fe80::1%2]:2"));
        assert!(!same("[::1]:1", "127.0.0.1:1"));
    }

    #[test]
    fn all_processes_of_a_user_are_one_address() {
        let key = |pid, uid, gid| key_of(Peer::Unix { pid, uid, gid });
        assert_eq!(key(1, 1000, 5), key(2, 1000, 6));
        assert_ne!(key(1, 1000, 5), key(1, 1001, 5));
        assert_ne!(key(0, 0, 0), key_of(peer("[::]:0")));
    }

    proptest! {
        #![proptest_config(crate::base::property::config())]

        /// Compares with a map: the limit holds exactly, whatever connections come and go.
        #[test]
        fn each_address_has_at_most_its_limit(
            most in 1u32..4,
            connections in 1u32..40,
            steps in prop::collection::vec((any::<bool>(), 0u8..12), 0..300),
        ) {
            let addresses = Addresses::new(most, connections).unwrap();
            let mut open: Vec<(u8, NonZeroU32)> = Vec::new();
            let mut counts: HashMap<u8, u32> = HashMap::new();
            for (enters, who) in steps {
                if enters && open.len() < connections as usize {
                    let place = addresses.enter(Peer::Tcp(SocketAddr::from(([10, 0, 0, who], 1))));
                    let count = counts.entry(who).or_default();
                    prop_assert_eq!(place.is_some(), *count < most);
                    if let Some(place) = place {
                        *count += 1;
                        open.push((who, place));
                    }
                } else if !open.is_empty() {
                    let (who, place) = open.swap_remove(who as usize % open.len());
                    addresses.leave(place);
                    *counts.get_mut(&who).unwrap() -= 1;
                }
            }
            for (_, place) in open {
                addresses.leave(place);
            }
            let table = addresses.lock();
            prop_assert!(table.heads.iter().all(|&head| head == NONE), "an entry stays");
            prop_assert!(table.unused <= connections + 1);
        }
    }
}
