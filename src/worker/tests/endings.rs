//! How connections are counted that end while the server drains or is stopped.

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
    let (server, address) = start(config.send_timeout(Some(Duration::from_secs(1))), Echo);
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

#[test]
fn a_drain_that_is_cut_short_says_how_many_connections_lost_output_or_time() {
    let (server, address) = start(Config::new().max_connections(10).buffers(4), Echo);
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    assert_eq!(server.drain(Duration::from_millis(100)), Drained::Cut(1));
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::Stopped), 1, "{total:?}");
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
