//! One worker on the real kernel that takes a turn when the test says so: what it owes its service
//! between two turns.

use std::cell::{Cell, OnceCell, RefCell};
use std::os::fd::OwnedFd;
use std::rc::Rc;

use super::*;
use crate::buffer::Lease;
use crate::buffer::board::Claim;
use crate::engine::sys::Sys;
use crate::service::Message;
use crate::shared::mailbox::WorkerCommand;
use crate::shared::receipt::{Answers, Mail, Recipients};

/// A worker with one listener and one client, and a second pool on the same reserve.
pub(super) struct Stepped<S: Service, Y: Sys = Kernel> {
    pub(super) worker: Worker<MioEngine<Y>, S>,
    pub(super) other: Pool,
    pub(super) client: TcpStream,
    pub(super) permits: Arc<Permits>,
}

/// No time-outs.
pub(super) const RULES: Rules = Rules {
    leases_per_connection_max: 2,
    idle_timeout: None,
    send_timeout: None,
    shed_after: None,
    linger: Duration::ZERO,
    log_sample: 1,
    accept_pause: Duration::from_millis(50),
};

impl<S: Service> Stepped<S> {
    fn new(buffers: u32, make: impl FnOnce(&Pool) -> S) -> Stepped<S> {
        Stepped::on(Kernel::new().unwrap(), RULES, buffers, make)
    }
}

impl<S: Service, Y: Sys<Socket = OwnedFd>> Stepped<S, Y> {
    pub(super) fn on(
        sys: Y,
        rules: Rules,
        buffers: u32,
        make: impl FnOnce(&Pool) -> S,
    ) -> Stepped<S, Y> {
        let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let mut bound = crate::net::bind::bind_all(&[anywhere.into()], 1, 16, false).unwrap();
        let one = bound.pop().unwrap();
        let address = one.endpoint.socket_addr().unwrap();
        let mailboxes = Arc::new(Mailboxes::new(2));
        let permits = Permits::new(8, mailboxes.clone());
        let reserve = Reserve::new(4096, buffers).unwrap();
        let (pool, other) = (Pool::new(reserve.clone(), 0), Pool::new(reserve, 1));
        let setup = Setup {
            index: 0,
            connections_max: 8,
            listeners: 1,
            rules,
            pool: pool.clone(),
            permits: Some(permits.clone()),
            mailboxes,
            counters: Arc::default(),
            directory: None,
        };
        let listeners = one.into_listening().collect();
        let engine =
            MioEngine::new(sys, 8, pool.clone(), Some(permits.clone()), listeners).unwrap();
        let mut worker = Worker::new(engine, setup, |_| make(&pool));
        worker.begin();
        Stepped { worker, other, client: connect(address), permits }
    }

    /// Takes turns until a condition holds. Each turn ends soon, because the worker is woken for
    /// it.
    pub(super) fn turns_until(
        &mut self,
        what: &str,
        condition: impl Fn(&Worker<MioEngine<Y>, S>) -> bool,
    ) {
        let begun = Instant::now();
        while !condition(&self.worker) {
            assert!(begun.elapsed() < GUARD, "never: {what}");
            self.turn();
        }
    }

    pub(super) fn turn(&mut self) {
        self.worker.core.mailboxes.wake(0);
        self.worker.turn().unwrap();
    }

    /// Whether the worker asks others for buffers.
    fn starves(&self) -> bool {
        self.other.is_claimed()
    }

    pub(super) fn end(mut self) {
        self.worker.core.mailboxes.order_end(0, EndOrder::Stop);
        while !self.worker.is_finished() {
            self.turn();
        }
    }
}

/// Keeps a buffer until it is told to return it, in one of its turns. Counts its turns since data
/// arrived.
struct Keeps {
    kept: Option<Lease>,
    gives_back: Rc<Cell<bool>>,
    turns_since_data: Rc<Cell<Option<u32>>>,
}

impl Service for Keeps {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.input.consume(connection.input.len());
        self.turns_since_data.set(Some(0));
        Answer::Continue
    }

    fn turn(&mut self, _: &mut Turn<'_>) -> Option<Time> {
        if self.gives_back.get() {
            self.kept = None;
        }
        self.turns_since_data.set(self.turns_since_data.get().map(|turns| turns + 1));
        None
    }
}

