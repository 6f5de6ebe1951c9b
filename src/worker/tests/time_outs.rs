//! A process that is stopped for an hour in which its clients do what a time-out waits for: none of
//! them may be closed for that time-out.

use std::cell::Cell;
use std::rc::Rc;

use super::stepped::{RULES, Stepped, Wants};
use super::*;
use crate::buffer::board::Stall;
use crate::shared::mailbox::WorkerTimes;

const SPAN: Duration = Duration::from_secs(3);
const STOPPED_FOR: Duration = Duration::from_secs(3600);

/// A worker whose process stands still, after the next wait, until the closure has returned.
struct Stopped<S: Service = Echo> {
    stepped: Stepped<S, Faulty>,
    counters: Arc<Counters>,
    still: Rc<Cell<Duration>>,
}

impl Stopped {
    fn new(rules: Rules, buffers: u32) -> Stopped {
        Stopped::of(Echo, rules, buffers)
    }
}

impl<S: Service> Stopped<S> {
    fn of(service: S, rules: Rules, buffers: u32) -> Stopped<S> {
        let sys = Faulty::new(Fault::new(Call::Wait, Errno::BADF, u64::MAX));
        let still = sys.still.clone();
        let mut stepped = Stepped::on(sys, rules, buffers, |_| service);
        stepped.turns_until("it is open", |worker| worker.open() == 1);
        let counters = stepped.worker.core.counters.clone();
        Stopped { stepped, counters, still }
    }

    /// The worker waits, and the process is stopped while the client acts.
    fn stop_while(&mut self, act: impl FnOnce(&mut TcpStream) + 'static) {
        let (mut client, still) = (self.stepped.client.try_clone().unwrap(), self.still.clone());
        *self.stepped.worker.engine.sys_mut().stop.borrow_mut() = Some(Box::new(move || {
            act(&mut client);
            still.set(still.get() + STOPPED_FOR);
        }));
        self.stepped.turn();
        assert_eq!(self.still.get(), STOPPED_FOR, "the process was not stopped");
    }

    /// Connections that are closed, or that are being closed.
    fn closed(&self) -> u64 {
        let worker = &self.stepped.worker;
        let closing = worker.open() - worker.recipients().count();
        self.counters.read().closed_total() + closing as u64
    }

    /// Fills the path to the client until the worker cannot send.
    fn stick(&mut self) {
        self.stepped.client.set_nonblocking(true).unwrap();
        let begun = Instant::now();
        while self.stepped.worker.stalled_since().is_none() {
            assert!(begun.elapsed() < GUARD, "the path never fills");
            let _ = self.stepped.client.write(&[1; 65536]);
            self.stepped.turn();
        }
    }
}

