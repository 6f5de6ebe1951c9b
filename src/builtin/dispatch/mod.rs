//! One type for all services of the daemon, so that each listener can have its own: an enum of the
//! services that implements the trait by `match`. `list` names the services. Each one is
//! implemented in its own file.

use super::list::services;
use super::{Chargen, Delay, Delimited, Discard, Echo, Framed, Hub, ServiceOptions, Timed};
#[cfg(feature = "daemon")]
use crate::base::key::LISTENERS_ADDED_MAX;
use crate::base::key::LISTENERS_MAX;
use crate::base::time::Time;
use crate::buffer::Lease;
use crate::config::{Config, Limits, MemorySum};
use crate::error::{CloseReason, SettingError, StartError};
use crate::server::{Server, ServerHandle};
use crate::service::{
    Answer, Connection, DatagramService, Message, Service, ServiceFactory, ServicePlan, Turn,
    WorkerContext,
};

macro_rules! builtin {
    ($($url:ident: $name:ident = $service:ident $(($options:ident: $_type:ty))?,
        $what:literal;)*) => {
        /// One of the services that come with the daemon.
        enum Builtin {
            $(#[doc = concat!("`", stringify!($url), "://`: ", $what, ".")] $name($service),)*
        }

        /// The session state of a connection's service.
        #[derive(Default)]
        #[non_exhaustive]
        pub enum BuiltinSession {
            /// The connection is not open yet.
            #[default]
            None,
            $(#[doc = $what] $name(<$service as Service>::Session),)*
        }

        impl Builtin {
            fn session(&self) -> BuiltinSession {
                match self {
                    $(Builtin::$name(_) => BuiltinSession::$name(Default::default()),)*
                }
            }

            fn resumed(&self, tag: u64, continuation: u64) -> BuiltinSession {
                match self {
                    $(Builtin::$name(one) => {
                        BuiltinSession::$name(one.resumed(tag, continuation))
                    })*
                }
            }
        }

        /// Calls one method on any of the services.
        macro_rules! with {
            ($of:expr, $one:ident => $call:expr) => {
                match $of { $(Builtin::$name($one) => $call,)* }
            };
        }

        /// Does the same with the session that belongs to the service.
        macro_rules! with_session {
            ($of:expr, $session:expr, ($one:ident, $its:ident) => $call:expr) => {
                match ($of, $session) {
                    $((Builtin::$name($one), BuiltinSession::$name($its)) => $call,)*
                    _ => unreachable!("a session is made by the service of its connection"),
                }
            };
        }

        /// Uses the factory of a service and the constructor of its [`Builtin`] variant.
        macro_rules! with_factory {
            ($of:expr, ($factory:ident, $variant:pat) => $call:expr) => {
                match $of {
                    $(ServiceOptions::$name $(($options))? => {
                        match (factory!($service $($options)?), Builtin::$name) {
                            ($factory, $variant) => $call,
                        }
                    })*
                }
            };
        }
    };
}

/// The factory of a service: its options, or the service itself if it has none.
macro_rules! factory {
    ($service:ident) => {
        $service
    };
    ($service:ident $options:ident) => {
        $options
    };
}

services!(builtin);

/// Not inlined: only the echo is inlined, so that the other services do not lengthen its path.
impl Builtin {
    #[inline(never)]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut BuiltinSession) -> Answer {
        with_session!(self, session, (service, its) => service.data(connection, its))
    }

    #[inline(never)]
    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut BuiltinSession) -> Answer {
        with_session!(self, session, (service, its) => service.sent(connection, its))
    }
}

/// A service for each listener, by the listener's index in
/// [`Config::listen`](crate::Config::listen).
///
/// ```
/// use std::net::{Ipv6Addr, SocketAddr};
/// use echopool::Config;
/// use echopool::builtin::{OfListener, ServiceOptions};
///
/// let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
/// let config = Config::new().listen(anywhere).listen(anywhere).max_connections(100);
/// let services = OfListener::new(vec![ServiceOptions::Echo, ServiceOptions::Discard]);
/// let server = services.start(config)?;
/// # Ok::<(), echopool::StartError>(())
/// ```
#[derive(Clone, Debug)]
pub struct OfListener {
    services: Vec<ServiceOptions>,
    /// How many listeners may be added later for each service.
    spares: usize,
}

