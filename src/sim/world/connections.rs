//! Opens and closes connections: connect, listeners and their backlogs, accept, FIN, RST and close.
//! `bytes` transfers data over them.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::{
    Edge, Endpoint, EndpointId, ListenerId, Route, Segment, ServerEnd, SimulatedListener, Unseen,
    Watch, World, WorldEvent,
};
use crate::base::time::Time;
use crate::error::Errno;
use crate::sim::marks::Mark;

impl World {
    fn pair(&mut self, address: SocketAddr) -> (EndpointId, EndpointId) {
        let (near, far) = (self.endpoints.len(), self.endpoints.len() + 1);
        self.endpoints.push(Endpoint { other: far, ..Endpoint::default() });
        self.endpoints.push(Endpoint {
            other: near,
            address: Some(address),
            ..Endpoint::default()
        });
        (near, far)
    }

    /// Starts a connect. `connect_outcome` returns its outcome. A watched endpoint also becomes
    /// ready. With `ours` the endpoint is a descriptor of the process under test.
    pub(crate) fn connect(&mut self, address: SocketAddr, ours: bool) -> EndpointId {
        self.connect_to(0, address, ours)
    }

    /// The same, to the listeners with this number.
    pub(in crate::sim) fn connect_to(
        &mut self,
        listener: usize,
        address: SocketAddr,
        ours: bool,
    ) -> EndpointId {
        let (near, _) = self.pair(address);
        self.endpoints[near].listener = listener;
        self.endpoints[near].connecting = true;
        self.endpoints[near].ours = ours;
        if ours {
            self.descriptors_open += 1;
        }
        let delay = self.delay();
        match self.routes.get(&address) {
            Some(Route::Silent) => self.mark(Mark::ConnectUnanswered),
            Some(&Route::Late(late)) => {
                self.mark(Mark::ConnectLate);
                self.at(self.now + delay + late, WorldEvent::Connect(near));
            }
            _ => self.at(self.now + delay, WorldEvent::Connect(near)),
        }
        near
    }

    pub(super) fn connect_arrives(&mut self, near: EndpointId) {
        if self.endpoints[near].closed {
            return;
        }
        let number = self.endpoints[near].listener;
        let accepts = |listener: &SimulatedListener| listener.open && listener.number == number;
        let open: Vec<ListenerId> =
            (0..self.listeners.len()).filter(|&id| accepts(&self.listeners[id])).collect();
        let far = self.endpoints[near].other;
        let address = self.endpoints[far].address.expect("a far end has its peer's address");
        let refused = self.routes.get(&address) == Some(&Route::Refused);
        if refused
            || open.is_empty()
            || (self.endpoints[near].ours && self.chance(self.rates.connect_error))
        {
            self.mark(Mark::ConnectRefused);
            self.connect_ends(near, Err(Errno::CONNREFUSED));
            return;
        }
        let id = open[self.rng.usize(0..open.len())];
        if self.listeners[id].backlog.len() >= self.rates.backlog {
            self.mark(Mark::BacklogFull);
            self.at(self.now + Duration::from_secs(1), WorldEvent::Connect(near));
            return;
        }
        self.listeners[id].backlog.push_back(far);
        self.trace(1, near, id as u64, || format!("connection {near} is in backlog {id}"));
        self.raise_listener(id);
        self.connect_ends(near, Ok(()));
    }

    fn connect_ends(&mut self, near: EndpointId, outcome: Result<(), Errno>) {
        let endpoint = &mut self.endpoints[near];
        endpoint.connecting = false;
        endpoint.connected = Some(outcome);
        endpoint.broken |= outcome.is_err();
        self.raise(near, Edge { readable: outcome.is_err(), writable: true, ..Edge::default() });
    }

    pub(crate) fn connect_outcome(&self, id: EndpointId) -> Option<Result<(), Errno>> {
        self.endpoints[id].connected
    }

    /// Accepts a connection of the listener's backlog. Returns it with its peer's address.
    pub(in crate::sim) fn accept(
        &mut self,
        id: ListenerId,
    ) -> Result<(EndpointId, SocketAddr), Errno> {
        if self.listeners[id].backlog.is_empty() {
            return Err(Errno::AGAIN);
        }
        if self.descriptors_open >= self.rates.descriptors {
            self.mark(Mark::DescriptorsUsedUp);
            return Err(Errno::MFILE);
        }
        if self.chance(self.rates.accept_error) {
            return Err(self.accept_error(id));
        }
        let far = self.listeners[id].backlog.pop_front().expect("it is not empty");
        self.endpoints[far].ours = true;
        self.endpoints[far].accepted_at = Some(self.now);
        self.descriptors_open += 1;
        let address = self.endpoints[far].address.expect("a far end has its peer's address");
        self.trace(2, far, id as u64, || {
            format!("accept on {id}: connection {far} from {address}")
        });
        Ok((far, address))
    }