/// Reads until nothing more arrives.
fn read_all(client: &mut TcpStream) {
    let mut quiet = 0;
    while quiet < 20 {
        match client.read(&mut [0; 65536]) {
            Ok(count) if count > 0 => quiet = 0,
            _ => quiet += 1,
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_client_whose_request_came_while_the_process_stood_still_is_not_idle() {
    let rules = Rules { idle_timeout: Some(SPAN), ..RULES };
    let mut stopped = Stopped::new(rules, 2);
    stopped.stop_while(|client| client.write_all(b"hello").unwrap());
    for _ in 0..5 {
        stopped.stepped.turn();
    }
    assert_eq!(stopped.closed(), 0);
    let mut reply = [0; 5];
    stopped.stepped.client.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"hello");
    // An hour later it is.
    stopped.still.set(STOPPED_FOR * 2);
    stopped.stepped.turns_until("it is closed", |worker| worker.open() == 0);
    assert_eq!(stopped.counters.read().closed(CloseReason::IdleTimeout), 1);
    stopped.stepped.end();
}

#[test]
fn a_client_that_read_while_the_process_stood_still_is_not_shed() {
    let rules = Rules { shed_after: Some(SPAN), ..RULES };
    let mut stopped = Stopped::new(rules, 1);
    stopped.stick();
    let address = stopped.stepped.client.peer_addr().unwrap();
    let mut other = connect(address);
    other.write_all(b"x").unwrap();
    stopped.stepped.turns_until("it waits", |worker| worker.waiting().len() == 1);
    stopped.stop_while(read_all);
    for _ in 0..5 {
        stopped.stepped.turn();
    }
    assert_eq!(stopped.closed(), 0);
    stopped.stepped.end();
}

#[test]
fn a_client_that_closed_while_the_process_stood_still_is_not_cut_by_a_drain() {
    let mut stopped = Stopped::new(Rules { linger: SPAN, ..RULES }, 2);
    let deadline = stopped.stepped.worker.engine().now() + SPAN;
    stopped.stepped.worker.core.mailboxes.order_end(0, EndOrder::Drain { deadline });
    stopped.stepped.turns_until("it lingers", |worker| worker.core.ending().is_some());
    stopped.stop_while(|client| client.shutdown(Shutdown::Write).unwrap());
    stopped.stepped.turns_until("it has ended", Worker::is_finished);
    assert_eq!(stopped.stepped.worker.core.cut, 0, "the client had closed in time");
}

/// The times of `RULES`.
const NO_TIMES: WorkerTimes = WorkerTimes {
    idle_timeout: None,
    send_timeout: None,
    shed_after: None,
    linger: Duration::ZERO,
};

impl<S: Service> Stopped<S> {
    /// Changes the times while the worker runs.
    fn set_times(&mut self, times: WorkerTimes) {
        self.stepped.worker.core.mailboxes.set_times(times);
    }

    fn let_pass(&self, time: Duration) {
        self.still.set(self.still.get() + time);
    }

    fn turns(&mut self) {
        (0..5).for_each(|_| self.stepped.turn());
    }

    fn turns_until_closed(&mut self, reason: CloseReason) {
        self.stepped.turns_until("it is closed", |worker| worker.open() == 0);
        assert_eq!(self.counters.read().closed(reason), 1, "{:?}", self.counters.read());
    }
}

#[test]
fn an_idle_time_out_that_is_set_later_closes_connections_that_there_are() {
    let mut stopped = Stopped::new(RULES, 2);
    stopped.let_pass(STOPPED_FOR);
    stopped.turns();
    assert_eq!(stopped.closed(), 0);
    // In steps of a turn each.
    stopped.stepped.worker.limit_work(1);
    stopped.set_times(WorkerTimes { idle_timeout: Some(SPAN), ..NO_TIMES });
    stopped.turns_until_closed(CloseReason::IdleTimeout);
    stopped.stepped.end();
}

#[test]
fn an_idle_time_out_that_is_lengthened_or_turned_off_spares_connections_that_there_are() {
    for longer in [None, Some(10 * STOPPED_FOR)] {
        let mut stopped = Stopped::new(Rules { idle_timeout: Some(SPAN), ..RULES }, 2);
        stopped.set_times(WorkerTimes { idle_timeout: longer, ..NO_TIMES });
        stopped.turns();
        stopped.let_pass(STOPPED_FOR);
        stopped.turns();
        assert_eq!(stopped.closed(), 0, "{longer:?}");
        stopped.stepped.end();
    }
}

#[test]
fn a_send_time_out_that_is_set_later_begins_then() {
    let mut stopped = Stopped::new(RULES, 2);
    stopped.stick();
    stopped.let_pass(STOPPED_FOR);
    stopped.turns();
    stopped.set_times(WorkerTimes { send_timeout: Some(STOPPED_FOR), ..NO_TIMES });
    stopped.turns();
    assert_eq!(stopped.closed(), 0, "nobody looked whether the client reads until now");
    // A shorter one counts from the same moment.
    stopped.let_pass(SPAN);
    stopped.set_times(WorkerTimes { send_timeout: Some(SPAN), ..NO_TIMES });
    stopped.turns_until_closed(CloseReason::SendTimeout);
    stopped.stepped.end();
}

#[test]
fn shedding_that_is_turned_on_later_serves_who_waits_already() {
    let mut stopped = Stopped::new(RULES, 1);
    stopped.stick();
    let mut other = connect(stopped.stepped.client.peer_addr().unwrap());
    other.write_all(b"x").unwrap();
    stopped.stepped.turns_until("it waits", |worker| worker.waiting().len() == 1);
    stopped.let_pass(STOPPED_FOR);
    stopped.turns();
    assert_eq!(stopped.closed(), 0);
    stopped.set_times(WorkerTimes { shed_after: Some(SPAN), ..NO_TIMES });
    stopped.stepped.turns_until("one is closed", |worker| worker.open() == 1);
    stopped.stepped.turns_until("it is served", |worker| worker.waiting().is_empty());
    assert_eq!(stopped.counters.read().closed(CloseReason::Shed), 1);
    stopped.stepped.end();
}

#[test]
fn a_linger_that_is_shortened_counts_for_the_connections_closed_then() {
    let mut stopped = Stopped::new(Rules { linger: STOPPED_FOR * 2, ..RULES }, 2);
    stopped.set_times(WorkerTimes { linger: SPAN, ..NO_TIMES });
    stopped.turns();
    let deadline = stopped.stepped.worker.engine().now() + 10 * STOPPED_FOR;
    stopped.stepped.worker.core.mailboxes.order_end(0, EndOrder::Drain { deadline });
    stopped.stepped.turns_until("it drains", |worker| worker.core.ending().is_some());
    stopped.turns();
    stopped.let_pass(2 * SPAN);
    stopped.stepped.turns_until("it has ended", Worker::is_finished);
    assert_eq!(stopped.counters.read().closed(CloseReason::Drained), 1);
}

#[test]
fn a_send_time_out_that_begins_anew_leaves_the_timer_of_the_service() {
    let hour = Duration::from_secs(3600);
    let mut stopped = Stopped::new(Rules { send_timeout: Some(hour), ..RULES }, 4);
    stopped.stick();
    let Worker { engine, core } = &mut stopped.stepped.worker;
    let key = core.table.key_of(0).unwrap();
    let soon = core.now + Duration::from_secs(1);
    // The timer has fired for the Send, whose client has acknowledged some bytes.
    core.wheel.clear(key.slot());
    let context = core.context(key);
    (context.deadline, context.unacknowledged) = (soon, Some(u32::MAX));
    core.give_up_sending(engine, key);
    let next = core.wheel.next();
    assert!(next.is_some_and(|at| at <= soon + Duration::from_millis(2)), "{next:?}, not {soon:?}");
    core.context(key).deadline = Time::MAX;
    stopped.stepped.end();
}

#[test]
fn a_connection_that_has_waited_for_a_buffer_was_not_idle() {
    let (wants, rules) = (Wants::default(), Rules { idle_timeout: Some(STOPPED_FOR), ..RULES });
    // One for its input, one that it waits for, and one to receive into.
    let mut stopped = Stopped::of(wants.clone(), rules, 3);
    let elsewhere = [(); 2].map(|()| stopped.stepped.other.lease().unwrap());
    stopped.stepped.other.give(false);
    stopped.stepped.client.write_all(b"x").unwrap();
    stopped.stepped.turns_until("its service waits for a buffer", |worker| {
        worker.inputs().any(|(_, len)| len == 1) && worker.waiting().len() == 1
    });
    stopped.let_pass(2 * STOPPED_FOR);
    stopped.turns();
    assert_eq!(stopped.closed(), 0);
    stopped.let_pass(STOPPED_FOR / 4 * 3);
    drop(elsewhere);
    stopped.stepped.other.give(false);
    stopped.stepped.turns_until("it has its buffer", |_| wants.got.borrow().is_some());
    stopped.let_pass(STOPPED_FOR / 2);
    stopped.turns();
    assert_eq!(stopped.closed(), 0, "its service had waited until half the time ago");
    drop(wants.got.take());
    stopped.stepped.end();
}

/// Takes no input. Pauses the connection once.
struct Pauses;

impl Pauses {
    const TIME: Duration = Duration::from_millis(10);
}

impl Service for Pauses {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::WaitUntil(connection.now() + Pauses::TIME)
    }
}

#[test]
fn a_connection_that_is_no_longer_paused_is_shed_as_early_as_others() {
    // One that holds input is shed if it has not moved for this time, a paused one 2 s later.
    let shed_after = Duration::from_secs(1);
    let rules = Rules { shed_after: Some(shed_after), ..RULES };
    let mut stopped = Stopped::of(Pauses, rules, 1);
    stopped.stepped.client.write_all(b"x").unwrap();
    stopped.stepped.turns_until("it holds input", |worker| worker.inputs().any(|(_, n)| n > 0));
    stopped.let_pass(2 * Pauses::TIME);
    stopped.stepped.turns_until("it is read again", |worker| worker.holding().next().is_some());
    let mut other = connect(stopped.stepped.client.peer_addr().unwrap());
    other.write_all(b"y").unwrap();
    stopped.stepped.turns_until("another one waits", |worker| worker.waiting().len() == 1);
    stopped.let_pass(shed_after);
    stopped.turns();
    assert_eq!(stopped.counters.read().closed(CloseReason::Shed), 1);
    stopped.stepped.end();
}

/// Takes no input, and pauses the connection for good.
struct PausesForGood;

impl Service for PausesForGood {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::WaitUntil(connection.now() + STOPPED_FOR)
    }
}

