//! The threads for datagrams of a server: what they are made of, their start, and their end.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;
use std::{io, mem};

use super::{Running, ServerState, ThreadEnd};
use crate::base::endpoint::Endpoint;
use crate::buffer::room;
use crate::config::{Config, Limits, Sizes, UdpOptions};
use crate::error::StartError;
use crate::net::bind::{self, Offer, set_receive_buffer};
use crate::net::sockopt::report_times_and_hop_limits;
use crate::service::{DatagramService, ServiceFactory};
use crate::shared::counters::Counters;
use crate::worker::datagram::{self, STACK_BYTES, Setup, SourceRates, Stopper, Thread};

/// The listeners for datagrams.
#[derive(Default)]
pub(super) struct Datagrams(Vec<DatagramListener>);

/// A listener for datagrams.
struct DatagramListener {
    endpoint: Endpoint,
    /// Whether its sockets are made by this process.
    is_new: bool,
    options: UdpOptions,
    /// One for each worker.
    services: Vec<Box<dyn DatagramService + Send>>,
    /// The same, once they are bound.
    sockets: Vec<Arc<OwnedFd>>,
}

/// What of the threads is shared with the server's handle.
#[derive(Default)]
pub(super) struct DatagramThreads {
    pub(super) stopper: Arc<Stopper>,
    /// The worker that each thread stands beside, and its counters.
    pub(super) counters: Vec<(usize, Arc<Counters>)>,
}

impl DatagramListener {
    /// Sets what the options and the services say of the sockets, also of those that another process
    /// has bound.
    fn set_up_sockets(&self) -> Result<(), StartError> {
        let is_ipv6 = self.endpoint.socket_addr().is_some_and(|address| address.is_ipv6());
        let failed = |(call, error)| StartError::Listen { endpoint: self.endpoint, call, error };
        for (socket, service) in self.sockets.iter().zip(&self.services) {
            set_receive_buffer(socket, self.options.receive_buffer, self.is_new).map_err(failed)?;
            if service.needs_times() {
                report_times_and_hop_limits(socket, is_ipv6).map_err(failed)?;
            }
        }
        Ok(())
    }
}

impl Datagrams {
    /// Makes the services of the endpoints for datagrams.
    ///
    /// # Errors
    /// The server's service has no datagrams.
    pub(super) fn new(
        config: &Config,
        limits: &Limits,
        factory: &impl ServiceFactory,
    ) -> Result<Datagrams, StartError> {
        let udp = |(number, on): (usize, &bind::ListenOn)| {
            let endpoint = on.endpoint.is_datagram().then_some(on.endpoint)?;
            let services = (0..limits.workers).map(|_| factory.datagrams(number)).collect();
            let services: Option<Vec<_>> = services;
            let options = on.transport.udp().cloned().unwrap_or_default();
            let (is_new, sockets) = (on.inherited.is_none(), Vec::new());
            let listener =
                |services| DatagramListener { endpoint, is_new, options, services, sockets };
            Some(services.map(listener).ok_or(StartError::NoDatagrams(endpoint)))
        };
        let listeners = config.listen.iter().enumerate().filter_map(udp);
        Ok(Datagrams(listeners.collect::<Result<_, _>>()?))
    }

    /// Sets what the threads need.
    pub(super) fn add_to(&self, sizes: &mut Sizes) {
        for listener in &self.0 {
            let threads = listener.services.len();
            let longest = listener.options.max_datagram as usize;
            let rates = listener.options.source_rate.map_or(0, |_| SourceRates::BYTES);
            let services: u64 = listener.services.iter().map(|one| one.memory_bytes()).sum();
            sizes.datagram_threads += threads;
            sizes.datagram_bytes +=
                threads as u64 * datagram::bytes_each(longest) + rates + services;
        }
    }

    /// Binds the sockets.
    pub(super) fn bind(
        mut self,
        config: &Config,
        limits: &Limits,
    ) -> Result<Datagrams, StartError> {
        let (workers, share_port) = (limits.workers, limits.share_port);
        let bound = bind::bind_datagrams(&config.listen, &config.names, workers, share_port)?;
        for (listener, bound) in self.0.iter_mut().zip(bound) {
            listener.endpoint = bound.endpoint;
            let own = |socket| Arc::new(OwnedFd::from(socket));
            listener.sockets = bound.sockets.into_iter().map(own).collect();
            listener.set_up_sockets()?;
        }
        Ok(self)
    }

    /// Where the sockets are bound, in order.
    pub(super) fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.0.iter().map(|listener| listener.endpoint)
    }

    /// The sockets, for a process that takes them over.
    pub(super) fn offers<'a>(
        &'a self,
        listen: &'a [bind::ListenOn],
    ) -> impl Iterator<Item = Offer> + 'a {
        let datagrams = listen.iter().enumerate().filter(|(_, on)| on.endpoint.is_datagram());
        let offer = |((number, on), listener): ((usize, &bind::ListenOn), &DatagramListener)| {
            Offer::of_datagrams(number, on.endpoint, &listener.sockets)
        };
        datagrams.zip(&self.0).map(offer)
    }

    /// What is shared with the handle.
    pub(super) fn threads(&self) -> DatagramThreads {
        let sockets = self.0.iter().flat_map(|listener| &listener.sockets);
        let stopper = Stopper::new(sockets.map(Arc::downgrade).collect());
        let workers = self.0.iter().flat_map(|listener| 0..listener.services.len());
        DatagramThreads {
            stopper: Arc::new(stopper),
            counters: workers.map(|worker| (worker, Arc::default())).collect(),
        }
    }

    /// Starts the threads.
    ///
    /// # Errors
    /// The system refuses the memory or a thread.
    pub(super) fn start(
        mut self,
        limits: &Limits,
        sizes: &Sizes,
        running: &mut Running,
    ) -> io::Result<()> {
        room::check(sizes.datagram_bytes)?;
        let mut at = 0;
        for (number, listener) in self.0.iter_mut().enumerate() {
            let rate = listener.options.source_rate;
            let rates = rate.map(|rate| Arc::new(SourceRates::new(rate.per_second())));
            let sockets = mem::take(&mut listener.sockets).into_iter();
            for (socket, service) in sockets.zip(mem::take(&mut listener.services)) {
                let shared = running.shared.clone();
                let (worker, counters) = shared.datagrams.counters[at].clone();
                at += 1;
                let setup = Setup {
                    socket,
                    is_new: listener.is_new,
                    port: listener.endpoint.socket_addr().map_or(0, |address| address.port()),
                    longest: listener.options.max_datagram as usize,
                    segmentation: listener.options.segmentation,
                    rates: rates.clone(),
                    service,
                    counters,
                    stopper: shared.datagrams.stopper.clone(),
                    busy_poll: limits.busy_poll,
                };
                let thread = thread::Builder::new()
                    .name(format!("udp-{number}-{worker}"))
                    .stack_size(STACK_BYTES)
                    .spawn(move || work(&shared, setup))?;
                running.threads.push(thread);
            }
        }
        Ok(())
    }
}

/// Runs a thread from start to end.
fn work(shared: &Arc<ServerState>, setup: Setup) {
    let mut end = ThreadEnd { shared, worker: None, cut: 0, failed: true };
    Thread::new(setup).run();
    end.failed = false;
}