    /// Accepts outside of the process under test, without faults and limits.
    pub(in crate::sim) fn accept_externally(&mut self, id: ListenerId) -> Option<EndpointId> {
        self.listeners[id].backlog.pop_front()
    }

    /// The address that this connection was made to. `far` is the far end.
    pub(in crate::sim) fn address(&self, far: EndpointId) -> SocketAddr {
        self.endpoints[far].address.expect("a far end has its peer's address")
    }

    /// Number of bytes that the other side of this endpoint has received.
    pub(in crate::sim) fn taken_by_other(&self, id: EndpointId) -> u64 {
        self.endpoints[self.endpoints[id].other].taken
    }

    /// What the other side of this endpoint had not seen when it ended the connection: when it sent
    /// FIN, or when it closed, and now if it has not.
    pub(in crate::sim) fn unseen_by_other(&self, id: EndpointId) -> (Option<Unseen>, Unseen) {
        let other = &self.endpoints[self.endpoints[id].other];
        (other.unseen_at_fin, other.unseen_at_close.unwrap_or(other.unseen))
    }

    /// Whether a call of the other side of this endpoint has returned the reset of this side. It
    /// cannot send any more.
    pub(in crate::sim) fn other_knows_of_reset(&self, id: EndpointId) -> bool {
        let other = &self.endpoints[self.endpoints[id].other];
        other.reset && other.broken
    }

    /// The life of the other side of this endpoint.
    pub(in crate::sim) fn server_end(&self, id: EndpointId) -> ServerEnd {
        let end = &self.endpoints[self.endpoints[id].other];
        let closed_at = end.unseen_at_close.and_then(|unseen| unseen.closed_at);
        ServerEnd {
            accepted_at: end.accepted_at,
            active_at: end.taken_at.max(end.accepted_at),
            ended_at: end.fin_sent_at.or(closed_at),
            sent_fin: end.fin_sent && !end.reset,
            taken: end.taken,
            taken_at_end: match end.fin_sent_at {
                Some(_) => end.taken_at_fin,
                None => end.taken - end.taken_in_vain,
            },
            fin_received: end.fin_received,
            failed: end.failed,
        }
    }

    /// A receive that was being cancelled has taken `count` bytes.
    pub(in crate::sim) fn took_in_vain(&mut self, id: EndpointId, count: usize) {
        self.endpoints[id].taken_in_vain += count as u64;
    }

    /// Whether the other side of this endpoint has neither sent FIN nor had an error injected.
    pub(in crate::sim) fn other_sends_no_fin(&self, id: EndpointId) -> bool {
        let other = &self.endpoints[self.endpoints[id].other];
        !other.fin_sent && !other.failed
    }

    /// The addresses that the process under test is connecting to.
    pub(in crate::sim) fn connecting_to(&self) -> impl Iterator<Item = SocketAddr> {
        let connecting = self.endpoints.iter().filter(|end| end.ours && end.connecting);
        connecting.filter_map(|end| self.endpoints[end.other].address)
    }

    fn accept_error(&mut self, id: ListenerId) -> Errno {
        const ERRORS: [(Errno, Mark); 15] = [
            (Errno::CONNABORTED, Mark::AcceptAborted),
            (Errno::PROTO, Mark::AcceptProto),
            (Errno::PERM, Mark::AcceptPerm),
            (Errno::MFILE, Mark::AcceptMfile),
            (Errno::NFILE, Mark::AcceptNfile),
            (Errno::NOBUFS, Mark::AcceptNobufs),
            (Errno::NOMEM, Mark::AcceptNomem),
            // Errors of the network that Linux passes on from the new connection: accept(2).
            (Errno::NETDOWN, Mark::AcceptNetdown),
            (Errno::NOPROTOOPT, Mark::AcceptNoprotoopt),
            (Errno::HOSTDOWN, Mark::AcceptHostdown),
            (Errno::NONET, Mark::AcceptNonet),
            (Errno::HOSTUNREACH, Mark::AcceptHostunreach),
            (Errno::OPNOTSUPP, Mark::AcceptOpnotsupp),
            (Errno::NETUNREACH, Mark::AcceptNetunreach),
            (Errno::TIMEDOUT, Mark::AcceptTimedout),
        ];
        let (error, mark) = ERRORS[self.rng.usize(0..ERRORS.len())];
        self.mark(mark);
        // After these errors the connection stays in the backlog. The others remove it.
        if !matches!(error, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) {
            let gone = self.listeners[id].backlog.pop_front().expect("it is not empty");
            self.reset_other(gone);
            self.endpoints[gone].closed = true;
        }
        self.trace(3, id, error.raw_os_error() as u64, || format!("accept on {id}: {error:?}"));
        error
    }

    pub(in crate::sim) fn waiting(&self, id: ListenerId) -> usize {
        self.listeners[id].backlog.len()
    }