#[test]
fn a_service_has_its_turn_after_data_that_came_with_a_buffer_of_its_own() {
    let (gives_back, turns) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
    let mut stepped = Stepped::new(1, |pool| Keeps {
        kept: pool.lease(),
        gives_back: gives_back.clone(),
        turns_since_data: turns.clone(),
    });
    stepped.client.write_all(b"x").unwrap();
    stepped.turns_until("it waits for a buffer", |worker| worker.waiting().len() == 1);
    gives_back.set(true);
    stepped.turns_until("data came", |_| turns.get().is_some());
    let asleep = stepped.worker.deadline().is_none_or(|at| at > stepped.worker.core.now);
    assert!(turns.get() > Some(0) || !asleep, "what the data was cause of is slept over");
    stepped.end();
}

/// Wants a buffer for itself, and gets the one that it finds.
struct WantsForItself;

impl Service for WantsForItself {
    type Session = ();

    fn data(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::Continue
    }
}

/// The window between the look and the claim is too short for a test with threads.
#[test]
fn a_worker_that_has_changed_its_claim_looks_again_before_it_sleeps() {
    let mut stepped = Stepped::new(1, |_| WantsForItself);
    (0..10).for_each(|_| stepped.turn());
    let elsewhere = stepped.other.lease().unwrap();
    let Worker { engine, core } = &mut stepped.worker;
    core.service_wants_buffer(true);
    // As if its thread had read the claims before: this worker is not woken for it.
    drop(elsewhere);
    stepped.other.give(false);
    core.share_buffers(engine);
    assert!(core.next_deadline().is_some_and(|at| at <= core.now), "it sleeps beside a buffer");
    core.share_buffers(engine);
    (0..2).for_each(|_| stepped.turn());
    assert!(stepped.worker.deadline().is_none(), "it looks again without end");
    stepped.end();
}

/// What the worker does behind the service's turn, such as delivering its messages, may free it.
#[test]
fn a_buffer_that_comes_free_behind_the_turn_of_the_service_is_not_slept_over() {
    let mut stepped = Stepped::new(1, |_| WantsForItself);
    (0..10).for_each(|_| stepped.turn());
    let Worker { engine, core } = &mut stepped.worker;
    let in_use = core.pool.lease().unwrap();
    core.service_wants_buffer(true);
    core.share_buffers(engine);
    assert!(core.next_deadline().is_none(), "there is nothing to look for");
    drop(in_use);
    core.share_buffers(engine);
    assert!(core.next_deadline().is_some_and(|at| at <= core.now), "it sleeps beside a buffer");
    (0..2).for_each(|_| stepped.turn());
    assert!(stepped.worker.deadline().is_none(), "it looks again without end");
    stepped.end();
}

/// Wants a second buffer for the data that arrived, and counts its calls.
#[derive(Clone, Default)]
pub(super) struct Wants {
    calls: Rc<Cell<u32>>,
    pub(super) got: Rc<RefCell<Option<Lease>>>,
}

impl Service for Wants {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.calls.set(self.calls.get() + 1);
        *self.got.borrow_mut() = connection.take_lease();
        Answer::Continue
    }
}

/// A worker whose service waits for a buffer that another worker has, and that buffer.
fn wanting() -> (Stepped<Wants>, Wants, Lease) {
    let wants = Wants::default();
    // One buffer to receive into, which is held, and one on the other worker.
    let mut stepped = Stepped::new(2, |_| wants.clone());
    stepped.other.reserve().board().ticket();
    let elsewhere = stepped.other.lease().unwrap();
    stepped.other.give(false);
    stepped.client.write_all(b"x").unwrap();
    stepped.turns_until("it waits for a buffer", |worker| worker.waiting().len() == 1);
    (stepped, wants, elsewhere)
}

#[test]
fn a_service_that_finds_no_buffer_for_a_connection_is_given_that_of_another_worker() {
    let (mut stepped, wants, elsewhere) = wanting();
    for _ in 0..10 {
        assert!(stepped.starves(), "the others do not know of the want");
        let since = stepped.worker.core.supply.waits_since();
        assert!(since.is_some(), "nobody would ever be shed for it");
        stepped.turn();
    }
    assert_eq!(wants.calls.get(), 1, "it is not asked again before there is one");
    stepped.client.write_all(b"y").unwrap();
    (0..10).for_each(|_| stepped.turn());
    assert_eq!(wants.calls.get(), 1, "what came is not received meanwhile");
    drop(elsewhere);
    stepped.other.give(false);
    let got = wants.got.clone();
    stepped.turns_until("it has its buffer", |_| got.borrow().is_some());
    assert_eq!(wants.calls.get(), 2);
    drop(wants.got.take());
    stepped.turns_until("it is read again", |worker| {
        worker.inputs().any(|(_, len)| len == 2) && worker.waiting().is_empty()
    });
    assert!(!stepped.starves() && stepped.worker.core.supply.waits_since().is_none());
    drop(wants.got.take());
    stepped.end();
}

