//! Step by step: buffers are counted, readers are slow, senders are held back, notices are lost and
//! made up for. `scarce` has the tests with few buffers.

use super::super::local::{COST_MAX, COST_OF_LIST, COST_OF_REQUEST};
use super::still::*;
use super::*;
use crate::builtin::Slow;
use crate::shared::mailbox::WorkerCommand;

pub(super) const SIZE: usize = 1024;

pub(super) fn options() -> HubOptions {
    HubOptions { notices: false, queue: 4 * SIZE as u32, ..HubOptions::default() }
}

/// Builds a broadcast of a number and `more` more bytes.
pub(super) fn numbered(number: u32, more: usize) -> Vec<u8> {
    request(Request::Broadcast, &[&number.to_le_bytes()[..], &vec![7; more]].concat())
}

fn number_of(payload: &[u8]) -> u32 {
    u32::from_le_bytes(payload[..4].try_into().unwrap())
}

/// Returns the numbers of the received messages. Checks each gap against the DROPPED frame.
pub(super) fn numbers(told: &[Told]) -> Vec<u32> {
    let (mut all, mut next, mut gap) = (Vec::new(), 0, 0);
    for one in told {
        match one {
            Told::Message { payload, .. } => {
                let number = number_of(payload);
                assert_eq!(number, next + gap, "a message is missing that was not counted");
                (next, gap) = (number + 1, 0);
                all.push(number);
            }
            Told::Dropped(count) => {
                assert_eq!(gap, 0, "two in a row");
                gap = *count as u32;
                assert!(gap > 0);
            }
            Told::Welcome(_) => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(gap, 0, "DROPPED stands before the message that follows the gap");
    all
}

#[test]
fn a_message_takes_one_buffer_for_each_worker_however_many_do_not_read_it() {
    for workers in [1, 3] {
        let mut still = Still::new(workers, 64, SIZE, options());
        let ids: Vec<u64> = (0..50).map(|at| still.open(at % workers)).collect();
        still.settle();
        assert_eq!(still.held(), 0, "idle clients hold nothing");
        ids.iter().for_each(|&id| still.reads(id, false));
        for _ in 0..3 {
            still.says_all(ids[0], &numbered(0, 10));
            (0..6).for_each(|_| still.turn());
            assert_eq!(still.held(), workers);
            assert!(still.workers.iter().all(|worker| worker.pool.held() == 1));
        }
        ids.iter().for_each(|&id| still.reads(id, true));
        still.settle();
        assert_eq!((still.held(), still.reserve.travelling()), (0, 0));
        for id in ids {
            let messages = |told: &&Told| matches!(told, Told::Message { to_all: true, .. });
            assert_eq!(still.told(id).iter().filter(messages).count(), 3);
        }
    }
}

#[test]
fn a_broadcast_of_the_server_is_written_once_for_each_worker() {
    let mut still = Still::new(2, 64, SIZE, options());
    let ids: Vec<u64> = (0..30).map(|at| still.open(at % 2)).collect();
    still.settle();
    ids.iter().for_each(|&id| still.reads(id, false));
    let long = vec![1; 700];
    for (number, id) in [7, 8].into_iter().flat_map(|number| ids.iter().map(move |id| (number, id)))
    {
        assert_eq!(still.message_to(*id, &long, number), None);
    }
    assert_eq!(still.held(), 4, "two messages that do not fit into one buffer, on two workers");
    ids.iter().for_each(|&id| still.reads(id, true));
    still.settle();
    assert_eq!(still.held(), 0);
    assert!(ids.iter().all(|&id| still.told(id)[1..] == [to_all(0, &long), to_all(0, &long)]));
}

#[test]
fn what_a_slow_reader_misses_is_counted_in_its_place_and_nobody_else_misses_anything() {
    for workers in [1, 2] {
        let mut still = Still::new(workers, 64, SIZE, options());
        let ids: Vec<u64> = (0..4).map(|at| still.open(at % workers)).collect();
        let (sender, slow) = (ids[0], ids[3]);
        let mut number = 0;
        for reads in [false, true, false, false, true] {
            still.reads(slow, reads);
            for _ in 0..40 {
                still.says_all(sender, &numbered(number, 200));
                still.turn();
                number += 1;
            }
        }
        still.settle();
        // One more message, so that the last gap has an end.
        still.says_all(sender, &numbered(number, 0));
        still.settle();
        let told = still.told(slow);
        let dropped = |told: &Told| if let Told::Dropped(count) = told { *count } else { 0 };
        let dropped: u64 = told.iter().map(dropped).sum();
        assert!(dropped > 50, "{dropped}");
        assert_eq!(numbers(&told).len() as u64 + dropped, u64::from(number) + 1);
        assert_eq!(still.dropped(), dropped);
        for &id in &ids[..3] {
            assert!(numbers(&still.told(id)).into_iter().eq(0..=number));
        }
        assert_eq!(still.held(), 0);
    }
}

#[test]
fn a_slow_reader_is_closed_where_that_is_asked_for_and_its_buffers_come_back() {
    let mut still = Still::new(2, 64, SIZE, HubOptions { slow: Slow::Close, ..options() });
    let ids: Vec<u64> = (0..4).map(|at| still.open(at % 2)).collect();
    still.reads(ids[2], false);
    still.reads(ids[3], false);
    for number in 0..100 {
        still.says_all(ids[0], &numbered(number, 200));
        still.turn();
    }
    still.settle();
    for slow in [ids[2], ids[3]] {
        assert_eq!(still.closed(slow), Some(CloseReason::SlowReader));
    }
    for id in [ids[0], ids[1]] {
        assert!(numbers(&still.told(id)).into_iter().eq(0..100));
    }
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn a_burst_in_one_turn_drops_nothing_of_those_who_read() {
    for workers in [1, 3] {
        let mut still = Still::new(workers, 256, SIZE, options());
        let ids: Vec<u64> = (0..40).map(|at| still.open(at % workers)).collect();
        // Each of ten senders fills a queue on its own, before any member has had a turn.
        let mut next = [0u32; 10];
        for _ in 0..10 {
            for at in 0..10 {
                let burst: Vec<u8> =
                    (0..4).flat_map(|more| numbered(next[at] + more, 200)).collect();
                if still.says(ids[at], &burst) == burst.len() {
                    next[at] += 4;
                }
            }
            still.turn();
        }
        still.settle();
        assert!(next.iter().all(|&count| count >= 4), "{next:?}");
        assert_eq!(still.dropped(), 0);
        for &id in &ids {
            let told = still.told(id);
            for (at, &sent) in next.iter().enumerate() {
                let of = |told: &Told| match told {
                    Told::Message { from, payload, .. } if *from == ids[at] => {
                        Some(number_of(payload))
                    }
                    _ => None,
                };
                assert!(told.iter().filter_map(of).eq(0..sent));
            }
        }
        assert_eq!(still.held(), 0);
    }
}

/// Sends on worker 0 until the sender is held back. Returns how many messages were taken.
fn flood(still: &mut Still, sender: u64) -> u32 {
    for number in 0.. {
        if still.says(sender, &numbered(number, 200)) == 0 {
            return number;
        }
        still.turn_of(0);
        still.now = still.now + Duration::from_millis(1);
        assert!(number < 10_000, "the sender is never held back");
    }
    unreachable!()
}

#[test]
fn a_worker_that_does_not_keep_up_holds_the_senders_back_and_loses_nothing() {
    let mut still = Still::new(2, 64, SIZE, options());
    let (sender, receiver) = (still.open(0), still.open(1));
    still.settle();
    let taken = flood(&mut still, sender);
    assert!((4..64).contains(&taken), "{taken}");
    assert!(still.clients[&sender].paused.is_some());
    (0..3).for_each(|_| still.turn_of(0));
    assert_eq!(still.workers[0].next, None, "it does not look again by itself");
    still.turn_of(1);
    still.run();
    for id in [sender, receiver] {
        assert!(numbers(&still.told(id)).into_iter().eq(0..taken), "{id}");
    }
    assert!(still.clients[&sender].paused.is_none());
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn a_full_inbox_holds_the_senders_back_and_loses_nothing() {
    let mut still = Still::new(2, 64, SIZE, options());
    let (sender, receiver) = (still.open(0), still.open(1));
    still.settle();
    let mut filled = 0;
    while still.mailboxes.send(1, WorkerCommand::GiveBuffers).is_ok() {
        filled += 1;
    }
    assert!(filled > 100);
    let taken = flood(&mut still, sender);
    assert_eq!(still.reserve.travelling(), 0, "nothing could leave");
    (0..3).for_each(|_| still.turn_of(0));
    assert_eq!(still.workers[0].next, None, "it does not look again by itself");
    still.turn_of(1);
    still.run();
    for id in [sender, receiver] {
        assert!(numbers(&still.told(id)).into_iter().eq(0..taken), "{id}");
    }
    still.settle();
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn many_who_come_at_once_take_one_buffer_for_the_notices_of_it() {
    let mut still = Still::new(1, 64, 4 * SIZE, HubOptions { notices: true, ..options() });
    let ids: Vec<u64> = (0..SLOTS).map(|_| still.open(0)).collect();
    assert_eq!(still.held(), 1, "they are in the log, and nowhere else");
    still.settle();
    for (at, &id) in ids.iter().enumerate() {
        let joined = ids[at + 1..].iter().map(|&id| Told::Joined(id));
        assert!(still.told(id).into_iter().eq([Told::Welcome(id)].into_iter().chain(joined)));
    }
    assert_eq!(still.held(), 0);
}

#[test]
fn a_message_to_one_elsewhere_that_cannot_be_delivered_is_answered_from_there() {
    let mut still = Still::new(2, 64, SIZE, options());
    let (one, gone, slow, other) = (still.open(0), still.open(1), still.open(1), still.open(1));
    still.settle();
    still.told(one);
    let send = |to, text: &[u8]| request(Request::Send { to }, text);
    // The recipient leaves while the message is in transit.
    still.says_all(one, &send(gone, b"?"));
    still.turn_of(0);
    still.close(gone, CloseReason::Reset);
    still.settle();
    assert_eq!(still.told(one), [Told::NotSent(GONE, gone)]);
    still.reads(slow, false);
    let (mut sent, mut refused) = (0, 0);
    while refused < 5 {
        still.says_all(one, &send(slow, &[1; 500]));
        (0..4).for_each(|_| still.turn());
        sent += 1;
        refused += still.told(one).iter().filter(|told| **told == Told::NotSent(2, slow)).count();
        assert!(sent < 100);
    }
    still.says_all(one, &send(other, b"!"));
    still.reads(slow, true);
    still.settle();
    assert_eq!(still.told(other).last(), Some(&to_one(one, b"!")));
    let told = still.told(slow);
    assert_eq!(told.last(), Some(&Told::Dropped(5)));
    assert_eq!(told.len(), 1 + (sent - 5) + 1);
    assert_eq!(still.held(), 0);
}

#[test]
fn senders_share_what_requests_may_cost_in_a_turn() {
    const SENDERS: usize = 20;
    let large = 16 * SIZE;
    let mut still = Still::new(1, 256, large, HubOptions { queue: 16 << 14, ..options() });
    let senders: Vec<u64> = (0..SENDERS).map(|_| still.open(0)).collect();
    let modest = still.open(0);
    still.settle();
    let per_turn = COST_MAX / (COST_OF_REQUEST + SENDERS + 1) + 1;
    // As many requests as a turn has room for, from each of some senders, all at once.
    let request_bytes = numbered(0, 0).len();
    let each = large / request_bytes;
    for &id in &senders {
        let burst: Vec<u8> = (0..each as u32).flat_map(|number| numbered(number, 0)).collect();
        assert_eq!(still.says(id, &burst), burst.len());
    }
    let taken = |still: &Still| -> Vec<usize> {
        senders.iter().map(|&id| each - still.input_len(id) / request_bytes).collect()
    };
    let first = taken(&still);
    assert!(first.iter().sum::<usize>() <= per_turn, "{first:?}");
    assert_eq!(still.says(modest, &numbered(0, 0)), request_bytes);
    // A round calls some of the senders: in this many rounds each is called once. A round also
    // wakes each member that output waits for.
    let turns_of_round = (SENDERS + 1).div_ceil(Still::WAKES_MAX);
    let round = SENDERS.div_ceil(Still::WAKES_MAX / 2) * turns_of_round + 1;
    let mut before = first;
    for turn in 0..20 {
        still.turn();
        let now = taken(&still);
        let carried_out = now.iter().sum::<usize>() - before.iter().sum::<usize>();
        assert!(carried_out <= per_turn, "{carried_out} in one turn");
        assert!(turn < round || still.input_len(modest) == 0, "a modest client waits too long");
        before = now;
    }
    // The first sender had its head start before the others came.
    let (least, most) = (before[1..].iter().min().unwrap(), before[1..].iter().max().unwrap());
    let share = per_turn / (Still::WAKES_MAX / 2) + 1;
    assert!(*least > 0 && most - least <= share, "{before:?}");
    still.settle();
    for &id in &senders {
        let of_modest =
            |told: &&Told| matches!(told, Told::Message { from, .. } if *from == modest);
        let told = still.told(id);
        assert_eq!(told.iter().filter(of_modest).count(), 1);
        assert_eq!(told.len(), 1 + SENDERS * each + 1);
    }
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn a_list_costs_as_much_as_it_has_clients() {
    let mut still = Still::new(1, 64, SIZE, options());
    let ids: Vec<u64> = (0..40).map(|_| still.open(0)).collect();
    still.settle();
    let budget = |still: &Still| still.workers[0].hub.local.budget;
    let before = budget(&still);
    for &id in &ids[..10] {
        let list = request(Request::List, b"");
        assert_eq!(still.says(id, &list), list.len());
    }
    let cost = COST_OF_REQUEST + 1 + COST_OF_LIST + ids.len();
    assert_eq!(before - budget(&still), 10 * cost);
    still.settle();
    assert_eq!(still.held(), 0);
}

#[test]
fn a_round_unpacks_as_much_of_parcels_as_it_may_cost() {
    const MEMBERS: usize = 40;
    let large = 64 * SIZE;
    let mut still = Still::new(2, 64, large, HubOptions { queue: 4 * large as u32, ..options() });
    let members: Vec<u64> = (0..MEMBERS).map(|_| still.open(0)).collect();
    let sender = still.open(1);
    still.settle();
    // One run for one member and one for all members, again and again.
    let pair = [request(Request::Send { to: members[0] }, b"x"), numbered(0, 0)].concat();
    const PAIRS: usize = 900;
    assert_eq!(still.says(sender, &pair.repeat(PAIRS)), pair.len() * PAIRS);
    (0..4).for_each(|_| still.turn_of(1));
    still.turn_of(0);
    let local = &still.workers[0].hub.local;
    assert!(local.unpacking.is_some(), "a round unpacks a part");
    assert_eq!(still.workers[0].next, Some(still.now), "and the next begins at once");
    still.settle();
    let local = &still.workers[0].hub.local;
    assert!(local.unpacking.is_none() && local.arrived.is_empty());
    for (at, &member) in members.iter().enumerate() {
        let of_sender =
            |told: &&Told| matches!(told, Told::Message { from, .. } if *from == sender);
        let told = still.told(member).iter().filter(of_sender).count();
        assert_eq!(told, if at == 0 { 2 * PAIRS } else { PAIRS });
    }
    assert_eq!((still.held(), still.dropped()), (0, 0));
}

#[test]
fn workers_that_refuse_each_others_messages_do_not_wait_for_each_other() {
    const SENDERS: usize = 100;
    const EACH: usize = 1200;
    // The buffers are large enough for the most messages that a parcel may have, and each gets a
    // reply.
    let large = 16 * SIZE;
    let mut still = Still::new(2, 512, large, HubOptions { queue: 2 * large as u32, ..options() });
    let slow = [still.open(0), still.open(1)];
    let senders: Vec<u64> = (0..SENDERS).map(|at| still.open(at % 2)).collect();
    still.settle();
    slow.iter().for_each(|&id| still.reads(id, false));
    for (at, &sender) in senders.iter().enumerate() {
        // This runs just after the other worker has made room for it, so its replies are too late
        // for that.
        still.turn_of(1 - at % 2);
        let across = request(Request::Send { to: slow[1 - at % 2] }, b"").repeat(EACH);
        assert_eq!(still.says(sender, &across), across.len());
    }
    still.settle();
    still.says_all(senders[0], &numbered(7, 0));
    still.settle();
    let mut answers = 0;
    for (at, &id) in senders.iter().enumerate() {
        let told = still.told(id);
        assert!(told.contains(&to_all(senders[0], &7u32.to_le_bytes())));
        let refused = Told::NotSent(2, slow[1 - at % 2]);
        answers += told.iter().filter(|&told| *told == refused).count();
    }
    assert!(answers > SENDERS * EACH / 2, "{answers}");
    slow.iter().for_each(|&id| still.reads(id, true));
    still.settle();
    assert_eq!((still.held(), still.reserve.travelling()), (0, 0));
}

#[test]
fn who_does_not_read_its_answers_is_not_read() {
    let mut still = Still::new(1, 64, SIZE, options());
    let one = still.open(0);
    still.settle();
    still.reads(one, false);
    let (mut asked, begun) = (0, still.told(one).len());
    while still.clients[&one].paused.is_none() {
        still.says_all(one, &request(Request::Send { to: 99 }, b""));
        still.turn();
        asked += 1;
        assert!(asked < 1000);
    }
    assert!(asked > 100 && begun == 1, "{asked}");
    for _ in 0..50 {
        still.turn();
        assert_eq!(still.workers[0].next, None, "nothing turns in vain");
    }
    still.reads(one, true);
    still.settle();
    assert_eq!(still.told(one), vec![Told::NotSent(GONE, 99); asked]);
}

#[test]
fn what_is_queued_is_sent_before_the_end() {
    let mut still = Still::new(1, 64, SIZE, options());
    let (one, other) = (still.open(0), still.open(0));
    still.settle();
    still.reads(other, false);
    for number in 0..5 {
        still.says_all(one, &numbered(number, 100));
        still.turn();
    }
    still.finish(other, CloseReason::Drained);
    still.says_all(one, &numbered(5, 100));
    still.reads(other, true);
    still.settle();
    assert_eq!(still.closed(other), Some(CloseReason::Drained));
    assert_eq!(numbers(&still.told(other)), [0, 1, 2, 3, 4]);
    assert_eq!(numbers(&still.told(one)), [0, 1, 2, 3, 4, 5]);
    assert_eq!(still.held(), 0);
}

#[test]
fn whoever_asked_once_knows_who_is_there_whatever_was_lost_on_the_way() {
    let mut refreshed = 0;
    for seed in 0..30 {
        let mut random = fastrand::Rng::with_seed(seed);
        let tight = HubOptions { notices: true, queue: 512, ..HubOptions::default() };
        let mut still = Still::new(3, 24, 256, tight);
        let mut ids: Vec<u64> = (0..6).map(|at| still.open(at % 3)).collect();
        let watchers = ids.clone();
        still.settle();
        for &id in &watchers {
            still.says_all(id, &request(Request::List, b""));
        }
        still.settle();
        let lists = |told: &Told| matches!(told, Told::Clients(false, _));
        watchers.iter().for_each(|&id| drop(still.told(id)));
        let mut taken = Vec::new();
        for _ in 0..400 {
            match random.u8(0..10) {
                0..=3 if ids.len() < 60 => ids.push(still.open(random.usize(0..3))),
                0..=4 if ids.len() > watchers.len() => {
                    let at = random.usize(watchers.len()..ids.len());
                    still.close(ids.swap_remove(at), CloseReason::Reset);
                }
                5 => still.reads(ids[random.usize(0..ids.len())], random.bool()),
                6 => taken.extend(still.workers[random.usize(0..3)].pool.lease()),
                7 => taken.clear(),
                _ => still.turn_of(random.usize(0..3)),
            }
        }
        taken.clear();
        ids.iter().for_each(|&id| still.reads(id, true));
        still.settle();
        for &id in &watchers {
            let there = ids.iter().copied().collect();
            assert_eq!(still.clients[&id].picture, there, "seed {seed}");
            refreshed += still.told(id).iter().filter(|told| lists(told)).count();
        }
        ids.iter().for_each(|&id| still.close(id, CloseReason::Reset));
        still.settle();
        assert_eq!((still.held(), still.reserve.travelling()), (0, 0), "seed {seed}");
    }
    assert!(refreshed > 20, "only {refreshed} lists had to be made good");
}

#[test]
fn every_message_is_received_or_counted_whatever_happens() {
    let (mut dropped, mut answered) = (0, 0);
    for seed in 0..40 {
        let mut random = fastrand::Rng::with_seed(seed);
        let workers = random.usize(1..4);
        let tight = HubOptions { notices: false, queue: 512, ..HubOptions::default() };
        let mut still = Still::new(workers, 32, 256, tight);
        let ids: Vec<u64> = (0..8).map(|at| still.open(at % workers)).collect();
        still.settle();
        // For each sender, the recipient of each of its messages. `None`: all.
        let mut sent: Vec<Vec<Option<usize>>> = vec![Vec::new(); ids.len()];
        let mut unsent: Vec<Vec<u8>> = vec![Vec::new(); ids.len()];
        for _ in 0..600 {
            let at = random.usize(0..ids.len());
            match random.u8(0..8) {
                0..=3 if unsent[at].len() < 400 => {
                    let to = random.bool().then(|| random.usize(0..ids.len()));
                    let number = (sent[at].len() as u32).to_le_bytes();
                    let text = [&number[..], &vec![3; random.usize(0..150)]].concat();
                    let what = to.map_or(Request::Broadcast, |to| Request::Send { to: ids[to] });
                    unsent[at].extend(request(what, &text));
                    sent[at].push(to);
                }
                0..=4 => {
                    let taken = still.says(ids[at], &unsent[at]);
                    unsent[at].drain(..taken);
                }
                5 => still.reads(ids[at], random.u8(0..4) > 0),
                _ => still.turn_of(random.usize(0..workers)),
            }
        }
        ids.iter().for_each(|&id| still.reads(id, true));
        for (at, &id) in ids.iter().enumerate() {
            still.says_all(id, &unsent[at]);
        }
        still.settle();
        let told: Vec<Vec<Told>> = ids.iter().map(|&id| still.told(id)).collect();
        let (all_dropped, all_answered) = check(&ids, &sent, &told);
        assert_eq!(still.dropped(), all_dropped, "seed {seed}");
        dropped += all_dropped;
        answered += all_answered;
        assert_eq!((still.held(), still.reserve.travelling()), (0, 0), "seed {seed}");
    }
    assert!(dropped > 100 && answered > 20, "{dropped} dropped, {answered} answered");
}

/// Checks that the frames that each member received agree with the messages that were sent. Returns
/// the number of dropped messages, and the number of replies.
fn check(ids: &[u64], sent: &[Vec<Option<usize>>], told: &[Vec<Told>]) -> (u64, u64) {
    // For each receiver, the messages that it did not get. For each sender, its messages to one
    // member that were not received.
    let (mut missing, mut unanswered) = (vec![0u64; ids.len()], vec![0u64; ids.len()]);
    for (receiver, told) in told.iter().enumerate() {
        for (sender, sent) in sent.iter().enumerate() {
            let for_it = |to: &Option<usize>| to.is_none_or(|to| to == receiver);
            let mut expected = (0..).zip(sent).filter(|(_, to)| for_it(to));
            for one in told {
                let Told::Message { to_all, from, payload } = one else { continue };
                if *from != ids[sender] {
                    continue;
                }
                loop {
                    // Messages come in order, and none twice.
                    let (number, to) = expected.next().expect("a message that was sent");
                    if number == number_of(payload) {
                        assert_eq!(*to_all, to.is_none());
                        break;
                    }
                    missing[receiver] += 1;
                    unanswered[sender] += u64::from(to.is_some());
                }
            }
            for (_, to) in expected {
                missing[receiver] += 1;
                unanswered[sender] += u64::from(to.is_some());
            }
        }
    }
    let (mut all_dropped, mut all_answered) = (0, 0);
    for (at, told) in told.iter().enumerate() {
        let dropped = |told: &Told| if let Told::Dropped(count) = told { *count } else { 0 };
        let dropped: u64 = told.iter().map(dropped).sum();
        let answers = told.iter().filter(|told| matches!(told, Told::NotSent(2, _))).count() as u64;
        // A reply that found the queue full is counted as dropped.
        assert_eq!(dropped + answers, missing[at] + unanswered[at]);
        assert!(answers <= unanswered[at]);
        (all_dropped, all_answered) = (all_dropped + dropped, all_answered + answers);
    }
    (all_dropped, all_answered)
}
