//! How connections are counted that end while the server drains or is stopped.

use super::stepped::{RULES, Stepped};
use super::*;

/// Echo that sends `bye` before it closes in a drain, and waits for a buffer for it.
struct Farewell;

impl Service for Farewell {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        Echo.data(connection, session)
    }

    fn draining(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        self.buffer_available(connection, session)
    }

    fn buffer_available(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        if connection.send(b"bye") { Answer::CloseAfterSend } else { Answer::Continue }
    }
}

#[test]
fn a_drain_that_loses_output_to_the_send_time_out_says_so() {
    let config = Config::new().max_connections(10).buffers(4);
    // Longer than this thread may stand still before it drains.
    let (server, address) = start(config.send_timeout(Some(Duration::from_secs(3))), Echo);
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    let _idle = connect(address);
    assert_eq!(server.drain(GUARD), Drained::Cut(1));
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::SendTimeout), 1, "{total:?}");
    assert_eq!(total.closed(CloseReason::Drained), 1, "{total:?}");
}

#[test]
fn a_drain_that_loses_output_to_shedding_says_so() {
    let config = Config::new().max_connections(10).buffers(1).send_timeout(None);
    let (server, address) = start(config.shed_after(Some(Duration::from_secs(1))), || Farewell);
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    let mut other = connect(address);
    until(&server, "both are there", |total| total.connections == 2);
    let drained = thread::scope(|scope| {
        let drained = scope.spawn(|| server.drain(GUARD));
        let mut text = Vec::new();
        other.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"bye");
        drop(other);
        drained.join().unwrap()
    });
    assert_eq!(drained, Drained::Cut(1));
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::Shed), 1, "{total:?}");
}

/// Keeps what it gets, and waits for the rest in a drain. Says `bye` to clients that sent nothing.
struct Keeper;

impl Service for Keeper {
    type Session = ();

    fn data(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::Continue
    }

    fn draining(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        self.buffer_available(connection, session)
    }

    fn buffer_available(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        match connection.input.is_empty() {
            true => Farewell.buffer_available(connection, session),
            false => Answer::Continue,
        }
    }
}

#[test]
fn a_drain_that_sheds_a_connection_says_so_also_if_all_its_output_was_sent() {
    let config = Config::new().max_connections(10).buffers(1).send_timeout(None);
    let (server, address) = start(config.shed_after(Some(Duration::from_secs(1))), || Keeper);
    let (mut keeps, mut other) = (connect(address), connect(address));
    keeps.write_all(b"x").unwrap();
    until(&server, "it is kept", |total| total.connections == 2 && total.bytes_received == 1);
    let drained = thread::scope(|scope| {
        let drained = scope.spawn(|| server.drain(GUARD));
        let mut text = Vec::new();
        other.read_to_end(&mut text).unwrap();
        assert_eq!(text, b"bye");
        drop(other);
        drained.join().unwrap()
    });
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::Shed), 1, "{total:?}");
    assert_eq!(drained, Drained::Cut(1));
}

#[test]
fn a_drain_that_is_cut_short_says_how_many_connections_lost_output_or_time() {
    let (server, address) = start(Config::new().max_connections(10).buffers(4), Echo);
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    assert_eq!(server.drain(Duration::from_millis(100)), Drained::Cut(1));
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::Stopped), 1, "{total:?}");
}

/// Echo that has lost something that it owed its client.
struct Forgetful;

impl Service for Forgetful {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        Echo.data(connection, session)
    }

    fn finishing(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Option<CloseReason> {
        Some(CloseReason::Service)
    }
}

/// Closes the connection as that of a slow reader when the first byte comes.
struct Impatient;

impl Service for Impatient {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        connection.input.consume(connection.input.len());
        Answer::CloseFor(CloseReason::SlowReader)
    }
}

#[test]
fn a_slow_reader_is_reset_also_if_all_its_output_was_sent() {
    let (server, address) = start(Config::new().max_connections(10), || Impatient);
    let mut client = connect(address);
    client.write_all(b"x").unwrap();
    until(&server, "it is closed", |total| total.closed(CloseReason::SlowReader) == 1);
    let error = client.read(&mut [0]).expect_err("a reset and not FIN");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_connection_whose_service_has_lost_output_does_not_end_as_if_all_were_sent() {
    let endings: [fn(&ServerHandle); 3] = [
        |server| server.begin_drain(GUARD),
        |server| server.disconnect(server.clients()[0].id).expect("it is there"),
        // Its time-out ends it.
        |_| {},
    ];
    for (nth, end) in endings.into_iter().enumerate() {
        let idle = (nth == 2).then_some(Duration::from_millis(100));
        let config = Config::new().max_connections(10).idle_timeout(idle);
        let (server, address) = start(config, || Forgetful);
        let mut client = connect(address);
        echoes(&mut client, b"x").unwrap();
        end(&server);
        until(&server, "it is closed", |total| total.closed(CloseReason::Service) == 1);
        let error = client.read(&mut [0]).expect_err("a reset and not FIN");
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    }
}

#[test]
fn a_client_that_resets_its_connection_is_not_cut_by_the_drain() {
    let (server, address) = start(Config::new().max_connections(10).buffers(4), Echo);
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    server.begin_drain(GUARD);
    // Its input is not read, so the close resets the connection.
    drop(stuck);
    assert_eq!(server.wait(), Drained::Clean);
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::Reset), 1, "{total:?}");
}

