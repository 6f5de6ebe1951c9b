//! Since when messages were on their way that a hub has passed on, as it tells its worker. By the
//! clock of the tests.

use std::time::Duration;

use super::still::Still;
use super::*;

fn hub(workers: usize) -> Still {
    let still = Still::new(workers, 64, 4096, HubOptions::default());
    still.time_turns();
    still
}

/// Turns until nothing is left to do, and forgets what was delivered.
fn rest(still: &mut Still, workers: usize) {
    still.settle();
    for worker in 0..workers {
        still.delivered(worker);
    }
}

#[test]
fn a_message_to_more_clients_than_a_turn_wakes_is_delivered_when_the_last_was_woken() {
    let mut still = hub(1);
    let clients: Vec<u64> = (0..2 * Still::WAKES_MAX + 3).map(|_| still.open(0)).collect();
    rest(&mut still, 1);
    let taken_at = still.now();
    still.says_all(clients[0], &request(Request::Broadcast, b"to all"));
    for turn in 0..2 {
        still.turn();
        assert_eq!(still.delivered(0), None, "turn {turn}: some have not had their turn");
    }
    still.turn();
    assert_eq!(still.delivered(0), Some(taken_at));
    still.settle();
    assert_eq!(still.delivered(0), None, "it counts once");
}

#[test]
fn a_round_that_others_write_into_ends_for_the_messages_that_were_there_before() {
    let mut still = hub(1);
    let clients: Vec<u64> = (0..2 * Still::WAKES_MAX).map(|_| still.open(0)).collect();
    rest(&mut still, 1);
    let mut told = Vec::new();
    for _ in 0..20 {
        // In each turn there is another one, so that somebody always waits.
        still.says_all(clients[0], &request(Request::Broadcast, b"to all"));
        still.turn();
        told.extend(still.delivered(0).map(|since| still.now() - since));
    }
    assert!(told.len() >= 5, "{told:?}");
    // A round takes two turns, and a message waits for the begin of one.
    assert!(told.iter().all(|time| *time <= Duration::from_millis(5)), "{told:?}");
}

#[test]
fn the_time_at_the_worker_of_the_sender_counts_for_each_parcel() {
    let mut still = hub(2);
    // Worker 0 has its turn first, so it gets in the next turn what worker 1 sends in this one.
    let (_receiver, sender) = (still.open(0), still.open(1));
    rest(&mut still, 2);
    for nth in 0..10 {
        let taken_at = still.now();
        still.says_all(sender, &request(Request::Broadcast, b"to all"));
        still.turn();
        assert_eq!(still.delivered(1), Some(taken_at), "message {nth} to the sender itself");
        assert_eq!(still.delivered(0), None, "message {nth} is not here yet");
        still.turn();
        assert_eq!(still.delivered(0), Some(taken_at), "message {nth}");
        // Between two messages there are parcels without any.
        if nth % 3 == 0 {
            still.open(1);
            rest(&mut still, 2);
        }
    }
}

#[test]
fn a_message_to_one_client_counts_where_that_client_is() {
    let mut still = hub(2);
    let (receiver, sender) = (still.open(0), still.open(1));
    let beside = still.open(1);
    rest(&mut still, 2);
    let taken_at = still.now();
    still.says_all(sender, &request(Request::Send { to: receiver }, b"to one"));
    still.turn();
    assert_eq!(still.delivered(1), None, "nobody here gets it");
    still.turn();
    assert_eq!(still.delivered(0), Some(taken_at));
    rest(&mut still, 2);
    let taken_at = still.now();
    still.says_all(sender, &request(Request::Send { to: beside }, b"to one"));
    still.turn();
    assert_eq!((still.delivered(0), still.delivered(1)), (None, Some(taken_at)));
    still.close(receiver, CloseReason::PeerClosed);
    rest(&mut still, 2);
    still.says_all(sender, &request(Request::Send { to: receiver }, b"to nobody"));
    still.settle();
    assert_eq!((still.delivered(0), still.delivered(1)), (None, None), "it reaches nobody");
}

#[test]
fn parcels_that_are_on_their_way_together_have_their_own_times() {
    let mut still = hub(2);
    let (_receiver, sender) = (still.open(0), still.open(1));
    rest(&mut still, 2);
    for parcels in [3, 4, 2, 1, 4] {
        let taken_at = still.now();
        for _ in 0..parcels {
            still.says_all(sender, &request(Request::Broadcast, b"to all"));
            still.turn_of(1);
            still.pass();
        }
        still.turn_of(0);
        assert_eq!(still.delivered(0), Some(taken_at), "the first of {parcels}");
        rest(&mut still, 2);
    }
}

#[test]
fn notices_and_lists_are_no_messages() {
    let mut still = hub(2);
    let client = still.open(0);
    let other = still.open(1);
    still.says_all(client, &request(Request::List, b""));
    still.settle();
    still.close(other, CloseReason::PeerClosed);
    still.settle();
    assert_eq!((still.delivered(0), still.delivered(1)), (None, None));
}

#[test]
fn nothing_is_told_where_turns_are_not_timed() {
    let mut still = Still::new(1, 64, 4096, HubOptions::default());
    let client = still.open(0);
    still.settle();
    still.says_all(client, &request(Request::Broadcast, b"to all"));
    still.settle();
    assert_eq!(still.delivered(0), None);
}
