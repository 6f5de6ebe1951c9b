//! What must hold for peers that begin, or should begin, with a header of the PROXY protocol: which
//! are served, which are not, why, and by when.

use std::time::Duration;

use super::{OPENING_TIMEOUT, Simulation};
use crate::base::time::Time;
use crate::error::CloseReason;
use crate::shared::counters::Stats;
use crate::sim::marks::Mark;
use crate::sim::peer::Peer;
use crate::sim::seat::Seat;
use crate::sim::service::Sight;
use crate::sim::wire::proxy::{Proxy, Sort};
use crate::sim::world::ServerEnd;
use crate::worker::layer::Layer;

/// Longest delay of a deadline: the tick of the timers, and the look at the sockets before it.
const LATE_MAX: Duration = Duration::from_millis(15);

/// Why connections were closed that no service has seen, as far as that is certain.
#[derive(Default)]
struct Unopened {
    /// For their header.
    for_header: u64,
    /// For their header, unless they were shed.
    for_header_or_shed: u64,
    /// Not for their header: if nothing else happened to them, they were shed.
    shed: u64,
    /// They may have ended without a byte.
    without_a_byte: u64,
}

impl<E: Seat, L: Layer> Simulation<E, L> {
    pub(super) fn check_introductions(&self) {
        let mut unopened = Unopened::default();
        for peer in &self.peers {
            let Some(proxy) = peer.proxy() else { continue };
            let end = peer.server_end(&self.world.borrow());
            let Some(end) = end.filter(|end| end.accepted_at.is_some()) else { continue };
            self.check_deadline(peer, end);
            match self.seen.borrow().of_peer.get(&peer.number) {
                Some(sight) => self.mark_opened(proxy, sight, end),
                None => self.count_unopened(peer, proxy, end, &mut unopened),
            }
        }
        self.check_unopened(&unopened);
    }

    /// Until the deadline the server knows who the peer is, or has closed the connection.
    pub(super) fn check_deadline(&self, peer: &Peer, end: ServerEnd) {
        let (seen, accepted_at) = (self.seen.borrow(), end.accepted_at.expect("it was filtered"));
        let due = accepted_at + OPENING_TIMEOUT + LATE_MAX;
        let suspended =
            { self.suspensions.iter() }.any(|&(from, until)| from <= due && until >= accepted_at);
        let opened_at = seen.of_peer.get(&peer.number).map(|sight| sight.opened_at);
        let decided_at = opened_at.or(end.ended_at).unwrap_or(Time::MAX);
        assert!(
            suspended || decided_at <= due,
            "peer {} was accepted at {accepted_at:?}, and nothing was decided until {decided_at:?}",
            peer.number
        );
    }

    fn mark_opened(&self, proxy: &Proxy, sight: &Sight, end: ServerEnd) {
        let mut world = self.world.borrow_mut();
        if sight.unintroduced {
            return world.mark(Mark::ProxyUnintroduced);
        }
        let all_of_payload = sight.delivered >= proxy.payload as u64;
        if let Some(mark) = proxy.sort.mark(true).filter(|_| all_of_payload) {
            world.mark(mark);
        }
        let has_header = proxy.introduction.header > 0;
        let accepted_at = end.accepted_at.expect("it was filtered");
        for (mark, happened) in [
            (Mark::ProxyCut, has_header && proxy.pieces > 1),
            (Mark::ProxyOneByOne, has_header && proxy.was_one_by_one()),
            (Mark::ProxyTogether, has_header && proxy.together && sight.delivered > 0),
            (Mark::ProxyOpenedLate, sight.opened_at >= accepted_at + OPENING_TIMEOUT),
        ] {
            if happened {
                world.mark(mark);
            }
        }
    }

    /// Finds out why a connection was closed that no service has seen.
    fn count_unopened(&self, peer: &Peer, proxy: &Proxy, end: ServerEnd, unopened: &mut Unopened) {
        let (required, taken) = (proxy.introduction.required, end.taken_at_end);
        // While its bytes leave open whether they are a header, it may be shed.
        let decided_after = match proxy.introduction.header {
            0 => proxy.undecided_max,
            header => header,
        };
        let is_complete = proxy.introduction.known_as.is_some() && taken >= decided_after as u64;
        let ended_at = end.ended_at.unwrap_or(Time::MAX);
        let before_the_end = self.ended_at.is_none_or(|at| ended_at < at);
        let is_orderly = end.sent_fin && !end.failed && before_the_end;
        unopened.without_a_byte += u64::from(taken == 0);
        unopened.for_header += 1;
        if !is_orderly {
            return;
        }
        let waited = end.accepted_at.is_some_and(|at| at + OPENING_TIMEOUT <= ended_at);
        // What arrives at the deadline may be received by a call that is being cancelled.
        assert!(
            !is_complete || waited || (taken == 0 && end.fin_received),
            "peer {} was closed although its header was complete: {:?}",
            peer.number,
            proxy.introduction
        );
        let is_stranger = proxy.sort == Sort::Stranger;
        let is_wrong = peer.is_refused() && (taken > 0 || is_stranger);
        if taken == 0 && end.fin_received && required && !is_stranger {
            // At the deadline it is one or the other.
            if !waited {
                self.world.borrow_mut().mark(Mark::ProxyEmpty);
            }
        } else if waited || end.fin_received || is_wrong {
            unopened.for_header_or_shed += 1;
            if let Some(mark) = proxy.sort.mark(false).filter(|_| proxy.is_as_intended(waited)) {
                self.world.borrow_mut().mark(mark);
            }
        } else {
            unopened.shed += 1;
        }
    }

    /// Compares the reasons with those that the server has counted.
    fn check_unopened(&self, unopened: &Unopened) {
        let total = Stats::read(self.servers.iter().map(|server| &*server.counters)).total();
        let seen = self.seen.borrow();
        let of_others = |reason: CloseReason| {
            let opened = seen.of_peer.values().filter(|sight| sight.closed == Some(reason));
            total.closed(reason) - opened.count() as u64
        };
        let (for_header, shed) =
            (of_others(CloseReason::ProxyHeader), of_others(CloseReason::Shed));
        let Unopened { for_header: most, for_header_or_shed, shed: unexplained, without_a_byte } =
            *unopened;
        assert!(for_header <= most, "{for_header} were closed for a header, of {most}");
        assert!(
            for_header + shed >= for_header_or_shed,
            "{for_header} were closed for a header and {shed} shed, not {for_header_or_shed}"
        );
        assert!(unexplained <= shed, "{unexplained} were closed early, and only {shed} were shed");
        let mut world = self.world.borrow_mut();
        (0..for_header).for_each(|_| world.mark(Mark::ClosedProxyHeader));
        if world.framings.iter().all(|framing| framing.is_proxy_or_plain()) {
            (0..shed).for_each(|_| world.mark(Mark::ProxyShed));
            let ended = of_others(CloseReason::PeerClosed);
            assert!(ended <= without_a_byte, "{ended} ended without a byte, of {without_a_byte}");
            for reason in CloseReason::ALL.into_iter().filter(|&reason| !may_be_unopened(reason)) {
                assert_eq!(of_others(reason), 0, "closed for {reason} without a header");
            }
        }
    }
}

/// Whether a connection may be closed for this reason before a service sees it.
fn may_be_unopened(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::ProxyHeader
            | CloseReason::PeerClosed
            | CloseReason::Reset
            | CloseReason::PeerLost
            | CloseReason::Failed
            | CloseReason::Shed
            | CloseReason::Drained
            | CloseReason::Stopped
    )
}
