//! Step by step, with too few buffers: which members wait then, and that no member that reads
//! misses a message because of it.

use super::super::outbox::{NotSent, UNICASTS_MAX};
use super::still::*;
use super::world::{SIZE, numbered, numbers, options};
use super::*;
use crate::builtin::Slow;

#[test]
fn without_a_buffer_the_sender_waits_and_the_worker_is_told_of_the_want() {
    let mut still = Still::new(1, 8, SIZE, HubOptions { queue: 2 * SIZE as u32, ..options() });
    let (sender, receiver) = (still.open(0), still.open(0));
    still.settle();
    // One buffer is left, for the sender's input.
    let pool = still.workers[0].pool.clone();
    let taken: Vec<_> = (0..7).map(|_| pool.lease().unwrap()).collect();
    assert!(still.says(sender, &numbered(0, 100)) > 0);
    for _ in 0..20 {
        still.turn();
        assert!(still.workers[0].starves && still.clients[&sender].paused.is_some());
    }
    drop(taken);
    still.settle();
    assert!(!still.workers[0].starves);
    for id in [sender, receiver] {
        assert_eq!(numbers(&still.told(id)), [0]);
    }
    assert_eq!(still.held(), 0);
}

#[test]
fn a_message_from_outside_does_not_end_who_has_closed_its_side_before_its_requests() {
    let mut still = Still::new(1, 8, SIZE, HubOptions { queue: 2 * SIZE as u32, ..options() });
    let (sender, receiver) = (still.open(0), still.open(0));
    still.settle();
    let pool = still.workers[0].pool.clone();
    let mut taken: Vec<_> = (0..7).map(|_| pool.lease().unwrap()).collect();
    assert!(still.says(sender, &numbered(0, 100)) > 0);
    still.half_close(sender);
    assert!(still.input_len(sender) > 0, "its request waits for a buffer");
    taken.pop();
    // There is a free buffer now, and a message from outside the hub comes before the sender.
    assert_eq!(still.message_to(sender, b"hello", 1), None);
    drop(taken);
    still.settle();
    assert_eq!(still.closed(sender), Some(CloseReason::PeerClosed));
    assert_eq!(numbers(&still.told(receiver)), [0]);
}

#[test]
fn who_reads_misses_nothing_though_its_queue_has_many_parts_and_there_is_no_buffer() {
    let queue = 2 * SIZE as u32;
    let mut still = Still::new(1, 8, SIZE, HubOptions { queue, ..options() });
    let (sender, one, other) = (still.open(0), still.open(0), still.open(0));
    still.settle();
    [sender, one, other].into_iter().for_each(|id| _ = still.told(id));
    // Two buffers are left: for the sender's input, and for the log.
    let pool = still.workers[0].pool.clone();
    let _taken: Vec<_> = (0..6).map(|_| pool.lease().unwrap()).collect();
    let send = |to| request(Request::Send { to }, b"");
    let by_turns = [send(one), send(other)].concat().repeat(SIZE / 13 / 2 - 1);
    let count = by_turns.len() / 26;
    let all = [&by_turns[..], &request(Request::Broadcast, b"!")].concat();
    assert_eq!(still.says(sender, &all), all.len());
    assert!(still.input_len(sender) > 0, "it is held back");
    for _ in 0..100 {
        still.turn();
    }
    for id in [one, other] {
        let mut expected = vec![to_one(sender, b""); count];
        expected.push(to_all(sender, b"!"));
        assert_eq!(still.told(id), expected);
    }
    assert_eq!((still.input_len(sender), still.dropped()), (0, 0));
}

/// Leaves `count` free buffers to a worker, and takes the others.
fn leave_free(still: &Still, worker: usize, count: usize) -> Vec<Lease> {
    let pool = &still.workers[worker].pool;
    (count..pool.available()).map(|_| pool.lease().unwrap()).collect()
}

/// A hub, and its member that has read none of `end` messages.
fn behind(end: u32, slow: Slow) -> (Still, u64) {
    let mut still = Still::new(1, 64, SIZE, HubOptions { slow, ..options() });
    let (sender, member) = (still.open(0), still.open(0));
    still.settle();
    still.reads(member, false);
    for number in 0..end {
        still.turn();
        still.says_all(sender, &numbered(number, 150 + end as usize));
    }
    (still, member)
}

/// How many messages a member got, and how many it was told that it missed.
fn got_and_missed(still: &mut Still, member: u64) -> (u64, u64) {
    let (mut got, mut missed) = (0, 0);
    for told in still.told(member) {
        match told {
            Told::Message { .. } => got += 1,
            Told::Dropped(count) => missed += count,
            _ => {}
        }
    }
    (got, missed)
}

