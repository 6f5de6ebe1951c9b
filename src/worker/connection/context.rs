//! What a worker keeps for one connection. It is preallocated and small, because 10,000 clients
//! have one each.

use std::fmt;

use super::machine::{Event, Machine};
use crate::base::endpoint::Peer;
use crate::base::key::ConnectionId;
use crate::base::time::Time;
use crate::buffer::{Chain, Pool};
use crate::error::{CloseReason, Errno};
use crate::service::messenger::Messenger;
use crate::service::{Attention, Connection, Surroundings, assert_session_fits};
use crate::shared::permits::Permit;

/// How a connection was made.
pub(crate) struct Origin {
    pub(crate) id: ConnectionId,
    /// The peer as the socket reports it.
    pub(crate) peer: Peer,
    pub(crate) tag: u64,
    /// `None` for a connection that this side started.
    pub(crate) permit: Option<Permit>,
}

/// A connection. `Layer` is the state of its byte layer.
pub(crate) struct Context<Session, Layer = ()> {
    pub(crate) machine: Machine,
    /// Whether the peer is known and `Service::open` has been called.
    pub(crate) opened: bool,
    /// The peer has sent FIN, and the byte layer has not handled that yet.
    pub(crate) ended: bool,
    /// How many buffers the next receive may fill, derived from the previous receives.
    pub(crate) leases_wanted: u8,
    /// What the worker has to handle after a call of the service.
    pub(crate) attention: Attention,
    pub(crate) reason: Option<CloseReason>,
    /// The error that a connect failed with.
    pub(crate) connect_error: Option<Errno>,
    pub(crate) id: ConnectionId,
    pub(crate) peer: Peer,
    pub(crate) tag: u64,
    /// Bytes received and not consumed by the service.
    pub(crate) input: Chain,
    /// Bytes to send after those that the engine is sending now.
    pub(crate) output: Chain,
    /// When bytes last moved.
    pub(crate) active_at: Time,
    /// The deadline of the current phase: for the connect, for the layer to learn the peer, for the
    /// service's timer, or for the end of lingering.
    pub(crate) deadline: Time,
    /// When the pending Send, or the last count of unacknowledged bytes, began. Valid while the
    /// output is stalled.
    pub(crate) stalled_since: Time,
    /// Bytes that the peer had not acknowledged when last checked.
    pub(crate) unacknowledged: Option<u32>,
    pub(crate) bytes_received: u64,
    pub(crate) bytes_sent: u64,
    /// Bytes received after this side had begun to close.
    pub(crate) bytes_discarded: u64,
    pub(crate) session: Session,
    pub(crate) layer: Layer,
    /// `None` for a connection that this side started.
    permit: Option<Permit>,
}

impl<Session: Default, Layer> Context<Session, Layer> {
    pub(crate) fn new(
        machine: Machine,
        Origin { id, peer, tag, permit }: Origin,
        layer: Layer,
        pool: &Pool,
        now: Time,
    ) -> Context<Session, Layer> {
        const { assert_session_fits::<Session>() };
        Context {
            machine,
            opened: false,
            ended: false,
            leases_wanted: 1,
            attention: Attention::default(),
            reason: None,
            connect_error: None,
            id,
            peer,
            tag,
            input: Chain::new(pool),
            output: Chain::new(pool),
            active_at: now,
            deadline: Time::MAX,
            stalled_since: now,
            unacknowledged: None,
            bytes_received: 0,
            bytes_sent: 0,
            bytes_discarded: 0,
            session: Session::default(),
            layer,
            permit,
        }
    }
}

