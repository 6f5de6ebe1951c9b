//! Reports the readiness of sockets to workers: edges that are raised once and taken once,
//! sometimes late. `connections` and `bytes` make sockets ready.

use std::time::Duration;

use super::{Edge, EndpointId, HandleTarget, ListenerId, Watch, World, WorldEvent};
use crate::base::time::Time;
use crate::sim::marks::Mark;

impl World {
    pub(super) fn raise(&mut self, id: EndpointId, edge: Edge) {
        if self.endpoints[id].watch.is_none() {
            return;
        }
        let at = self.told_at();
        let pending = &mut self.endpoints[id].edge;
        // Reported readiness is not taken back, so the earlier of two times counts.
        pending.at = if pending.any() { pending.at.min(at) } else { at };
        pending.readable |= edge.readable;
        pending.writable |= edge.writable;
        pending.read_on |= edge.read_on;
    }

    pub(super) fn raise_listener(&mut self, id: ListenerId) {
        let at = self.told_at();
        for (_, edge) in &mut self.listeners[id].watches {
            *edge = Edge { readable: true, at, ..Edge::default() };
        }
    }

    fn told_at(&mut self) -> Time {
        if !self.chance(self.rates.late_readiness) {
            return self.now;
        }
        self.mark(Mark::LateReadiness);
        let late = self.now + Duration::from_micros(self.rng.u64(1..5_000));
        self.at(late, WorldEvent::Readiness);
        late
    }

    pub(in crate::sim) fn watch(&mut self, what: HandleTarget, watch: Watch) {
        match what {
            HandleTarget::Listener(id) => {
                let waiting = !self.listeners[id].backlog.is_empty();
                let at = if waiting { self.told_at() } else { Time::ZERO };
                let edge = Edge { readable: waiting, at, ..Edge::default() };
                self.listeners[id].watches.push((watch, edge));
            }
            HandleTarget::Endpoint(id) => {
                self.endpoints[id].watch = Some(watch);
                if let Some(accepted_at) = &mut self.endpoints[id].accepted_at {
                    *accepted_at = self.now;
                }
                self.endpoints[id].edge = Edge::default();
                let edge = Edge {
                    readable: self.can_recv(id),
                    writable: !self.endpoints[id].connecting && self.can_send(id),
                    read_on: self.endpoints[id].fin_received
                        || self.endpoints[id].error.is_some()
                        || self.endpoints[id].mark.is_some(),
                    at: Time::ZERO,
                };
                // The next wait reports what was there before the socket was registered.
                if self.endpoints[id].forgotten {
                    self.endpoints[id].edge = edge;
                } else if edge.any() {
                    self.raise(id, edge);
                }
            }
        }
    }

    /// Whether a wait of this worker would report anything.
    pub(in crate::sim) fn is_ready(&self, worker: usize) -> bool {
        let of_worker = |watch: Option<Watch>| watch.is_some_and(|watch| watch.worker == worker);
        let due = |edge: Edge| edge.any() && edge.at <= self.now;
        let mut of_listeners = self.listeners.iter().flat_map(|end| &end.watches);
        self.endpoints.iter().any(|end| of_worker(end.watch) && due(end.edge))
            || of_listeners.any(|&(watch, edge)| watch.worker == worker && due(edge))
    }

    /// Takes the readiness due for a worker, in random order.
    pub(in crate::sim) fn take_ready(&mut self, worker: usize) -> Vec<(u64, Edge)> {
        let now = self.now;
        let mut ready = Vec::new();
        let ends = self.endpoints.iter_mut().map(|end| (end.watch, &mut end.edge));
        let listeners = self.listeners.iter_mut().flat_map(|end| &mut end.watches);
        let listeners = listeners.map(|(watch, edge)| (Some(*watch), edge));
        for (watch, edge) in ends.chain(listeners) {
            let Some(watch) = watch.filter(|watch| watch.worker == worker) else { continue };
            if edge.any() && edge.at <= now {
                ready.push((watch.token, std::mem::take(edge)));
            }
        }
        self.rng.shuffle(&mut ready);
        ready
    }

    /// Puts back readiness that was taken and not reported.
    pub(in crate::sim) fn put_back(&mut self, worker: usize, token: u64, edge: Edge) {
        let matches = |watch: Option<Watch>| {
            watch.is_some_and(|watch| watch.worker == worker && watch.token == token)
        };
        let ends = self.endpoints.iter_mut().map(|end| (end.watch, &mut end.edge));
        let listeners = self.listeners.iter_mut().flat_map(|end| &mut end.watches);
        let listeners = listeners.map(|(watch, edge)| (Some(*watch), edge));
        for (watch, pending) in ends.chain(listeners) {
            if matches(watch) {
                *pending = edge;
            }
        }
    }

    /// The token of a random watched connection of the worker.
    pub(in crate::sim) fn any_watched(&mut self, worker: usize) -> Option<u64> {
        let tokens: Vec<u64> = self
            .endpoints
            .iter()
            .filter(|end| !end.connecting)
            .filter_map(|end| end.watch)
            .filter(|watch| watch.worker == worker)
            .map(|watch| watch.token)
            .collect();
        (!tokens.is_empty()).then(|| tokens[self.rng.usize(0..tokens.len())])
    }

    /// Whether this worker still watches a connection with this token.
    pub(in crate::sim) fn is_watched(&self, worker: usize, token: u64) -> bool {
        let matches = |watch: Watch| watch.worker == worker && watch.token == token;
        self.endpoints.iter().any(|end| end.watch.is_some_and(matches))
    }
}
