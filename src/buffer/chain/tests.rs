//! Tests of chains: a chain is a queue of bytes under any operations, and loses no buffer.

use proptest::prelude::*;

use super::*;
use crate::buffer::Reserve;
use crate::buffer::lease::tests::{SIZE, lease_of, pool};

fn bytes_of(chain: &Chain) -> Vec<u8> {
    chain.slices().flatten().copied().collect()
}

#[test]
fn bytes_are_copied_behind_the_last_lease_if_there_is_room() {
    let pool = pool(1);
    let mut chain = Chain::new(&pool);
    assert!(!chain.extend_last(b"x"));
    let mut lease = pool.lease().unwrap();
    lease.extend_from_slice(b"abcde");
    chain.push_back(lease);
    assert!(!chain.extend_last(b"four") && chain.extend_last(b"fgh"));
    assert_eq!((chain.first_slice(), chain.len()), (&b"abcdefgh"[..], 8));
    assert_eq!(chain.to_vec(), b"abcdefgh");
}

#[test]
fn the_room_behind_a_chain_is_that_of_its_last_lease_and_a_shared_buffer_has_none() {
    let pool = Pool::with_references(Reserve::new(SIZE, 3).unwrap(), 0, 1);
    let mut chain = Chain::new(&pool);
    assert_eq!(chain.room_behind(), 0, "no lease");
    chain.push_back(lease_of(&pool, b"ab"));
    chain.push_back(lease_of(&pool, b"cdefg"));
    assert_eq!(chain.room_behind(), SIZE - 5);
    let shared = Shared::from(lease_of(&pool, b"hi"));
    assert!(chain.push_shared(&shared, 0..2));
    assert_eq!(chain.room_behind(), 0, "others refer to it");
    assert!(!chain.extend_last(b"x"));
    assert_eq!((bytes_of(&chain), shared.filled()), (b"abcdefghi".to_vec(), &b"hi"[..]));
}

#[test]
fn the_first_lease_is_taken_unless_it_is_shared() {
    let pool = Pool::with_references(Reserve::new(SIZE, 2).unwrap(), 0, 1);
    let mut chain = Chain::new(&pool);
    assert!(chain.pop_own().is_none(), "there is none");
    chain.push_back(lease_of(&pool, b"own"));
    let shared = Shared::from(lease_of(&pool, b"shared"));
    assert!(chain.push_shared(&shared, 0..6));
    assert_eq!(chain.pop_own().expect("the first is the chain's own").filled(), b"own");
    assert!(chain.pop_own().is_none(), "it is shared");
    assert_eq!(bytes_of(&chain), b"shared");
}

#[test]
fn a_chain_gives_its_buffers_back_when_dropped() {
    let pool = pool(3);
    let mut chain = Chain::new(&pool);
    chain.push_back(lease_of(&pool, b"one"));
    chain.push_back(lease_of(&pool, b"two"));
    chain.push_back(pool.lease().unwrap());
    assert_eq!(
        (chain.leases(), chain.len(), pool.held()),
        (2, 6, 2),
        "an empty lease is no part of a chain"
    );
    assert_eq!(chain.to_vec(), b"onetwo");
    drop(chain);
    assert_eq!(pool.held(), 0);
}

#[test]
fn absorbing_single_bytes_fills_buffers_instead_of_holding_one_for_each() {
    let pool = pool(4);
    let mut chain = Chain::new(&pool);
    for byte in 0..21u8 {
        let mut arrived = Chain::new(&pool);
        let mut lease = lease_of(&pool, &[0xFF, byte]);
        lease.consume(1);
        arrived.push_back(lease);
        chain.absorb(&mut arrived);
    }
    assert_eq!(bytes_of(&chain), (0..21).collect::<Vec<_>>());
    assert_eq!(chain.leases(), 3, "full but for the first byte");
}

/// What is left of a buffer whose front is sent as part of a shared buffer.
fn rest_of_shared(pool: &Pool, bytes: &[u8], sent: usize) -> (Chain, Chain) {
    let shared = Shared::from(lease_of(pool, bytes));
    let (mut front, mut rest) = (Chain::new(pool), Chain::new(pool));
    assert!(front.push_shared(&shared, 0..sent));
    assert!(rest.push_shared(&shared, sent..bytes.len()));
    (front, rest)
}

