//! A layer that holds back bytes, sends its own and names the peer, on the real kernel: what its
//! client, its service, the directory and the counters see of it.

use std::cell::RefCell;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Layer;
use super::header::{self, FAREWELL, Header, REFUSAL, WANTS_FAREWELL, WELCOME};
use crate::base::endpoint::Peer;
use crate::buffer::{Lease, Pool, Reserve};
use crate::engine::MioEngine;
use crate::engine::sys::Kernel;
use crate::error::CloseReason;
use crate::net::bind;
use crate::service::{Answer, Connection, Message, Service, To, WorkerContext};
use crate::shared::counters::Counters;
use crate::shared::directory::Directory;
use crate::shared::mailbox::{EndOrder, Mailboxes};
use crate::shared::permits::Permits;
use crate::worker::{Rules, Setup, Worker};

const GUARD: Duration = Duration::from_secs(20);
const KEY: u8 = 0x3C;

/// A call that the service got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Told {
    Open(Peer),
    Data(Vec<u8>),
    /// There was no buffer for the reply.
    Waits,
    Timer,
    /// A message arrived for this client.
    Message(Peer),
    Sent(u64),
    PeerClosed,
    Closed(CloseReason),
}

/// What the service does with data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Does {
    /// Sends back the buffers that arrived.
    Echo,
    /// Sends back a copy, which needs a buffer.
    Copy,
    /// Like `Echo`, and sets its timer to this time after the connection was opened.
    Time(Duration),
    /// Sends a message to all clients.
    Tell,
}

/// Records the calls that it gets.
#[derive(Clone)]
pub(super) struct Noting {
    told: Rc<RefCell<Vec<Told>>>,
    does: Does,
}

impl Noting {
    fn note(&self, told: Told) {
        self.told.borrow_mut().push(told);
    }

    fn copy(&self, connection: &mut Connection<'_>) -> Answer {
        let bytes: Vec<u8> = connection.input.slices().flatten().copied().collect();
        if !connection.send(&bytes) {
            self.note(Told::Waits);
            return Answer::Continue;
        }
        connection.input.consume(bytes.len());
        self.note(Told::Data(bytes));
        Answer::Continue
    }
}

impl Service for Noting {
    type Session = ();

    fn open(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        self.note(Told::Open(connection.peer()));
        if let Does::Time(after) = self.does {
            connection.set_timer(connection.now() + after);
        }
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        match self.does {
            Does::Echo | Does::Time(_) => {}
            Does::Copy => return self.copy(connection),
            Does::Tell => connection.send_message(To::All, b"m").unwrap(),
        }
        self.note(Told::Data(connection.input.slices().flatten().copied().collect()));
        connection.output.append(connection.input);
        Answer::Continue
    }

    fn buffer_available(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        self.copy(connection)
    }

    fn timer(&mut self, _: &mut Connection<'_>, (): &mut ()) -> Answer {
        self.note(Told::Timer);
        Answer::Continue
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        (): &mut (),
        _: &mut Message<'_>,
    ) -> Answer {
        self.note(Told::Message(connection.peer()));
        Answer::Continue
    }

    fn sent(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        self.note(Told::Sent(connection.bytes_sent()));
        Answer::Continue
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, (): &mut ()) -> Answer {
        self.note(Told::PeerClosed);
        Answer::CloseAfterSend
    }

    fn closed(&mut self, _: &mut Connection<'_>, (): &mut (), reason: CloseReason) {
        self.note(Told::Closed(reason));
    }
}

/// A worker with the layer, one listener and one client. It takes a turn when the test says so.
pub(super) struct Layered<L: Layer = Header> {
    pub(super) worker: Worker<MioEngine<Kernel>, Noting, L>,
    pub(super) told: Rc<RefCell<Vec<Told>>>,
    directory: Arc<Directory>,
    pub(super) counters: Arc<Counters>,
    pub(super) mailboxes: Arc<Mailboxes>,
    pub(super) pool: Pool,
    address: SocketAddr,
    pub(super) client: TcpStream,
    /// The bytes that came back.
    heard: Vec<u8>,
}

impl Layered {
    fn new(buffers: u32, timeout: Duration) -> Layered {
        Layered::that(Does::Echo, buffers, timeout)
    }

    fn that(does: Does, buffers: u32, timeout: Duration) -> Layered {
        Layered::over(Header { timeout }, does, buffers, 64)
    }
}