/// Another worker asks this one to shed, and the service hears of it when it has had its turn.
#[test]
fn a_service_has_its_turn_after_a_connection_was_shed_for_another_worker() {
    let rules = Rules { shed_after: Some(Duration::ZERO), ..RULES };
    let mut stepped = Stepped::on(Kernel::new().unwrap(), rules, 2, |_| WantsForItself);
    stepped.client.write_all(b"x").unwrap();
    stepped.turns_until("input is held", |worker| worker.inputs().any(|(_, len)| len > 0));
    (0..3).for_each(|_| stepped.turn());
    let Worker { engine, core } = &mut stepped.worker;
    assert!(core.next_deadline().is_none());
    let board = stepped.other.reserve().board();
    let since = core.looked_at.saturating_sub(Duration::from_secs(1));
    stepped.other.claim(Some(Claim { ticket: board.ticket(), since, needs: 3 }));
    board.ask_to_shed(0, core.pool.free());
    core.share_buffers(engine);
    assert!(core.next_deadline().is_some_and(|at| at <= core.now), "the service is not told");
    stepped.other.claim(None);
    stepped.turns_until("it is shed", |worker| {
        worker.core.counters.closed[CloseReason::Shed as usize].get() == 1
    });
    stepped.end();
}

#[test]
fn a_connection_that_is_closed_while_its_service_waits_is_waited_for_no_more() {
    let (mut stepped, wants, elsewhere) = wanting();
    let id = stepped.worker.inputs().next().unwrap().0;
    let Worker { engine, core } = &mut stepped.worker;
    core.close_by_id(engine, id);
    assert!(!stepped.starves() && stepped.worker.waiting().is_empty());
    stepped.turns_until("it is gone", |worker| worker.open() == 0);
    drop(elsewhere);
    assert_eq!(wants.calls.get(), 1);
    stepped.end();
}

#[test]
fn a_worker_leaves_a_buffer_to_a_worker_that_has_waited_longer() {
    let (mut stepped, wants, elsewhere) = wanting();
    let claim = Claim { ticket: 0, since: Time::ZERO, needs: 1 };
    // The ticket of this worker's waiter is later.
    assert!(stepped.worker.tickets().all(|ticket| ticket > claim.ticket));
    stepped.other.claim(Some(claim));
    drop(elsewhere);
    stepped.other.give(false);
    (0..10).for_each(|_| stepped.turn());
    assert_eq!(wants.calls.get(), 1, "the other one comes first, even if it sleeps");
    // The other one cannot use it.
    stepped.other.claim(Some(Claim { needs: 2, ..claim }));
    stepped.other.give(true);
    stepped.turn();
    assert_eq!(wants.calls.get(), 2);
    assert!(wants.got.take().is_some());
    stepped.other.claim(None);
    stepped.end();
}

/// Sets its timer when the connection is opened, records when it fires, and consumes its input.
#[derive(Clone, Default)]
struct Timed {
    set: Rc<Cell<Option<Time>>>,
    fired: Rc<RefCell<Vec<Time>>>,
    received: Rc<Cell<usize>>,
    wakes: Rc<Cell<Option<ConnectionId>>>,
}

const LATER: Duration = Duration::from_millis(50);

impl Service for Timed {
    type Session = ();

    fn open(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.set_timer(connection.now() + LATER);
        self.set.set(Some(connection.now() + LATER));
        Answer::Continue
    }

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.received.set(self.received.get() + connection.input.len());
        connection.input.consume(connection.input.len());
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.fired.borrow_mut().push(connection.now());
        Answer::Continue
    }

    fn turn(&mut self, turn: &mut Turn<'_>) -> Option<Time> {
        self.wakes.take().inspect(|&id| turn.wake(id));
        None
    }
}

#[test]
fn a_connection_is_read_while_its_timer_runs_which_fires_once() {
    let timed = Timed::default();
    let mut stepped = Stepped::new(2, |_| timed.clone());
    stepped.client.write_all(b"x").unwrap();
    stepped.turns_until("it is read", |_| timed.received.get() == 1);
    let due = timed.set.get().unwrap();
    assert!(stepped.worker.core.now >= due || timed.fired.borrow().is_empty(), "early");
    stepped.turns_until("the timer fires", |_| !timed.fired.borrow().is_empty());
    assert!(timed.fired.borrow()[0] >= due, "early");
    stepped.turns_until("three times as long", |worker| worker.core.now >= due + 2 * LATER);
    assert_eq!(timed.fired.borrow().len(), 1, "it fires once");
    stepped.end();
}