impl OfListener {
    /// Creates the factory. The first service is that of the first listener, and so on.
    pub fn new(services: Vec<ServiceOptions>) -> OfListener {
        OfListener { services, spares: 0 }
    }

    /// Keeps numbers free for listeners that are added while the server runs.
    #[cfg(feature = "daemon")]
    pub(crate) fn with_spares(self) -> OfListener {
        OfListener { spares: LISTENERS_ADDED_MAX, ..self }
    }

    /// The services of the listeners that can be added, in the order of their numbers, which follow
    /// those of the others. There are some for each service that has no tables: what its connections
    /// need is there, and there are not more of them.
    pub(crate) fn spares(&self) -> Vec<ServiceOptions> {
        let mut distinct: Vec<ServiceOptions> = Vec::new();
        for service in &self.services {
            let is_possible = service.serves_streams() && !service.has_tables();
            if is_possible && !distinct.contains(service) {
                distinct.push(*service);
            }
        }
        let each = distinct.into_iter().flat_map(|one| std::iter::repeat_n(one, self.spares));
        each.take(LISTENERS_MAX.saturating_sub(self.services.len())).collect()
    }

    /// Starts a server with these services. If all of them are echo, the server runs [`Echo`]
    /// itself, without the `match` over the services. The `match` costs about 100 instructions per
    /// echo.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self, config: Config) -> Result<ServerHandle, StartError> {
        match self.is_echo(&config) {
            true => Server::start(config, Echo),
            false => Server::start(config, self),
        }
    }

    /// The limits and the memory of the server that [`start`](OfListener::start) would start.
    ///
    /// # Errors
    /// As [`Server::check`].
    pub fn plan_of(self, config: &Config) -> Result<(Limits, MemorySum), StartError> {
        match self.is_echo(config) {
            true => Server::check(config, Echo),
            false => Server::check(config, self),
        }
    }

    /// Whether all services are echo.
    fn is_echo(&self, config: &Config) -> bool {
        let only_echo = self.services.iter().all(|one| matches!(one, ServiceOptions::Echo));
        only_echo && self.services.len() == config.listen.len()
    }
}

impl ServiceFactory for OfListener {
    type Service = ListenerServices;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        if self.services.len() != limits.listeners {
            let (services, listeners) = (self.services.len(), limits.listeners);
            let text = format!("{services} services for {listeners} listeners: give one for each");
            return Err(SettingError::new("listen", listeners, text));
        }
        for one in &self.services {
            with_factory!(*one, (options, _) => ServiceFactory::check(&options, limits))?;
        }
        // Each service has checked its own references. Links have 32-bit numbers.
        let references = self.clone().plan(limits).references_each() as u64;
        if references + u64::from(limits.buffers) >= u64::from(u32::MAX) {
            let text = format!(
                "{} connections need more than 2^32 references to buffers with these listeners \
                 together: ask for fewer connections (`max_connections`), fewer hubs, or shorter \
                 queues (`queue`)",
                limits.max_connections,
            );
            return Err(SettingError::new("max_connections", limits.max_connections, text));
        }
        Ok(())
    }

    fn datagrams(&self, listener: usize) -> Option<Box<dyn DatagramService + Send>> {
        let service = *self.services.get(listener)?;
        with_factory!(service, (options, _) => options.datagrams(listener))
    }

    fn plan(self, limits: &Limits) -> ServicePlan<ListenerServices> {
        let plan = |one| with_factory!(one, (options, to) => options.plan(limits).map(to));
        let (spares, own) = (self.spares(), self.services.len());
        let plans: Vec<_> = self.services.into_iter().chain(spares).map(plan).collect();
        let bytes = plans[..own].iter().map(ServicePlan::bytes_each).sum();
        // The connections of a listener that is added are not those of another one.
        let references = plans[..own].iter().map(ServicePlan::references_each).sum();
        let services = move |worker: &WorkerContext| {
            let of = |(index, plan): (_, &ServicePlan<_>)| plan.make(&worker.of_listener(index));
            let services = plans.iter().enumerate().map(of).collect();
            ListenerServices { services, own, first: 0 }
        };
        ServicePlan::new(services).memory_bytes(bytes).references(references)
    }
}

/// The services of all listeners on one worker, created by [`OfListener`].
pub struct ListenerServices {
    /// By the numbers of the listeners.
    services: Vec<Builtin>,
    /// How many of them, the first ones, have turns. Those of listeners that are added later need none.
    own: usize,
    /// Index of the service that is called first in this turn.
    first: usize,
}

