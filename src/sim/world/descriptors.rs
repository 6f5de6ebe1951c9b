//! Several descriptors of a socket, in several processes: a socket is closed with the last of them.
//! While a socket is on its way to another process, a token stands for its descriptor.

use super::{Edge, EndpointId, HandleTarget, World};
use crate::shared::moved::Token;

impl World {
    /// Another descriptor of a socket. The caller makes a handle or a token of it.
    fn copy(&mut self, what: HandleTarget) {
        *self.copies.entry(what).or_default() += 1;
        self.descriptors_open += usize::from(matches!(what, HandleTarget::Endpoint(_)));
    }

    /// Another descriptor of a listener, for a handle.
    pub(in crate::sim) fn share(&mut self, what: HandleTarget) -> HandleTarget {
        self.copy(what);
        what
    }

    /// A connection that is sent to another process.
    pub(in crate::sim) fn send_descriptor(&mut self, id: EndpointId) -> Token {
        self.copy(HandleTarget::Endpoint(id));
        self.tokens += 1;
        Token::new(id, &self.dropped)
    }

    /// A connection that has come from another process, for a handle.
    pub(in crate::sim) fn receive_descriptor(&mut self, token: &Token) -> HandleTarget {
        self.share(HandleTarget::Endpoint(token.number()))
    }

    /// Closes a descriptor, and the socket with the last one.
    pub(in crate::sim) fn close_descriptor(&mut self, what: HandleTarget) {
        if let Some(copies) = self.copies.get_mut(&what).filter(|copies| **copies > 0) {
            *copies -= 1;
            self.descriptors_open -= usize::from(matches!(what, HandleTarget::Endpoint(_)));
            return;
        }
        match what {
            HandleTarget::Endpoint(id) if self.kills => self.abort(id),
            HandleTarget::Endpoint(id) => self.close(id),
            HandleTarget::Listener(id) => self.close_listener(id),
        }
    }

    /// Closes the descriptors of tokens that were dropped. Returns whose they were.
    pub(in crate::sim) fn settle_tokens(&mut self) -> Vec<EndpointId> {
        let dropped = std::mem::take(&mut *self.dropped.lock().expect("nobody panics with it"));
        self.tokens -= dropped.len();
        dropped.iter().for_each(|&id| self.close_descriptor(HandleTarget::Endpoint(id)));
        dropped
    }

    /// How many sockets are on their way between processes.
    pub(in crate::sim) fn tokens(&self) -> usize {
        self.tokens
    }

    /// A worker is told nothing more of a socket.
    pub(in crate::sim) fn forget(&mut self, what: HandleTarget, worker: usize) {
        match what {
            HandleTarget::Endpoint(id) => {
                let end = &mut self.endpoints[id];
                if end.watch.is_some_and(|watch| watch.worker == worker) {
                    (end.watch, end.edge, end.forgotten) = (None, Edge::default(), true);
                }
            }
            HandleTarget::Listener(id) => {
                self.listeners[id].watches.retain(|(watch, _)| watch.worker != worker);
            }
        }
    }
}