    /// Whether clients wait at an open listener, whose readiness was reported to this worker.
    pub(in crate::sim) fn has_waiting(&self, id: ListenerId, worker: usize) -> bool {
        let SimulatedListener { watches, backlog, open, .. } = &self.listeners[id];
        let untold = |(watch, edge): &(Watch, Edge)| {
            watch.worker == worker && edge.any() && edge.at > self.now
        };
        *open && !backlog.is_empty() && !watches.iter().any(untold)
    }

    pub(crate) fn listen(&mut self) -> ListenerId {
        self.listen_as(0)
    }

    /// A listener with this number among those of its worker.
    pub(in crate::sim) fn listen_as(&mut self, number: usize) -> ListenerId {
        self.listeners.push(SimulatedListener {
            number,
            backlog: VecDeque::new(),
            open: true,
            watches: Vec::new(),
        });
        self.listeners.len() - 1
    }

    pub(super) fn close_listener(&mut self, id: ListenerId) {
        self.listeners[id].open = false;
        self.listeners[id].watches.clear();
        while let Some(far) = self.listeners[id].backlog.pop_front() {
            self.mark(Mark::BacklogReset);
            self.reset_other(far);
            self.endpoints[far].closed = true;
        }
    }

    pub(crate) fn shutdown(&mut self, id: EndpointId) -> Result<(), Errno> {
        let endpoint = &mut self.endpoints[id];
        if endpoint.broken || endpoint.error.is_some() {
            return Err(Errno::NOTCONN);
        }
        if !std::mem::replace(&mut endpoint.fin_sent, true) {
            endpoint.fin_sent_at = Some(self.now);
            endpoint.taken_at_fin = endpoint.taken - endpoint.taken_in_vain;
            endpoint.unseen_at_fin = Some(endpoint.unseen);
            let to = endpoint.other;
            self.post(to, Segment::Fin);
        }
        Ok(())
    }

    /// Closes: sends FIN, or RST if received bytes are unread.
    pub(crate) fn close(&mut self, id: EndpointId) {
        let endpoint = &mut self.endpoints[id];
        if std::mem::replace(&mut endpoint.closed, true) {
            return;
        }
        endpoint.unseen.closed_at = Some(self.now);
        endpoint.unseen_at_close = Some(endpoint.unseen);
        endpoint.watch = None;
        let ours = std::mem::take(&mut endpoint.ours);
        self.descriptors_open -= usize::from(ours);
        if ours {
            self.check_linger(id);
        }
        let endpoint = &self.endpoints[id];
        let (unread, broken, shut) =
            (!endpoint.received.is_empty(), endpoint.broken, endpoint.fin_sent);
        self.trace(4, id, u64::from(unread), || {
            format!("close {id}{}", if unread { ", with unread bytes" } else { "" })
        });
        if self.endpoints[id].connected.is_some_and(|outcome| outcome.is_err()) {
            return;
        }
        if unread {
            self.reset_other(id);
        } else if !broken && !shut {
            self.endpoints[id].fin_sent = true;
            let to = self.endpoints[id].other;
            self.post(to, Segment::Fin);
        }
    }

    /// Checks that a server that has sent FIN waits for the peer's FIN. A socket that is closed
    /// earlier replies to late bytes with RST, which destroys what the peer has not read yet.
    fn check_linger(&mut self, id: EndpointId) {
        let end = &self.endpoints[id];
        let Some(shut) = end.fin_sent_at.filter(|_| end.address.is_some()) else { return };
        let gone = end.fin_received || end.broken || end.error.is_some() || end.failed;
        if !gone && self.now < (shut + self.linger).min(self.cut_from) {
            let waited = self.now - shut;
            self.complain(|| format!("connection {id} was closed {waited:?} after its FIN"));
        }
    }

    /// Records that an error was injected into a call on this endpoint.
    pub(in crate::sim) fn fail(&mut self, id: EndpointId) {
        self.endpoints[id].failed = true;
    }

    /// Sends RST from `id`. All bytes in transit to the other side are lost.
    pub(in crate::sim) fn reset_other(&mut self, id: EndpointId) {
        let to = self.endpoints[id].other;
        self.endpoints[id].broken = true;
        let other = &mut self.endpoints[to];
        if other.closed {
            return;
        }
        other.under_way.clear();
        other.bytes_under_way = 0;
        other.error = Some(Errno::CONNRESET);
        other.reset = true;
        self.trace(5, id, to as u64, || format!("reset from {id} to {to}"));
        self.raise(to, Edge { readable: true, writable: true, read_on: true, at: Time::ZERO });
    }

    /// Closes with RST in any case.
    pub(crate) fn abort(&mut self, id: EndpointId) {
        let endpoint = &mut self.endpoints[id];
        if !std::mem::replace(&mut endpoint.closed, true) {
            endpoint.unseen.closed_at = Some(self.now);
            endpoint.unseen_at_close = Some(endpoint.unseen);
            endpoint.watch = None;
            if std::mem::take(&mut endpoint.ours) {
                self.descriptors_open -= 1;
            }
            self.reset_other(id);
        }
    }
}