/// What a member got and was told it missed whose connection ends after `end` messages. `None` if it
/// was closed as a slow reader.
fn ends_after(end: u32, slow: Slow, starved: bool) -> Option<(u64, u64)> {
    let (mut still, member) = behind(end, slow);
    let taken = if starved { leave_free(&still, 0, 0) } else { Vec::new() };
    // Its queue may have overflowed since the last turn.
    if still.closed(member).is_none() {
        still.finish(member, CloseReason::Drained);
    }
    drop(taken);
    if let Some(reason) = still.closed(member) {
        assert_eq!(reason, CloseReason::SlowReader);
        return None;
    }
    still.reads(member, true);
    still.settle();
    assert_eq!(still.closed(member), Some(CloseReason::Drained));
    Some(got_and_missed(&mut still, member))
}

#[test]
fn a_member_that_ends_knows_what_it_missed_or_is_closed_as_a_slow_reader() {
    for (slow, starved) in [(Slow::Close, false), (Slow::Drop, false), (Slow::Drop, true)] {
        let (mut whole, mut told, mut cut) = (0, 0, 0);
        for end in 1..60 {
            match ends_after(end, slow, starved) {
                None => cut += 1,
                Some((got, missed)) => {
                    assert_eq!(got + missed, u64::from(end), "{slow:?}, {starved}");
                    whole += u32::from(missed == 0);
                    told += u32::from(missed > 0);
                }
            }
        }
        let (tells, cuts) = (slow == Slow::Drop, slow == Slow::Close || starved);
        let right = whole > 0 && tells == (told > 0) && cuts == (cut > 0);
        assert!(right, "{slow:?}, {starved}: {whole} whole, {told} told, {cut} cut");
    }
}

#[test]
fn who_closes_its_side_is_told_what_it_missed_when_there_is_a_buffer_for_it() {
    let mut told = 0;
    for end in 1..60 {
        let (mut still, member) = behind(end, Slow::Drop);
        let taken = leave_free(&still, 0, 0);
        still.half_close(member);
        still.reads(member, true);
        (0..10).for_each(|_| still.turn());
        drop(taken);
        still.settle();
        assert_eq!(still.closed(member), Some(CloseReason::PeerClosed));
        let (got, missed) = got_and_missed(&mut still, member);
        assert_eq!(got + missed, u64::from(end));
        told += u32::from(missed > 0);
    }
    assert!(told > 0, "nobody missed anything");
}

#[test]
fn who_reads_misses_nothing_from_elsewhere_though_who_does_not_comes_before_it() {
    let queue = 2 * SIZE as u32;
    let mut still = Still::new(2, 16, SIZE, HubOptions { queue, ..options() });
    let (far, slow, reader) = (still.open(0), still.open(1), still.open(1));
    let talker = still.open(1);
    still.settle();
    [slow, reader].into_iter().for_each(|id| _ = still.told(id));
    let send = |to| request(Request::Send { to }, b"");
    still.reads(slow, false);
    still.says_all(talker, &send(slow));
    (0..4).for_each(|_| still.turn());
    still.says_all(far, &request(Request::Broadcast, b"!"));
    still.turn_of(0);
    // Each queue gets as many parts as it may have. One of them is being sent to the slow client.
    let by_turns = [send(slow), send(reader)].concat().repeat(9);
    still.says_all(talker, &[by_turns, send(talker), send(reader)].concat());
    assert_eq!(still.input_len(talker), 0);
    let taken = leave_free(&still, 1, 1);
    still.turn_of(1);
    drop(taken);
    still.reads(slow, true);
    still.settle();
    let mut expected = vec![to_one(talker, b""); 10];
    assert_eq!(still.told(slow), [&expected[..], &[Told::Dropped(1)]].concat());
    expected.push(to_all(far, b"!"));
    assert_eq!(still.told(reader), expected);
    assert_eq!((still.held(), still.dropped()), (0, 1));
}