impl ListenerServices {
    #[inline]
    fn of(&mut self, connection: &Connection<'_>) -> &mut Builtin {
        &mut self.services[connection.tag() as usize]
    }
}

impl Service for ListenerServices {
    type Session = BuiltinSession;

    #[inline]
    fn fresh_clock(&self, tag: u64) -> bool {
        with!(&self.services[tag as usize], service => service.fresh_clock(tag))
    }

    fn full_duplex(&self, tag: u64) -> bool {
        with!(&self.services[tag as usize], service => service.full_duplex(tag))
    }

    fn can_move(&self, tag: u64, session: &BuiltinSession) -> bool {
        let of = &self.services[tag as usize];
        with_session!(of, session, (service, its) => service.can_move(tag, its))
    }

    fn continuation(&self, tag: u64, session: &BuiltinSession, unsent: usize) -> Option<u64> {
        let of = &self.services[tag as usize];
        with_session!(of, session, (service, its) => service.continuation(tag, its, unsent))
    }

    fn resumed(&self, tag: u64, continuation: u64) -> BuiltinSession {
        self.services[tag as usize].resumed(tag, continuation)
    }

    fn input_max(&self, tag: u64) -> usize {
        with!(&self.services[tag as usize], service => service.input_max(tag))
    }

    fn open(&mut self, connection: &mut Connection<'_>, session: &mut BuiltinSession) -> Answer {
        let of = self.of(connection);
        if matches!(session, BuiltinSession::None) {
            *session = of.session();
        }
        with_session!(of, session, (service, its) => service.open(connection, its))
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, session: &mut BuiltinSession) -> Answer {
        match self.of(connection) {
            Builtin::Echo(echo) => echo.data(connection, &mut ()),
            other => other.data(connection, session),
        }
    }

    #[inline]
    fn sent(&mut self, connection: &mut Connection<'_>, session: &mut BuiltinSession) -> Answer {
        match self.of(connection) {
            Builtin::Echo(echo) => echo.sent(connection, &mut ()),
            other => other.sent(connection, session),
        }
    }

    fn peer_closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut BuiltinSession,
    ) -> Answer {
        let of = self.of(connection);
        with_session!(of, session, (service, its) => service.peer_closed(connection, its))
    }

    fn draining(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut BuiltinSession,
    ) -> Answer {
        let of = self.of(connection);
        with_session!(of, session, (service, its) => service.draining(connection, its))
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut BuiltinSession) -> Answer {
        let of = self.of(connection);
        with_session!(of, session, (service, its) => service.timer(connection, its))
    }

    fn buffer_available(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut BuiltinSession,
    ) -> Answer {
        let of = self.of(connection);
        with_session!(of, session, (service, its) => service.buffer_available(connection, its))
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut BuiltinSession,
        message: &mut Message<'_>,
    ) -> Answer {
        let of = self.of(connection);
        with_session!(of, session, (service, its) => service.message(connection, its, message))
    }

    fn finishing(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut BuiltinSession,
    ) -> Option<CloseReason> {
        let of = self.of(connection);
        if matches!(session, BuiltinSession::None) {
            return None;
        }
        with_session!(of, session, (service, its) => service.finishing(connection, its))
    }

    fn closed(
        &mut self,
        connection: &mut Connection<'_>,
        session: &mut BuiltinSession,
        reason: CloseReason,
    ) {
        let of = self.of(connection);
        if !matches!(session, BuiltinSession::None) {
            with_session!(of, session, (service, its) => service.closed(connection, its, reason));
        }
    }

    fn parcel(&mut self, listener: usize, lease: Lease, now: Time) {
        if let Some(one) = self.services.get_mut(listener) {
            with!(one, service => service.parcel(listener, lease, now));
        }
    }

    #[inline]
    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        // The services take turns: the number of wakes per turn is limited, and the first service
        // could use all of them.
        self.first = if self.first + 1 < self.own { self.first + 1 } else { 0 };
        let (last, first) = self.services[..self.own].split_at_mut(self.first);
        let wants = |one: &mut Builtin| with!(one, service => service.turn(turn));
        first.iter_mut().chain(last).filter_map(wants).min()
    }
}

#[cfg(test)]
mod tests;