#[test]
fn bytes_are_absorbed_behind_the_rest_of_a_shared_buffer_when_the_others_are_gone() {
    let pool = Pool::with_references(Reserve::new(SIZE, 2).unwrap(), 0, 2);
    let (front, mut rest) = rest_of_shared(&pool, b"abcde", 3);
    rest.absorb(&mut Chain::from(lease_of(&pool, b"f")));
    assert_eq!((bytes_of(&rest), rest.leases()), (b"def".to_vec(), 2), "it is shared");
    drop((front, rest));
    let (front, mut rest) = rest_of_shared(&pool, b"abcde", 3);
    drop(front);
    rest.absorb(&mut Chain::from(lease_of(&pool, b"fgh")));
    assert_eq!((bytes_of(&rest), rest.leases()), (b"defgh".to_vec(), 1));
    assert_eq!((pool.held(), pool.references_in_use()), (1, 0));
    drop(rest);
    assert_eq!((pool.held(), pool.available()), (0, 2));
}

/// A client whose messages never end where its sends do holds one buffer for ever, and not two
/// whenever the first is used up to its end.
#[test]
fn a_short_rest_moves_to_the_beginning_of_its_buffer_when_there_is_no_room_behind_it() {
    let pool = pool(2);
    let mut chain = Chain::from(lease_of(&pool, b"abcdefgh"));
    chain.consume(4);
    chain.absorb(&mut Chain::from(lease_of(&pool, b"ijkl")));
    assert_eq!((bytes_of(&chain), chain.leases()), (b"efghijkl".to_vec(), 1));
    chain.consume(3);
    chain.absorb(&mut Chain::from(lease_of(&pool, b"m")));
    assert_eq!((bytes_of(&chain), chain.leases()), (b"hijklm".to_vec(), 2), "not a long one");
}

#[test]
fn a_short_rest_moves_if_there_is_room_for_a_part_only_and_stays_if_there_is_enough() {
    let pool = pool(2);
    for (more, moves) in [(&b"gh"[..], false), (b"ghi", true)] {
        let mut chain = Chain::from(lease_of(&pool, b"abcdef"));
        chain.consume(3);
        let before = chain.first_slice().as_ptr();
        chain.absorb(&mut Chain::from(lease_of(&pool, more)));
        assert_eq!((bytes_of(&chain), chain.leases()), ([b"def", more].concat(), 1));
        assert_eq!(chain.first_slice().as_ptr() != before, moves, "{more:?}");
    }
}

/// The longer part stays where it is, so that cutting costs little.
#[test]
fn the_shorter_part_of_a_buffer_is_copied_when_it_is_cut() {
    let pool = pool(2);
    for (at, stays) in [(1, "rest"), (3, "rest"), (4, "front"), (5, "front")] {
        let mut rest = Chain::from(lease_of(&pool, b"abcdef"));
        let before = rest.first_slice().as_ptr_range();
        let front = rest.split_to(at).expect("a buffer is free");
        assert_eq!(
            (bytes_of(&front), bytes_of(&rest)),
            (b"abcdef"[..at].into(), b"abcdef"[at..].into())
        );
        let (front, rest) = (front.first_slice().as_ptr_range(), rest.first_slice().as_ptr_range());
        assert_eq!(front.start == before.start, stays == "front", "cut at {at}");
        assert_eq!(rest.end == before.end, stays == "rest", "cut at {at}");
    }
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    #[test]
    fn splitting_keeps_all_bytes_in_order(
        lengths in proptest::collection::vec(1..=SIZE, 1..6), consumed in 0..SIZE, at in 0..=5 * SIZE,
    ) {
        let pool = pool(12);
        let mut chain = Chain::new(&pool);
        let all: Vec<u8> = (0..lengths.iter().sum::<usize>() as u8).collect();
        let mut rest = all.as_slice();
        for &length in &lengths {
            let (bytes, more) = rest.split_at(length);
            chain.push_back(lease_of(&pool, bytes));
            rest = more;
        }
        let consumed = consumed.min(all.len());
        chain.consume(consumed);
        let all = &all[consumed..];
        let at = at.min(all.len());
        let mut front = chain.split_to(at).unwrap();
        prop_assert_eq!((front.len(), chain.len()), (at, all.len() - at));
        prop_assert_eq!(bytes_of(&front), &all[..at]);
        prop_assert_eq!(bytes_of(&chain), &all[at..]);
        // Both are intact: more can be appended, and all buffers return.
        front.push_back(lease_of(&pool, b"f"));
        chain.push_back(lease_of(&pool, b"c"));
        prop_assert_eq!(*bytes_of(&front).last().unwrap(), b'f');
        front.append(&mut chain);
        let joined: Vec<u8> = [&all[..at], b"f", &all[at..], b"c"].concat();
        prop_assert_eq!(bytes_of(&front), joined);
        drop((front, chain));
        prop_assert_eq!(pool.held(), 0);
    }
}