#[test]
fn who_reads_misses_nothing_because_of_the_parts_that_messages_from_outside_took() {
    let queue = 2 * SIZE as u32;
    let mut still = Still::new(1, 16, SIZE, HubOptions { queue, ..options() });
    let (reader, other, talker) = (still.open(0), still.open(0), still.open(0));
    still.settle();
    still.told(reader);
    // The first is being sent. The others are as many parts as the queue may have.
    for number in 0..20 {
        let to = if number % 2 == 0 { reader } else { other };
        assert_eq!(still.message_to(to, b"", number), None);
    }
    let taken = leave_free(&still, 0, 1);
    still.says_all(talker, &request(Request::Broadcast, b"!"));
    still.turn();
    drop(taken);
    still.settle();
    let mut expected = vec![to_all(0, b""); 10];
    expected.push(to_all(talker, b"!"));
    assert_eq!(still.told(reader), expected);
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn who_reads_misses_nothing_of_a_parcel_that_fills_the_parts_of_its_queue_by_itself() {
    let queue = 2 * SIZE as u32;
    for filled in [false, true] {
        let mut still = Still::new(2, 64, SIZE, HubOptions { queue, ..options() });
        let (far, reader, other) = (still.open(0), still.open(1), still.open(1));
        still.settle();
        [reader, other].into_iter().for_each(|id| _ = still.told(id));
        // With and without room in the log of the receiving worker.
        let outside = vec![0; if filled { 700 } else { 1 }];
        assert_eq!(still.message_to(reader, &outside, 1), None);
        let to_other = request(Request::Send { to: other }, b"");
        let both = [to_other, request(Request::Broadcast, b"!")].concat().repeat(14);
        assert_eq!(still.says(far, &both), both.len());
        still.turn_of(0);
        let taken = leave_free(&still, 1, 0);
        still.turn_of(1);
        let mut told = still.told(reader);
        assert!(told.len() < 14, "it is not unpacked at once");
        (0..10).for_each(|_| still.turn_of(1));
        told.extend(still.told(reader));
        assert_eq!(told[1..], vec![to_all(far, b"!"); 14]);
        let alternating = [to_one(far, b""), to_all(far, b"!")].into_iter().cycle();
        assert!(still.told(other).into_iter().eq(alternating.take(28)));
        drop(taken);
        still.settle();
        assert_eq!((still.held(), still.dropped()), (0, 0));
    }
}

#[test]
fn a_want_of_many_buffers_ends_with_the_need_though_others_go_on_talking() {
    let queue = 2 * SIZE as u32;
    let mut still = Still::new(1, 16, SIZE, HubOptions { queue, ..options() });
    let sender = still.open(0);
    let others: Vec<u64> = (0..5).map(|_| still.open(0)).collect();
    still.settle();
    let to_each: Vec<u8> =
        others.iter().flat_map(|&to| request(Request::Send { to }, b"")).collect();
    let burst = [to_each.repeat(10), request(Request::Broadcast, b"!")].concat();
    // One buffer is for the sender's input and one for the log, but five more are needed at once.
    let taken = leave_free(&still, 0, 3);
    assert_eq!(still.says(sender, &burst), burst.len());
    assert!(still.input_len(sender) > 0, "it is held back");
    still.turn();
    assert!(!still.workers[0].starves, "the others need their turn, and then no buffers");
    // No member needs that many buffers any more, and a member has to be woken in each turn.
    let mut starves = Vec::new();
    for number in 0..20 {
        still.says(others[0], &numbered(number, 0));
        still.turn();
        starves.push(still.workers[0].starves);
    }
    assert_eq!(still.input_len(sender), 0);
    assert!(!starves[10..].contains(&true), "{starves:?}");
    drop(taken);
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn a_newcomer_for_whom_there_is_no_buffer_is_welcomed_first_when_there_is() {
    let mut still = Still::new(1, 8, SIZE, options());
    let pool = still.workers[0].pool.clone();
    let taken: Vec<_> = (0..8).map(|_| pool.lease().unwrap()).collect();
    let one = still.open(0);
    still.turn();
    assert_eq!(still.told(one), []);
    assert_eq!(still.message_to(one, b"early", 1), Some(SendError::QueueFull));
    drop(taken);
    assert_eq!(still.message_to(one, b"later", 2), None);
    still.settle();
    assert_eq!(still.told(one), [Told::Welcome(one), to_all(0, b"later")]);
}

/// Lets the worker have the turn that it has when others have given buffers, and those that follow.
fn turn_for_buffers(still: &mut Still, worker: usize) {
    assert!(still.workers[worker].starves, "it would not be woken");
    still.turn_of(worker);
    still.run();
}

#[test]
fn who_waits_for_a_buffer_continues_when_there_is_one_and_causes_no_turn_before() {
    let mut still = Still::new(1, 8, SIZE, options());
    let senders: Vec<u64> = (0..3).map(|_| still.open(0)).collect();
    still.settle();
    let mut taken = leave_free(&still, 0, 0);
    for (&id, number) in senders.iter().zip(0..) {
        // For its input.
        taken.pop();
        assert!(still.says(id, &numbered(number, 100)) > 0);
    }
    still.turn();
    still.run();
    assert_eq!(still.workers[0].next, None);
    assert!(senders.iter().all(|id| still.input_len(*id) > 0));
    taken.pop();
    turn_for_buffers(&mut still, 0);
    // First come, first served: all of them fit into this one buffer.
    for id in &senders {
        assert_eq!(numbers(&still.told(*id)), [0, 1, 2]);
    }
    drop(taken);
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn who_needs_one_buffer_does_not_wait_for_who_needs_several_and_that_one_then_needs_fewer() {
    let mut still = Still::new(2, 16, SIZE, options());
    let (many, one, far) = (still.open(0), still.open(0), still.open(1));
    still.settle();
    [many, one, far].into_iter().for_each(|id| _ = still.told(id));
    let mut taken = leave_free(&still, 0, 2);
    let to_one = request(Request::Send { to: one }, b"?");
    assert!(still.says(many, &request(Request::Broadcast, b"!")) > 0);
    assert!(still.says(one, &to_one) > 0);
    still.turn_of(0);
    still.run();
    assert!(still.input_len(many) > 0 && still.input_len(one) > 0);
    // A broadcast takes one buffer on each worker. There is one, which the other request takes: for
    // the log, where there is room for the broadcast too. Its input makes one free for the parcel.
    still.reads(one, false);
    taken.pop();
    turn_for_buffers(&mut still, 0);
    assert_eq!((still.input_len(many), still.input_len(one)), (0, 0));
    assert_eq!(still.told(far), [to_all(many, b"!")]);
    still.reads(one, true);
    drop(taken);
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn who_was_served_and_needs_more_goes_behind_the_others_and_waits_at_rest() {
    let mut still = Still::new(2, 16, SIZE, options());
    let (sender, far) = (still.open(0), still.open(1));
    still.settle();
    [sender, far].into_iter().for_each(|id| _ = still.told(id));
    let mut taken = leave_free(&still, 0, 1);
    assert!(still.says(sender, &request(Request::Broadcast, b"!")) > 0);
    still.turn_of(0);
    still.run();
    assert!(still.workers[0].starves);
    // A broadcast takes a buffer for each worker, and there is one.
    taken.pop();
    still.turn_of(0);
    assert!(still.workers[0].starves && still.input_len(sender) > 0);
    still.turn_of(0);
    assert!(!still.workers[0].starves, "those that wait come before it");
    // Then it waits again, for more than there is, and has no turn until then.
    still.run();
    assert_eq!(still.workers[0].next, None);
    taken.pop();
    turn_for_buffers(&mut still, 0);
    assert_eq!(still.input_len(sender), 0);
    assert_eq!(still.told(far), [to_all(sender, b"!")]);
    drop(taken);
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn who_needs_one_buffer_is_served_though_another_waits_for_more() {
    let mut still = Still::new(2, 16, SIZE, options());
    let (many, one, far) = (still.open(0), still.open(0), still.open(1));
    still.settle();
    [many, one, far].into_iter().for_each(|id| _ = still.told(id));
    let mut taken = leave_free(&still, 0, 2);
    // It waits for a second buffer.
    assert!(still.says(many, &request(Request::Broadcast, b"!")) > 0);
    still.turn_of(0);
    still.run();
    assert!(still.workers[0].starves);
    // This takes the first one for its input, and waits for any.
    assert!(still.says(one, &request(Request::Send { to: one }, b"?")) > 0);
    still.turn_of(0);
    still.run();
    assert!(still.input_len(one) > 0);
    taken.pop();
    turn_for_buffers(&mut still, 0);
    assert_eq!(still.input_len(one), 0);
    assert!(still.told(one).contains(&to_one(one, b"?")));
    drop(taken);
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn a_broadcast_that_lacks_a_buffer_for_another_worker_continues_when_the_members_there_are_gone() {
    // They may be gone before the worker has had a turn.
    for looks in [true, false] {
        let mut still = Still::new(2, 16, SIZE, options());
        let (sender, far) = (still.open(0), still.open(1));
        still.settle();
        still.told(sender);
        let taken = leave_free(&still, 0, 2);
        assert!(still.says(sender, &numbered(0, 100)) > 0);
        assert!(still.input_len(sender) > 0);
        if looks {
            still.turn_of(0);
            still.run();
            assert!(still.input_len(sender) > 0);
        }
        still.close(far, CloseReason::Reset);
        still.run();
        assert_eq!(numbers(&still.told(sender)), [0], "looks: {looks}");
        drop(taken);
        still.settle();
        assert_eq!(still.held(), 0);
    }
}

#[test]
fn who_waits_for_a_buffer_keeps_its_place_while_others_are_woken_before_it() {
    let mut still = Still::new(1, 16, SIZE, options());
    let (sender, leaves) = (still.open(0), still.open(0));
    let others: Vec<u64> = (0..3 * Still::WAKES_MAX).map(|_| still.open(0)).collect();
    still.settle();
    let taken = leave_free(&still, 0, 1);
    assert!(still.says(sender, &numbered(0, 100)) > 0);
    still.turn();
    assert!(still.workers[0].starves);
    // Nobody waits for a buffer before the sender has tried again, behind all others.
    let local = &mut still.workers[0].hub.local;
    others.iter().for_each(|&id| local.wake(crate::service::ConnectionId::from_bits(id)));
    still.close(leaves, CloseReason::Reset);
    for _ in 0..4 {
        still.turn();
        assert!(still.workers[0].starves, "its place goes to the end");
    }
    assert!(still.input_len(sender) > 0);
    drop(taken);
    turn_for_buffers(&mut still, 0);
    assert_eq!(numbers(&still.told(sender)), [0]);
    still.settle();
    assert!(!still.workers[0].starves);
    assert_eq!(still.held(), 0);
}

#[test]
fn who_waits_for_another_worker_continues_when_that_has_ended() {
    let mut still = Still::new(2, 64, SIZE, options());
    let (sender, _) = (still.open(0), still.open(1));
    still.settle();
    still.told(sender);
    let mut sent = 0;
    while still.says(sender, &numbered(sent, 200)) > 0 {
        still.turn_of(0);
        sent += 1;
    }
    still.turn_of(0);
    assert!(still.input_len(sender) > 0);
    still.mailboxes.close(1);
    still.run();
    assert!(numbers(&still.told(sender)).into_iter().eq(0..sent));
    assert_eq!(still.input_len(sender), 0);
}

#[test]
fn who_is_held_back_by_a_newcomer_that_waits_for_a_buffer_continues_behind_it() {
    let mut still = Still::new(1, 16, SIZE, HubOptions { queue: 2 * SIZE as u32, ..options() });
    let sender = still.open(0);
    still.settle();
    let pool = still.workers[0].pool.clone();
    let taken: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
    let newcomer = still.open(0);
    (0..2).for_each(|_| still.turn());
    assert!(still.workers[0].starves);
    // There are buffers now, but the worker's turn comes when the newcomer's queue is full.
    drop(taken);
    let message = request(Request::Send { to: newcomer }, &[1; 400]);
    let mut sent = 0;
    while still.says(sender, &message) > 0 {
        sent += 1;
    }
    assert!(still.input_len(sender) > 0, "it is held back");
    turn_for_buffers(&mut still, 0);
    assert_eq!(still.input_len(sender), 0);
    let told = still.told(newcomer);
    assert_eq!(told[0], Told::Welcome(newcomer));
    assert_eq!((told.len(), still.dropped()), (1 + sent, 0));
    still.settle();
    assert_eq!(still.held(), 0);
}

#[test]
fn replies_for_which_there_is_no_room_are_passed_on_when_their_worker_has_taken_some() {
    let mut still = Still::new(2, 64, SIZE, options());
    let (sender, gone) = (still.open(0), still.open(1));
    still.open(1);
    still.settle();
    still.told(sender);
    still.says_all(sender, &request(Request::Send { to: gone }, b"?"));
    still.turn_of(0);
    still.close(gone, CloseReason::Reset);
    // As many replies as there is room for, to a client that never was.
    let to = ConnectionId::from_bits(sender ^ 1 << 40);
    for _ in 0..2 * UNICASTS_MAX {
        let reply = NotSent { to, reason: GONE, about: 7 };
        assert!(still.workers[1].hub.local.outbox.forward(reply));
    }
    still.turn_of(1);
    assert_eq!(still.told(sender), []);
    assert_eq!(still.workers[1].next, None, "it does not look again by itself");
    still.turn_of(0);
    still.run();
    assert_eq!(still.told(sender), [Told::NotSent(GONE, gone)]);
    still.settle();
    assert_eq!(still.held(), 0);
}