/// A paused connection may have waited for longer than those of another worker that do not move.
/// These are shed first all the same.
#[test]
fn a_paused_connection_is_not_shed_while_others_of_another_worker_hold_buffers() {
    let shed_after = Duration::from_secs(1);
    let rules = Rules { shed_after: Some(shed_after), ..RULES };
    let mut stopped = Stopped::of(PausesForGood, rules, 1);
    let core = &stopped.stepped.worker.core;
    let (reserve, another) = (core.pool.reserve().clone(), core.index + 1);
    let stall = |since| Some(Stall { is_paused: false, since });
    stopped.stepped.client.write_all(b"x").unwrap();
    stopped.stepped.turns_until("it holds input", |worker| worker.inputs().any(|(_, n)| n > 0));
    let mut other = connect(stopped.stepped.client.peer_addr().unwrap());
    other.write_all(b"y").unwrap();
    stopped.stepped.turns_until("another one waits", |worker| worker.waiting().len() == 1);
    // It does not hold it for as long as the first one is paused.
    reserve.board().publish_stall(another, stall(stopped.stepped.worker.core.now));
    stopped.let_pass(10 * shed_after);
    stopped.turns();
    assert!(reserve.board().asked_to_shed(another).is_some(), "the other worker is asked");
    // Nor if the worker is asked itself, because what it held without a pause has moved since.
    let this = stopped.stepped.worker.core.index;
    reserve.board().ask_to_shed(this, 0);
    stopped.turns();
    assert_eq!(stopped.counters.read().closed(CloseReason::Shed), 0);
    reserve.board().publish_stall(another, None);
    stopped.turns();
    assert_eq!(stopped.counters.read().closed(CloseReason::Shed), 1);
    stopped.stepped.end();
}