/// Closes its side when the first byte comes, and never closes more than that.
struct OnlyHalf;

impl Service for OnlyHalf {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        Echo.data(connection, session);
        Answer::HalfClose
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, _: &mut ()) -> Answer {
        Answer::Continue
    }
}

#[test]
fn a_connection_on_which_both_sides_have_closed_ends() {
    let (server, address) = start(Config::new().max_connections(10), || OnlyHalf);
    let mut client = connect(address);
    echoes(&mut client, b"x").unwrap();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "FIN");
    client.shutdown(Shutdown::Write).unwrap();
    until(&server, "it is closed", |total| total.closed(CloseReason::PeerClosed) == 1);
    assert_eq!(server.stats().total().connections, 0);
}

/// A worker at the limit of connections, whose listener has a client waiting.
fn at_the_limit() -> (Stepped<Echo>, Vec<crate::shared::permits::Permit>, TcpStream) {
    let mut stepped = Stepped::on(Kernel::new().unwrap(), RULES, 2, |_| Echo);
    stepped.turns_until("it is open", |worker| worker.open() == 1);
    let taken = std::iter::from_fn(|| stepped.permits.try_take()).collect();
    let waiting = connect(stepped.client.peer_addr().unwrap());
    stepped.turns_until("it asks for a permit", |worker| {
        !worker.core.permits.as_ref().unwrap().permit_came(0)
    });
    (stepped, taken, waiting)
}

#[test]
fn a_worker_that_has_stopped_takes_no_wake_up_for_a_permit_from_the_others() {
    let (mut stepped, mut taken, _waiting) = at_the_limit();
    let permits = stepped.permits.clone();
    permits.want_permit(1);
    let Worker { engine, core } = &mut stepped.worker;
    core.stop(engine);
    assert!(!permits.permit_came(1), "no permit has come yet");
    assert!(taken.pop().is_some());
    assert!(permits.permit_came(1), "the wake-up went to a worker that has stopped");
    stepped.end();
}

#[test]
fn a_worker_that_stops_hands_on_a_wake_up_for_a_permit_that_it_has_not_used() {
    let (mut stepped, mut taken, _waiting) = at_the_limit();
    let permits = stepped.permits.clone();
    permits.want_permit(1);
    assert!(taken.pop().is_some());
    assert!(permits.permit_came(0) && !permits.permit_came(1), "the first was woken");
    let Worker { engine, core } = &mut stepped.worker;
    core.stop(engine);
    assert!(permits.permit_came(1), "nobody uses the permit");
    stepped.end();
}

#[test]
fn a_request_for_a_descriptor_ends_with_the_pause() {
    let fault = Fault::new(Call::Accept, Errno::MFILE, 0);
    let mut stepped = Stepped::on(Faulty::new(fault), RULES, 2, |_| Echo);
    let came = |worker: &Worker<_, Echo>| worker.core.permits.as_ref().unwrap().descriptor_came(0);
    stepped.turns_until("accept has failed", |worker| !came(worker));
    stepped.turns_until("it is open", |worker| worker.open() == 1);
    stepped.turn();
    assert!(came(&stepped.worker), "a wake-up would be lost to a worker that needs it");
    // One that was woken and does not need it hands it on.
    let permits = stepped.permits.clone();
    permits.want_descriptor(1);
    permits.unwant_descriptor(0);
    assert!(permits.descriptor_came(1));
    stepped.end();
}

#[test]
fn a_drain_at_the_limit_accepts_those_who_wait_as_places_come_free() {
    let (server, address) = start(Config::new().max_connections(1), Echo);
    let mut first = connect(address);
    echoes(&mut first, b"x").unwrap();
    let waiting = [(); 3].map(|()| connect(address));
    until(&server, "they wait", |total| total.waits_for_slot > 0);
    server.begin_drain(GUARD);
    for mut client in [first].into_iter().chain(waiting) {
        assert_eq!(client.read(&mut [0]).unwrap(), 0, "FIN and not a reset");
    }
    assert_eq!(server.wait(), Drained::Clean);
    let total = server.stats().total();
    assert_eq!((total.accepted, total.unaccepted), (4, 0), "{total:?}");
}

#[test]
fn a_client_whose_socket_cannot_be_watched_waits_and_is_not_reset() {
    for error in [Errno::NOSPC, Errno::NOMEM] {
        // The first registration is the listener's.
        let fault = Fault::new(Call::Register, error, 1);
        let mut stepped = Stepped::on(Faulty::new(fault), RULES, 2, |_| Echo);
        stepped.turns_until("it is refused", |worker| worker.engine.held() == 1);
        assert!(stepped.worker.accept_pauses() && stepped.worker.open() == 0);
        assert_eq!(stepped.worker.core.counters.read().listeners_paused, 1);
        stepped.client.write_all(b"x").unwrap();
        stepped.turns_until("it is served", |worker| worker.core.counters.read().bytes_sent == 1);
        assert_eq!(stepped.worker.core.counters.read().listeners_paused, 0);
        stepped.client.read_exact(&mut [0]).unwrap();
        stepped.end();
    }
}