#[test]
fn splitting_a_buffer_needs_a_lease_and_changes_nothing_without_one() {
    let pool = pool(2);
    let mut chain = Chain::from(lease_of(&pool, b"one"));
    chain.push_back(lease_of(&pool, b"two"));
    assert!(chain.split_to(4).is_none());
    assert_eq!(bytes_of(&chain), b"onetwo");
    assert_eq!(bytes_of(&chain.split_to(3).unwrap()), b"one", "between two it needs none");
}

#[test]
fn peeking_copies_across_buffers_and_takes_nothing() {
    let pool = pool(2);
    let mut chain = Chain::from(lease_of(&pool, b"abc"));
    chain.push_back(lease_of(&pool, b"defg"));
    let mut header = [0; 5];
    assert_eq!((chain.peek(&mut header), &header), (5, b"abcde"));
    assert_eq!(chain.peek(&mut [0; 9]), 7);
    assert_eq!(chain.len(), 7);
}

/// In tests only, where it reveals reads of a buffer after it was returned.
#[test]
fn bytes_are_read_and_overwritten_at_any_offset_across_buffers() {
    let pool = pool(3);
    let mut chain = Chain::new(&pool);
    [b"abc", b"def", b"ghi"].iter().for_each(|bytes| chain.push_back(lease_of(&pool, *bytes)));
    chain.consume(1);
    for offset in 0..=8 {
        for len in 0..=9 {
            let mut found = vec![0; len];
            let is_there = chain.read_at(offset, &mut found);
            assert_eq!(is_there, offset + len <= 8 || len == 0, "{len} from {offset}");
            if !is_there {
                continue;
            }
            assert_eq!(found, b"bcdefghi"[offset..offset + len]);
            let written: Vec<u8> = (0..len as u8).collect();
            chain.write_at(offset, &written);
            let mut expected = b"bcdefghi".to_vec();
            expected[offset..offset + len].copy_from_slice(&written);
            assert_eq!(bytes_of(&chain), expected);
            chain.write_at(offset, &found);
        }
    }
    assert_eq!((chain.leases(), chain.len()), (3, 8));
}

#[test]
#[should_panic(expected = "more bytes written than there are")]
fn bytes_behind_the_end_are_not_written() {
    let pool = pool(1);
    Chain::from(lease_of(&pool, b"abc")).write_at(2, b"xy");
}

#[test]
fn what_was_in_a_buffer_is_overwritten_when_it_is_given_back() {
    let pool = pool(1);
    drop(lease_of(&pool, b"secret"));
    assert_eq!(pool.lease().unwrap().spare_mut()[..6], [0xDB; 6]);
    let mut chain = Chain::from(lease_of(&pool, b"secret"));
    chain.consume(6);
    assert_eq!(pool.lease().unwrap().spare_mut()[..6], [0xDB; 6]);
    let pool = Pool::with_references(Reserve::new(SIZE, 1).unwrap(), 0, 1);
    drop(Shared::from(lease_of(&pool, b"secret")));
    assert_eq!(pool.lease().unwrap().spare_mut()[..6], [0xDB; 6]);
}

#[test]
fn a_lease_with_data_is_a_chain_of_one() {
    let pool = pool(2);
    let mut lease = lease_of(&pool, b"abcd");
    lease.consume(1);
    let mut chain = Chain::from(lease);
    assert_eq!((chain.leases(), chain.len(), chain.first_slice()), (1, 3, &b"bcd"[..]));
    chain.push_back(lease_of(&pool, b"e"));
    assert_eq!(bytes_of(&chain), b"bcde");
    drop(chain);
    assert!(Chain::from(pool.lease().unwrap()).is_empty(), "no data, no chain");
    assert_eq!(pool.held(), 0);
}

