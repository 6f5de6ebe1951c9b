//! Checks that a member of the simulated hub received what was addressed to it: each message that
//! the hub accepted while the member was connected, exactly once, except for messages that the hub
//! reported as dropped.

use std::time::Duration;

use super::marks::Mark;
use super::member::{Asked, Member};
use super::peer::{Peer, PeerEnd};
use super::service::{Seen, Sight, Taken};
use super::world::World;
use crate::error::CloseReason;

/// A message that the hub accepted this long before a member closed has arrived, from any worker.
const ON_THE_WAY_MAX: Duration = Duration::from_secs(5);

/// Checks one member.
///
/// # Panics
/// If a check fails.
pub(super) fn member(world: &mut World, seen: &Seen, peer: &Peer, member: &Member, sight: &Sight) {
    let number = peer.number;
    assert!(member.id.is_none_or(|id| sight.id.is_some_and(|own| own.to_bits() == id)));
    mark(world, seen, member, sight, number);
    check_senders(seen, member, number);
    let lost = lost(seen, member, sight, number);
    assert!(
        lost.between <= member.dropped,
        "member {number} missed {} messages between others, and was told of {}",
        lost.between,
        member.dropped
    );
    let ends_in_order = peer.end == Some(PeerEnd::Fin) && peer.reads_to_the_end();
    assert!(
        !ends_in_order || sight.closed != Some(CloseReason::SlowReader),
        "member {number} ended in order, although it had lost messages"
    );
    // A layer that has sent an alert drops what the hub had queued. A connection that has failed, by its
    // shutdown too, is closed at once: bytes of the peer that come later reset it, which destroys what
    // the peer has not read.
    let is_cut = matches!(sight.closed, Some(CloseReason::TlsAlert | CloseReason::Failed));
    if !ends_in_order || sight.finished.is_none() || is_cut {
        return;
    }
    assert!(
        lost.settled <= member.dropped,
        "member {number} missed {} messages, and was told of {}",
        lost.settled,
        member.dropped
    );
    if lost.late > 0 {
        return;
    }
    let may_be = lost.settled
        + before(seen, member, sight)
        + unanswered(seen, member, number)
        + sight.refused;
    assert!(
        member.dropped <= may_be,
        "member {number} was told of {} messages dropped, and missed {}",
        member.dropped,
        lost.settled
    );
    if member.dropped > 0 && lost.settled == member.dropped {
        world.mark(Mark::HeardDropped);
    }
    if member.dropped == 0 && !member.heard.is_empty() {
        world.mark(Mark::MemberHeardAll);
    }
    let settled =
        |taken: &&Taken| sight.finished.is_some_and(|(_, at)| taken.at + ON_THE_WAY_MAX <= at);
    let lists = asked_by(seen, number).filter(settled).filter(|of| of.asked == Asked::List).count();
    // If the peer closed its side, it gets all lists. If the hub closed it, some may be missing.
    let by_peer = sight.closed == Some(CloseReason::PeerClosed);
    assert!(!by_peer || member.lists >= lists, "member {number} asked for {lists} lists");
}

fn asked_by(seen: &Seen, number: usize) -> impl Iterator<Item = &Taken> {
    seen.taken.iter().filter(move |taken| taken.peer == number)
}

fn mark(world: &mut World, seen: &Seen, member: &Member, sight: &Sight, number: usize) {
    let worker = sight.id.map(|id| id.worker());
    for heard in &member.heard {
        let from = seen.of_peer.get(&heard.peer).and_then(|sender| sender.id);
        if from.map(|id| id.worker()) != worker {
            world.mark(Mark::HeardFromAfar);
        }
        let alone = |taken: &&Taken| {
            let Asked::Message { number, to } = taken.asked else { return false };
            (taken.peer, number) == (heard.peer, heard.number) && to.is_some()
        };
        if seen.taken.iter().any(|taken| alone(&taken)) {
            world.mark(Mark::HeardAlone);
        }
    }
    for (reason, _) in &member.not_sent {
        world.mark(if *reason == 1 { Mark::NotSentGone } else { Mark::NotSentFull });
    }
    if member.lists > asked_by(seen, number).filter(|taken| taken.asked == Asked::List).count() {
        world.mark(Mark::ListUnasked);
    }
}

/// Checks that each message has the sender that it names, and that the hub had accepted it.
fn check_senders(seen: &Seen, member: &Member, number: usize) {
    for heard in &member.heard {
        let id = seen.of_peer.get(&heard.peer).and_then(|sender| sender.id);
        let right = id.is_some_and(|id| id.to_bits() == heard.from);
        assert!(right, "member {number} received {heard:?}, but the sender is {id:?}");
        let taken = asked_by(seen, heard.peer).any(
            |taken| matches!(taken.asked, Asked::Message { number, .. } if number == heard.number),
        );
        assert!(taken, "member {number} received {heard:?}, which was never sent");
    }
    for (_, to) in &member.not_sent {
        let answers = member.not_sent.iter().filter(|(_, id)| id == to).count();
        let sent = asked_by(seen, number).filter(
            |taken| matches!(taken.asked, Asked::Message { to: Some(id), .. } if id == *to),
        );
        assert!(answers <= sent.count(), "member {number} got {answers} replies about {to}");
    }
}

/// Numbers of messages that a member has not received.
#[derive(Default)]
struct Lost {
    /// Sent before a message of the same sender that was received.
    between: u64,
    /// Accepted long enough before the member closed.
    settled: u64,
    /// Accepted so late that they may have been in transit, received or not.
    late: u64,
}

fn lost(seen: &Seen, member: &Member, sight: &Sight, own: usize) -> Lost {
    let mut lost = Lost::default();
    let id = sight.id.map(|id| id.to_bits());
    let end = sight.finished.map_or(usize::MAX, |(taken, _)| taken);
    for (index, taken) in seen.taken.iter().enumerate().skip(sight.came_at) {
        let Asked::Message { number, to } = taken.asked else { continue };
        if to.is_some() && to != id {
            continue;
        }
        let of_sender = || member.heard.iter().filter(|heard| heard.peer == taken.peer);
        let heard = of_sender().any(|heard| heard.number == number);
        // The member's own messages are never in transit.
        let settled = sight
            .finished
            .is_some_and(|(_, at)| taken.at + ON_THE_WAY_MAX <= at || taken.peer == own)
            && index < end;
        if !settled && index < end {
            lost.late += 1;
        }
        if heard {
            continue;
        }
        lost.between += u64::from(of_sender().any(|heard| heard.number > number));
        lost.settled += u64::from(settled);
    }
    lost
}

/// Broadcasts that were in transit when the member joined, and that it has not received.
fn before(seen: &Seen, member: &Member, sight: &Sight) -> u64 {
    let on_the_way = |taken: &&Taken| taken.at + ON_THE_WAY_MAX >= sight.opened_at;
    let unheard = |taken: &&Taken| {
        let Asked::Message { number, to: None } = taken.asked else { return false };
        !member.heard.iter().any(|heard| (heard.peer, heard.number) == (taken.peer, number))
    };
    seen.taken[..sight.came_at].iter().filter(on_the_way).filter(unheard).count() as u64
}

/// Messages to one receiver that the member has sent and that were not reported as NOT_SENT. That
/// report may itself have been dropped.
fn unanswered(seen: &Seen, member: &Member, number: usize) -> u64 {
    let sent = asked_by(seen, number)
        .filter(|taken| matches!(taken.asked, Asked::Message { to: Some(_), .. }));
    (sent.count() - member.not_sent.len()) as u64
}
