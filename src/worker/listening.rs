//! Listeners that are added to a running worker, and those that are removed.
//!
//! A listener that is added is stopped: the server starts it when every worker has it. One that is
//! removed first accepts what waits in its backlog, as in a drain, because closing it resets that. What
//! waits for a permit or a descriptor does not keep it open: nobody knows how long that takes.
//! Connections that it has accepted continue.

use super::Core;
use super::accept::{Listener, ListenerOf};
use super::drain::ACCEPTING_TURNS;
use super::layer::Layer;
use crate::base::key::LISTENERS_MAX;
use crate::engine::Engine;
use crate::engine::sys::Listening;
use crate::service::Service;
use crate::shared::moved::Passed;
use crate::shared::receipt::Receipt;

/// Listeners that are being removed.
pub(super) struct Leaving {
    numbers: Vec<usize>,
    /// In how many turns they may still accept.
    turns_left: u32,
    receipt: Receipt,
}

impl<S: Service, L: Layer> Core<S, L> {
    /// Watches further listeners. Returns how many it watches. A worker that ends adds none.
    #[cold]
    pub(super) fn add_listeners<E: Engine>(
        &mut self,
        engine: &mut E,
        added: Vec<Listening<Passed>>,
    ) -> u64 {
        if self.stopping || self.drain.is_some() {
            return 0;
        }
        let mut watched = 0;
        for listening in added {
            let of = ListenerOf { number: listening.number, kept: listening.kept.clone() };
            let closed = self.listeners.iter().position(Listener::is_closed);
            let index = closed.unwrap_or(self.listeners.len());
            if index == LISTENERS_MAX {
                log::warn!("worker {} has no room for another listener", self.index);
            } else if let Err(error) = engine.listen(index, listening) {
                log::warn!("worker {} cannot watch another listener: {error}", self.index);
            } else {
                let listener = Listener::stopped(&of);
                match self.listeners.get_mut(index) {
                    None => self.listeners.push(listener),
                    Some(closed) => *closed = listener,
                }
                watched += 1;
            }
        }
        watched
    }

    /// Begins to remove the listeners with these numbers. They are closed from the next turn on, whose
    /// wait reports the connections that have arrived by now.
    #[cold]
    pub(super) fn begin_to_leave(&mut self, numbers: Vec<usize>, receipt: Receipt) {
        self.leaving.push(Leaving { numbers, turns_left: ACCEPTING_TURNS, receipt });
        self.mailboxes.notify(self.index);
    }

    /// Closes the listeners that are being removed once nobody waits at them. Returns whether some of
    /// them are left.
    #[inline]
    pub(super) fn close_leaving<E: Engine>(&mut self, engine: &mut E) -> bool {
        if !self.leaving.is_empty() {
            self.close_some(engine);
        }
        !self.leaving.is_empty()
    }

    #[cold]
    fn close_some<E: Engine>(&mut self, engine: &mut E) {
        // Put back, with its memory.
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.retain_mut(|Leaving { numbers, turns_left, receipt }| {
            let mut is_open = false;
            for index in 0..self.listeners.len() {
                let listener = &self.listeners[index];
                if numbers.contains(&listener.number()) && !listener.is_closed() {
                    if *turns_left == 0 || !listener.has_yielded() {
                        self.close_listener(engine, index);
                    }
                    is_open |= !self.listeners[index].is_closed();
                }
            }
            *turns_left = turns_left.saturating_sub(1);
            if !is_open {
                receipt.queued = 1;
            }
            is_open
        });
        self.leaving = leaving;
    }
}