#[test]
#[should_panic(expected = "a lease of another pool")]
fn a_lease_of_another_pool_is_refused() {
    let (one, other) = (pool(1), pool(1));
    Chain::new(&one).push_back(lease_of(&other, b"a"));
}

/// The data would appear in a log.
#[test]
fn debug_output_tells_the_range_and_not_the_data() {
    let pool = pool(2);
    drop(pool.lease());
    let (_first, lease) = (pool.lease(), lease_of(&pool, b"secret"));
    assert_eq!(format!("{lease:?}"), "Lease(1, 0..6)");
    assert_eq!(format!("{:?}", Chain::from(lease)), "Chain(6 bytes in 1 leases)");
    let pool = Pool::with_references(Reserve::new(SIZE, 2).unwrap(), 0, 1);
    let parcel = lease_of(&pool, b"secret").into_parcel();
    assert_eq!(format!("{parcel:?}"), "Parcel(0, 0..6)");
    assert_eq!(format!("{:?}", Shared::from(lease_of(&pool, b"also"))), "Shared(1, 0..4)");
}

#[derive(Debug, Clone)]
enum ChainOperation {
    Push(Vec<u8>),
    Pop,
    Consume(usize),
    Append(Vec<Vec<u8>>),
    Absorb(Vec<Vec<u8>>),
    Take,
}

fn operation() -> impl Strategy<Value = ChainOperation> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..=SIZE);
    let several = move || prop::collection::vec(bytes(), 0..3);
    prop_oneof![
        bytes().prop_map(ChainOperation::Push),
        Just(ChainOperation::Pop),
        (0usize..20).prop_map(ChainOperation::Consume),
        several().prop_map(ChainOperation::Append),
        several().prop_map(ChainOperation::Absorb),
        Just(ChainOperation::Take),
    ]
}

proptest! {
    #![proptest_config(crate::base::property::config())]

    /// A chain is a queue of bytes: after any operations it agrees with a plain vector, and no
    /// buffer is lost.
    #[test]
    fn a_chain_is_a_queue_of_bytes(operations in prop::collection::vec(operation(), 0..60)) {
        let pool = pool(400);
        let mut chain = Chain::new(&pool);
        let mut model = Vec::new();
        let chain_of = |parts: &[Vec<u8>]| {
            let mut chain = Chain::new(&pool);
            parts.iter().for_each(|part| chain.push_back(lease_of(&pool, part)));
            chain
        };
        for operation in operations {
            match operation {
                ChainOperation::Push(bytes) => {
                    chain.push_back(lease_of(&pool, &bytes));
                    model.extend(bytes);
                }
                ChainOperation::Pop => {
                    let front = chain.pop_front();
                    let count = front.as_ref().map_or(0, Lease::len);
                    let expected: Vec<u8> = model.drain(..count).collect();
                    prop_assert_eq!(front.as_ref().map_or(&[][..], |lease| lease.filled()), &expected[..]);
                }
                ChainOperation::Consume(count) => {
                    let count = count.min(chain.len());
                    chain.consume(count);
                    model.drain(..count);
                }
                ChainOperation::Append(parts) => {
                    chain.append(&mut chain_of(&parts));
                    model.extend(parts.concat());
                }
                ChainOperation::Absorb(parts) => {
                    chain.absorb(&mut chain_of(&parts));
                    model.extend(parts.concat());
                }
                ChainOperation::Take => {
                    prop_assert_eq!(bytes_of(&chain.take()), &model[..]);
                    model.clear();
                }
            }
            prop_assert_eq!(bytes_of(&chain), &model[..]);
            prop_assert_eq!((chain.len(), chain.is_empty()), (model.len(), model.is_empty()));
            prop_assert!(chain.slices().all(|slice| !slice.is_empty()), "a lease without data");
            if !chain.is_empty() {
                prop_assert_eq!(Some(chain.first_slice()), chain.slices().next());
            }
            prop_assert_eq!(pool.held(), chain.leases());
        }
    }
}