#[test]
fn waking_a_connection_that_is_read_leaves_its_timer() {
    // On a busy machine the timer may be due when the connection is woken.
    let is_staged = (0..20).any(|_| {
        let timed = Timed::default();
        let mut stepped = Stepped::new(2, |_| timed.clone());
        stepped.turns_until("it is open", |_| timed.set.get().is_some());
        timed.wakes.set(stepped.worker.inputs().next().map(|(id, _)| id));
        stepped.turn();
        let due = timed.set.get().unwrap();
        let is_early = stepped.worker.core.now < due;
        if is_early {
            stepped.turns_until("it is due", |worker| worker.core.now >= due + LATER);
            let fired = timed.fired.borrow().clone();
            assert_eq!(fired.len(), 2, "{fired:?}");
            assert!(fired[1] >= due);
        }
        stepped.end();
        is_early
    });
    assert!(is_staged, "in each try the timer was due before");
}

/// Sets a timer that is later than the idle time-out.
#[derive(Clone)]
struct FarTimer;

impl Service for FarTimer {
    type Session = ();

    fn open(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.set_timer(connection.now() + GUARD);
        Answer::Continue
    }

    fn data(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::Continue
    }
}

#[test]
fn a_connection_with_a_timer_can_be_idle() {
    let config = Config::new().max_connections(10);
    let (server, address) = start(config.idle_timeout(Some(LATER)), || FarTimer);
    let client = connect(address);
    until(&server, "closed", |total| total.closed(CloseReason::IdleTimeout) == 1);
    drop(client);
}

/// A service in whose calls for messages other messages arrive.
#[derive(Clone, Default)]
struct Flooded {
    mail: Rc<OnceCell<(Arc<Mailboxes>, Arc<Reserve>)>>,
    left: Rc<Cell<u32>>,
    messages: Rc<Cell<u32>>,
}

impl Flooded {
    /// Another thread sends a message to all clients.
    fn send(&self) {
        let (mailboxes, reserve) = self.mail.get().unwrap();
        let (parcel, receipt) = (reserve.parcel().unwrap(), Answers::new().receipt());
        let mail = Mail { to: Recipients::All, parcel, number: 1, receipt };
        assert!(mailboxes.send(0, WorkerCommand::Message(mail)).is_ok());
    }
}

impl Service for Flooded {
    type Session = ();

    fn data(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::Continue
    }

    fn message(&mut self, _: &mut Connection<'_>, _: &mut (), _: &mut Message<'_>) -> Answer {
        self.messages.set(self.messages.get() + 1);
        if self.left.get() > 0 {
            self.left.set(self.left.get() - 1);
            self.send();
        }
        Answer::Continue
    }
}

/// A server of this service with one client, and `messages` in its inbox.
fn flooded(flooded: &Flooded, messages: u32) -> Stepped<Flooded> {
    let mut stepped = Stepped::new(64, |_| flooded.clone());
    stepped.turns_until("a client is there", |worker| worker.recipients().count() == 1);
    let mailboxes = stepped.worker.core.mailboxes.clone();
    let set = flooded.mail.set((mailboxes, stepped.other.reserve().clone()));
    assert!(set.is_ok());
    (0..messages).for_each(|_| flooded.send());
    stepped
}

#[test]
fn what_arrives_while_the_inbox_is_emptied_waits_for_the_next_turn() {
    let service = Flooded::default();
    let mut stepped = flooded(&service, 3);
    service.left.set(10_000);
    for turn in 1..=4 {
        stepped.turn();
        assert_eq!(service.messages.get(), 3 * turn);
    }
    service.left.set(0);
    stepped.end();
}

#[test]
fn the_order_to_end_does_not_wait_behind_messages() {
    let service = Flooded::default();
    let mut stepped = flooded(&service, 50);
    // One slot in each turn.
    stepped.worker.limit_work(1);
    stepped.turn();
    stepped.worker.core.mailboxes.order_end(0, EndOrder::Stop);
    stepped.turns_until("it has ended", Worker::is_finished);
    assert!(service.messages.get() <= 2, "{} messages before it", service.messages.get());
    let ((), cut) = stepped.worker.end(drop);
    assert_eq!(cut, 1);
    assert_eq!(stepped.other.reserve().travelling(), 0);
}
