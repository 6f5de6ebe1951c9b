//! What must hold for peers of the stand-in for TLS: which streams ended in order, and which did
//! not.

use super::{OPENING_TIMEOUT, Simulation};
use crate::base::time::Time;
use crate::error::CloseReason;
use crate::shared::counters::Stats;
use crate::sim::marks::Mark;
use crate::sim::peer::{Peer, PeerEnd};
use crate::sim::seat::Seat;
use crate::sim::service::Sight;
use crate::sim::wire::Framing;
use crate::sim::wire::records::{Records, Sort};
use crate::sim::world::ServerEnd;
use crate::worker::layer::Layer;

/// Connections that no service has seen.
#[derive(Default)]
struct Unopened {
    all: u64,
    /// Those closed for their handshake, unless they were shed.
    for_handshake: u64,
}

impl<E: Seat, L: Layer> Simulation<E, L> {
    pub(super) fn mark_starving_layers(&self) {
        let mut world = self.world.borrow_mut();
        if world.framings.contains(&Framing::Records) {
            let workers = self.servers.iter().filter_map(|server| server.worker.as_ref());
            if workers.into_iter().any(|worker| worker.any_layer_starves()) {
                world.mark(Mark::RecordsStarved);
            }
        }
    }

    pub(super) fn check_records(&self) {
        let mut unopened = Unopened::default();
        for peer in &self.peers {
            let Some(records) = peer.records() else { continue };
            let end = peer.server_end(&self.world.borrow());
            let Some(end) = end.filter(|end| end.accepted_at.is_some()) else { continue };
            // Otherwise the server may have a reply to send first, which the peer does not read.
            if records.is_silent_before_reply() {
                self.check_deadline(peer, end);
            }
            match self.seen.borrow().of_peer.get(&peer.number) {
                Some(sight) => self.check_stream(peer, records, sight),
                None => self.count_without_handshake(records, end, &mut unopened),
            }
        }
        self.check_handshakes(&unopened);
    }

    /// A stream ended for the reason that its end gave.
    fn check_stream(&self, peer: &Peer, records: &Records, sight: &Sight) {
        let (number, closed) = (peer.number, sight.closed.expect("it was closed"));
        let said_close = records.said_close && records.is_all_sent();
        match closed {
            CloseReason::PeerClosed => {
                assert!(said_close, "peer {number}: an end without close_notify is an end");
            }
            CloseReason::TlsTruncated => {
                assert!(!said_close, "peer {number}: close_notify is no end: {sight:?}");
            }
            CloseReason::TlsAlert => {
                assert!(records.went_wrong, "peer {number}: an alert without a cause: {sight:?}");
            }
            _ => {}
        }
        let orderly = matches!(
            closed,
            CloseReason::PeerClosed | CloseReason::IdleTimeout | CloseReason::Drained
        );
        let reads = peer.end == Some(PeerEnd::Fin) && peer.reads_to_the_end() && !sight.cut;
        if reads && orderly {
            let whole = records.heard_close && records.is_whole();
            assert!(whole, "peer {number}: FIN without close_notify: {sight:?}");
        }
        if peer.end == Some(PeerEnd::Fin) && closed == CloseReason::TlsAlert {
            assert!(records.heard_alert, "peer {number} was not told what is wrong: {sight:?}");
        }
        self.mark_stream(peer, records, sight);
    }

    fn mark_stream(&self, peer: &Peer, records: &Records, sight: &Sight) {
        let mut world = self.world.borrow_mut();
        let fin_received = peer.server_end(&world).is_some_and(|end| end.fin_received);
        let ends_within = records.sort == Sort::Truncates && !records.is_all_sent();
        let truncated = sight.closed == Some(CloseReason::TlsTruncated);
        let closed = records.heard_close && records.said_close && peer.end == Some(PeerEnd::Fin);
        for (mark, happened) in [
            (Mark::RecordsCut, records.pieces > 1),
            (Mark::RecordsLong, records.heard_hello && records.hello() > self.buffer_size),
            (Mark::RecordsClosed, closed),
            (Mark::RecordsHalfClosed, closed && peer.has_shut_without_fin()),
            (Mark::RecordsForged, records.heard_alert && records.sort == Sort::Forged),
            (Mark::RecordsTooLong, records.heard_alert && records.sort == Sort::TooLong),
            (Mark::RecordsTruncated, truncated && fin_received && !ends_within),
            (Mark::RecordsTruncatedWithin, truncated && fin_received && ends_within),
        ] {
            if happened {
                world.mark(mark);
            }
        }
    }

    fn count_without_handshake(&self, records: &Records, end: ServerEnd, unopened: &mut Unopened) {
        let ended_at = end.ended_at.unwrap_or(Time::MAX);
        let before_the_end = self.ended_at.is_none_or(|at| ended_at < at);
        unopened.all += 1;
        if !before_the_end && records.is_in_handshake() && end.sent_fin && !end.failed {
            self.world.borrow_mut().mark(Mark::RecordsDrained);
        }
        if !end.sent_fin || end.failed || !before_the_end {
            return;
        }
        let waited = end.accepted_at.is_some_and(|at| at + OPENING_TIMEOUT <= ended_at);
        if end.taken_at_end > 0 {
            unopened.for_handshake += 1;
            if let Some(mark) = records.mark(waited) {
                self.world.borrow_mut().mark(mark);
            }
        }
    }

    /// Compares the reasons with those that the server has counted.
    fn check_handshakes(&self, unopened: &Unopened) {
        let total = Stats::read(self.servers.iter().map(|server| &*server.counters)).total();
        let for_handshake = total.closed(CloseReason::TlsHandshake);
        let Unopened { all, for_handshake: least } = *unopened;
        assert!(for_handshake <= all, "{for_handshake} were closed for a handshake, of {all}");
        // Those that do not move may have been closed for that, and a record that is wrong may come
        // right behind the handshake.
        let others = [CloseReason::Shed, CloseReason::SendTimeout, CloseReason::TlsAlert];
        let others: u64 = others.into_iter().map(|reason| total.closed(reason)).sum();
        assert!(
            for_handshake + others >= least,
            "{for_handshake} were closed for a handshake, not {least}"
        );
        let mut world = self.world.borrow_mut();
        (0..for_handshake).for_each(|_| world.mark(Mark::ClosedTlsHandshake));
    }
}