/// Takes no input, and a second for each call. Goes on in the next turn.
struct Slow {
    still: Rc<Cell<Duration>>,
    calls: Rc<Cell<u32>>,
}

impl Service for Slow {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        self.still.set(self.still.get() + Duration::from_secs(1));
        self.calls.set(self.calls.get() + 1);
        Answer::WaitUntil(connection.now())
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        self.data(connection, session)
    }
}

/// So what comes meanwhile waits for one call, and not for all that yielded.
#[test]
fn connections_that_yielded_have_as_much_of_a_turn_as_their_calls_take_time() {
    const CLIENTS: usize = 4;
    let sys = Faulty::new(Fault::new(Call::Wait, Errno::BADF, u64::MAX));
    let (still, calls) = (sys.still.clone(), Rc::<Cell<u32>>::default());
    let slow = Slow { still, calls: calls.clone() };
    let mut stepped = Stepped::on(sys, Rules { idle_timeout: None, ..RULES }, 16, |_| slow);
    stepped.turns_until("it is open", |worker| worker.open() == 1);
    let address = stepped.client.peer_addr().unwrap();
    let mut others: Vec<_> = (1..CLIENTS).map(|_| connect(address)).collect();
    others.iter_mut().for_each(|client| client.write_all(b"x").unwrap());
    stepped.client.write_all(b"x").unwrap();
    stepped.turns_until("all have yielded", |worker| worker.core.yielded.len() == CLIENTS);
    let calls_of_turns: Vec<u32> = (0..3 * CLIENTS)
        .map(|_| {
            let before = calls.get();
            stepped.turn();
            calls.get() - before
        })
        .collect();
    assert_eq!(calls_of_turns, [1; 3 * CLIENTS]);
    stepped.end();
}