impl<Session, Layer> Context<Session, Layer> {
    /// The connection as its service sees it, and the service's session.
    #[inline(always)]
    pub(crate) fn for_service<'a>(
        &'a mut self,
        pool: &'a Pool,
        messenger: &'a Messenger,
        now: Time,
        around: &'a dyn Surroundings,
    ) -> (Connection<'a>, &'a mut Session) {
        let connection = Connection {
            id: self.id,
            peer: self.peer,
            tag: self.tag,
            discarded: self.bytes_discarded,
            sent: self.bytes_sent,
            now,
            around,
            pool,
            messenger,
            attention: &self.attention,
            timer: &mut self.deadline,
            input: &mut self.input,
            output: &mut self.output,
        };
        (connection, &mut self.session)
    }

    /// Records that a Send has completed, with `bytes` of the service's output. Returns whether
    /// `Service::sent` is due because all output is sent.
    #[inline]
    pub(crate) fn sent(&mut self, bytes: usize, now: Time) -> bool {
        self.active_at = now;
        self.bytes_sent += bytes as u64;
        self.machine.apply(Event::Sent);
        self.output.is_empty() && self.machine.delivers()
    }

    /// Whether the service knows the connection and may still be called for it.
    pub(crate) fn is_open(&self) -> bool {
        self.opened && self.machine.is_open()
    }

    /// Counts the connection for the address of its peer, unless it is counted already. Returns
    /// false if the address has as many connections as it may have.
    pub(crate) fn count_address(&mut self) -> bool {
        self.permit.as_mut().is_none_or(|permit| permit.count_address(self.peer))
    }

    /// Whether it was accepted from a listener.
    pub(crate) fn was_accepted(&self) -> bool {
        self.permit.is_some()
    }

    /// Whether the socket was ever connected.
    pub(crate) fn was_established(&self) -> bool {
        self.connect_error.is_none() && !self.machine.is_connecting()
    }

    /// The id, the peer and the byte counts, for the log.
    pub(crate) fn summary(&self) -> Option<Summary> {
        self.was_established().then_some(Summary {
            id: self.id,
            peer: self.peer,
            received: self.bytes_received,
            sent: self.bytes_sent,
        })
    }
}

/// A closed connection, formatted for the log.
pub(crate) struct Summary {
    id: ConnectionId,
    peer: Peer,
    received: u64,
    sent: u64,
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Summary { id, peer, received, sent } = self;
        write!(f, "id={id} peer={peer} in={received} out={sent}")
    }
}

// A little over three cache lines without a session: 10,000 idle clients take 2 MiB.
const _: () = assert!(size_of::<Context<()>>() <= 208);

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;

    use super::*;
    use crate::buffer::Reserve;
    use crate::shared::addresses::Addresses;
    use crate::shared::mailbox::Mailboxes;
    use crate::shared::permits::Permits;

    fn new(machine: Machine, pool: &Pool) -> Context<()> {
        let peer = Peer::from(SocketAddr::from(([127, 0, 0, 1], 7)));
        let origin = Origin { id: ConnectionId(3), peer, tag: 0, permit: None };
        Context::new(machine, origin, (), pool, Time::ZERO)
    }

    #[test]
    fn that_all_is_sent_is_told_of_an_open_connection_with_nothing_left_to_send() {
        let pool = Pool::new(Reserve::new(8, 1).unwrap(), 0);
        for (is_left, finishes, told) in
            [(false, false, true), (true, false, false), (false, true, false)]
        {
            let mut context = new(Machine::accepted(false), &pool);
            context.machine.next(true);
            if finishes {
                context.machine.apply(Event::Finish);
            }
            if is_left {
                let mut lease = pool.lease().unwrap();
                lease.extend_from_slice(b"left");
                context.output.push_back(lease);
            }
            let now = Time::from_nanos(5);
            assert_eq!(context.sent(3, now), told, "left: {is_left}, finishes: {finishes}");
            assert_eq!((context.bytes_sent, context.active_at), (3, now));
        }
    }

    #[test]
    fn an_accepted_connection_counts_for_its_address_and_one_that_this_side_started_does_not() {
        let pool = Pool::new(Reserve::new(8, 1).unwrap(), 0);
        let addresses = Addresses::new(1, 2).unwrap();
        let permits = Permits::with_addresses(2, Arc::new(Mailboxes::new(1)), Some(addresses));
        let mut contexts = [permits.try_take(), permits.try_take(), None].map(|permit| {
            let mut context = new(Machine::accepted(false), &pool);
            context.permit = permit;
            context
        });
        assert_eq!(contexts.each_ref().map(Context::was_accepted), [true, true, false]);
        assert_eq!(contexts.each_mut().map(Context::count_address), [true, false, true]);
    }

    #[test]
    fn the_log_tells_of_connections_that_were_established_only() {
        let pool = Pool::new(Reserve::new(8, 1).unwrap(), 0);
        let context = |machine, connect_error| {
            let mut context = new(machine, &pool);
            (context.bytes_received, context.bytes_sent) = (20, 10);
            context.connect_error = connect_error;
            context
        };
        let summary = context(Machine::accepted(false), None).summary().unwrap();
        assert_eq!(summary.to_string(), "id=3 peer=127.0.0.1:7 in=20 out=10");
        assert!(context(Machine::connecting(false), None).summary().is_none());
        let refused = Some(Errno::CONNREFUSED);
        assert!(context(Machine::accepted(false), refused).summary().is_none());
    }
}