impl<L: Layer> Layered<L> {
    pub(super) fn over(layer: L, does: Does, buffers: u32, buffer_size: usize) -> Layered<L> {
        let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let mut bound = bind::bind_all(&[anywhere.into()], 1, 16, false).unwrap();
        let one = bound.pop().unwrap();
        let address = one.endpoint.socket_addr().unwrap();
        let mailboxes = Arc::new(Mailboxes::new(1));
        let permits = Permits::new(8, mailboxes.clone());
        let pool = Pool::new(Reserve::new(buffer_size, buffers).unwrap(), 0);
        let (directory, counters) = (Directory::new(1, 8), Arc::<Counters>::default());
        let setup = Setup {
            index: 0,
            connections_max: 8,
            listeners: 1,
            rules: Rules {
                leases_per_connection_max: 2,
                idle_timeout: None,
                send_timeout: None,
                shed_after: None,
                linger: Duration::from_secs(1),
                log_sample: 1,
                accept_pause: Duration::from_millis(50),
            },
            pool: pool.clone(),
            permits: Some(permits.clone()),
            mailboxes: mailboxes.clone(),
            counters: counters.clone(),
            directory: Some(directory.clone()),
        };
        let (kernel, listeners) = (Kernel::new().unwrap(), one.into_listening().collect());
        let engine = MioEngine::new(kernel, 8, pool.clone(), Some(permits), listeners).unwrap();
        let told = Rc::<RefCell<Vec<Told>>>::default();
        let make = |_: &WorkerContext| Noting { told: told.clone(), does };
        let mut worker = Worker::with_layer(engine, setup, make, layer);
        worker.begin();
        let client = TcpStream::connect(address).unwrap();
        client.set_nonblocking(true).unwrap();
        let heard = Vec::new();
        Layered { worker, told, directory, counters, mailboxes, pool, address, client, heard }
    }

    /// Replaces the client by another.
    #[cfg(feature = "tls")]
    pub(super) fn connects(&mut self) {
        self.client = TcpStream::connect(self.address).unwrap();
        self.client.set_nonblocking(true).unwrap();
    }

    pub(super) fn says(&mut self, bytes: &[u8]) {
        assert_eq!(self.client.write(bytes).unwrap(), bytes.len());
    }

    pub(super) fn turn(&mut self) {
        self.mailboxes.wake(0);
        self.worker.turn().unwrap();
    }

    pub(super) fn turns_until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < GUARD, "never: {what}; {:?}", self.told.borrow());
            self.turn();
        }
    }

    /// Takes turns until this many bytes have come back.
    fn hears(&mut self, count: usize) -> Vec<u8> {
        let begun = Instant::now();
        let mut buffer = [0; 64];
        while self.heard.len() < count {
            assert!(begun.elapsed() < GUARD, "{:x?} came back", self.heard);
            self.turn();
            match self.client.read(&mut buffer) {
                Ok(0) => panic!("FIN after {:x?}", self.heard),
                Ok(got) => self.heard.extend(&buffer[..got]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        self.heard.drain(..count).collect()
    }

    /// Takes turns until FIN arrives, with no bytes before it.
    pub(super) fn hears_the_end(&mut self) {
        let begun = Instant::now();
        assert!(self.heard.is_empty(), "{:?}", self.heard);
        loop {
            assert!(begun.elapsed() < GUARD, "no FIN");
            self.turn();
            match self.client.read(&mut [0]) {
                Ok(count) => return assert_eq!(count, 0, "a byte before FIN"),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        !self.directory.list().is_empty()
    }

    /// The client disconnects, the worker ends, and everything has been returned.
    pub(super) fn end(mut self, reason: CloseReason) -> Vec<Told> {
        // It may already have been shut down or reset.
        let _ = self.client.shutdown(Shutdown::Both);
        self.turns_until("closed", |layered| layered.worker.open() == 0);
        assert_eq!(self.counters.read().closed(reason), 1, "{:?}", self.counters.read());
        assert!(!self.is_listed());
        assert_eq!(self.pool.held(), 0);
        self.mailboxes.order_end(0, EndOrder::Stop);
        self.turns_until("finished", |layered| layered.worker.is_finished());
        self.told.take()
    }
}

fn xored(bytes: &[u8]) -> Vec<u8> {
    bytes.iter().map(|byte| byte ^ KEY).collect()
}

#[test]
fn it_is_held_back_until_the_header_is_whole_and_then_open_under_the_name_in_it() {
    let mut layered = Layered::new(8, GUARD);
    for byte in &header::header(513, KEY, 0)[..4] {
        layered.says(&[*byte]);
        let before = layered.counters.read().wire_bytes_received;
        layered.turns_until("a byte", |it| it.counters.read().wire_bytes_received > before);
    }
    assert_eq!(*layered.told.borrow(), [], "the service hears nothing of it");
    assert!(!layered.is_listed(), "nor is it in the directory");
    assert_eq!(layered.counters.read().connections, 1, "but it is there");
    // The end of the header, together with bytes for the service.
    layered.says(&[&[0][..], &xored(b"hello")].concat());
    assert_eq!(layered.hears(3), WELCOME);
    assert_eq!(layered.hears(5), xored(b"hello"));
    let peer = header::peer(513);
    let listed = layered.directory.list();
    assert_eq!(listed.iter().map(|client| client.peer).collect::<Vec<_>>(), [peer]);
    let counts = layered.counters.read();
    assert_eq!((counts.bytes_received, counts.wire_bytes_received), (5, 10));
    assert_eq!((counts.bytes_sent, counts.wire_bytes_sent), (5, 8));
    let told = layered.end(CloseReason::PeerClosed);
    let data = Told::Data(b"hello".to_vec());
    let closed = Told::Closed(CloseReason::PeerClosed);
    assert_eq!(told, [Told::Open(peer), data, Told::Sent(5), Told::PeerClosed, closed]);
}

#[test]
fn a_wrong_header_is_refused_in_the_layers_own_words_and_the_service_never_hears_of_it() {
    let mut layered = Layered::new(8, GUARD);
    layered.says(b"GET / HTTP/1.1");
    assert_eq!(layered.hears(3), REFUSAL);
    layered.hears_the_end();
    assert_eq!(layered.end(CloseReason::ProtocolError), []);
}

#[test]
fn fin_in_the_middle_of_the_header_is_the_layers_reason() {
    let mut layered = Layered::new(8, GUARD);
    layered.says(&header::header(1, KEY, 0)[..3]);
    layered.client.shutdown(Shutdown::Write).unwrap();
    layered.hears_the_end();
    assert_eq!(layered.end(CloseReason::ProtocolError), []);
}

#[test]
fn fin_before_any_byte_is_a_peer_that_has_closed() {
    let mut layered = Layered::new(8, GUARD);
    layered.client.shutdown(Shutdown::Write).unwrap();
    layered.hears_the_end();
    assert_eq!(layered.end(CloseReason::PeerClosed), []);
}

#[test]
fn who_does_not_say_who_it_is_in_time_is_closed() {
    let timeout = Duration::from_millis(100);
    let mut layered = Layered::new(8, timeout);
    let begun = Instant::now();
    layered.says(&header::header(1, KEY, 0)[..4]);
    layered.hears_the_end();
    assert!(begun.elapsed() >= timeout);
    assert_eq!(layered.end(CloseReason::IdleTimeout), []);
}

#[test]
fn the_layer_has_the_last_word_behind_the_services_output() {
    let mut layered = Layered::new(8, GUARD);
    layered.says(&header::header(1, KEY, WANTS_FAREWELL));
    layered.says(&xored(b"bye"));
    layered.client.shutdown(Shutdown::Write).unwrap();
    assert_eq!(layered.hears(3), WELCOME);
    assert_eq!(layered.hears(4), [&xored(b"bye")[..], &[FAREWELL]].concat());
    layered.hears_the_end();
    let counts = layered.counters.read();
    assert_eq!((counts.bytes_sent, counts.wire_bytes_sent), (3, 7));
    layered.end(CloseReason::PeerClosed);
}

#[test]
fn a_layer_without_a_buffer_waits_for_one_in_the_queue_and_what_came_behind_waits_with_it() {
    let mut layered = Layered::new(2, GUARD);
    let taken: Lease = layered.pool.lease().unwrap();
    // With bytes behind it, the header keeps the only other buffer.
    layered.says(&[&header::header(7, KEY, 0)[..], &xored(b"x")].concat());
    layered.turns_until("it waits", |it| !it.worker.waiting().is_empty());
    layered.client.shutdown(Shutdown::Write).unwrap();
    (0..20).for_each(|_| layered.turn());
    assert_eq!(*layered.told.borrow(), [], "it is not open while it cannot be welcomed");
    drop(taken);
    assert_eq!(layered.hears(3), WELCOME);
    assert_eq!(layered.hears(1), xored(b"x"));
    layered.hears_the_end();
    let told = layered.end(CloseReason::PeerClosed);
    assert_eq!(told[1..4], [Told::Data(b"x".to_vec()), Told::Sent(1), Told::PeerClosed]);
}

#[test]
fn a_service_waits_for_a_buffer_behind_its_layer() {
    let mut layered = Layered::that(Does::Copy, 2, GUARD);
    let taken: Lease = layered.pool.lease().unwrap();
    layered.says(&[&header::header(7, KEY, 0)[..], &xored(b"x")].concat());
    layered.turns_until("the layer waits", |it| !it.worker.waiting().is_empty());
    drop(taken);
    // The layer gets the buffer first. The service gets it once the layer's reply is sent.
    assert_eq!(layered.hears(3), WELCOME);
    assert_eq!(layered.hears(1), xored(b"x"));
    let told = layered.end(CloseReason::PeerClosed);
    let data = Told::Data(b"x".to_vec());
    assert_eq!(told[..4], [Told::Open(header::peer(7)), Told::Waits, data, Told::Sent(1)]);
}

#[test]
fn a_connection_that_ends_while_its_service_waits_behind_a_layer_waits_no_more() {
    let mut layered = Layered::that(Does::Copy, 2, GUARD);
    layered.says(&header::header(7, KEY, 0));
    assert_eq!(layered.hears(3), WELCOME);
    let taken: Lease = layered.pool.lease().unwrap();
    layered.says(&xored(b"x"));
    layered.turns_until("it waits", |it| it.told.borrow().contains(&Told::Waits));
    assert_eq!(layered.worker.waiting().len(), 1);
    let deadline = crate::engine::sys::monotonic_now() + GUARD;
    layered.mailboxes.order_end(0, EndOrder::Drain { deadline });
    layered.hears_the_end();
    drop(taken);
    assert_eq!(layered.end(CloseReason::Drained).last(), Some(&Told::Closed(CloseReason::Drained)));
}

#[test]
fn a_timer_beside_reading_replaces_the_deadline_for_opening() {
    let (opening, timer) = (Duration::from_millis(100), Duration::from_millis(300));
    let mut layered = Layered::that(Does::Time(timer), 8, opening);
    layered.says(&header::header(7, KEY, 0));
    assert_eq!(layered.hears(3), WELCOME);
    let begun = Instant::now();
    layered.says(&xored(b"a"));
    assert_eq!(layered.hears(1), xored(b"a"));
    layered.turns_until("the timer", |it| it.told.borrow().contains(&Told::Timer));
    assert!(begun.elapsed() > opening, "it fired when the layer's time was over");
    layered.says(&xored(b"b"));
    assert_eq!(layered.hears(1), xored(b"b"));
    let told = layered.end(CloseReason::PeerClosed);
    let (a, b) = (Told::Data(b"a".to_vec()), Told::Data(b"b".to_vec()));
    let opened = Told::Open(header::peer(7));
    assert_eq!(told[..6], [opened, a, Told::Sent(1), Told::Timer, b, Told::Sent(2)]);
}

#[test]
fn messages_come_to_clients_that_are_open_and_to_no_others() {
    let mut layered = Layered::that(Does::Tell, 8, GUARD);
    layered.says(&header::header(1, KEY, 0)[..4]);
    layered.turns_until("half", |it| it.counters.read().wire_bytes_received == 4);
    let mut open = TcpStream::connect(layered.address).unwrap();
    open.write_all(&[&header::header(2, KEY, 0)[..], &xored(b"x")].concat()).unwrap();
    let messages = |layered: &Layered| -> Vec<Peer> {
        let told = layered.told.borrow();
        told.iter()
            .filter_map(|told| if let Told::Message(to) = told { Some(*to) } else { None })
            .collect()
    };
    layered.turns_until("a message", |it| !messages(it).is_empty());
    (0..20).for_each(|_| layered.turn());
    assert_eq!(messages(&layered), [header::peer(2)]);
    layered.says(&[0]);
    assert_eq!(layered.hears(3), WELCOME);
    open.write_all(&xored(b"x")).unwrap();
    layered.turns_until("both", |it| messages(it).len() == 3);
    let mut both = messages(&layered).split_off(1);
    both.sort_by_key(|peer| peer.to_string());
    assert_eq!(both, [header::peer(1), header::peer(2)]);
}

#[test]
fn a_drain_does_not_wait_for_the_header() {
    let mut layered = Layered::new(8, GUARD);
    layered.says(&header::header(1, KEY, 0)[..2]);
    layered.turns_until("it is there", |it| it.counters.read().wire_bytes_received == 2);
    let deadline = crate::engine::sys::monotonic_now() + GUARD;
    layered.mailboxes.order_end(0, EndOrder::Drain { deadline });
    layered.hears_the_end();
    assert_eq!(layered.end(CloseReason::Drained), []);
}
