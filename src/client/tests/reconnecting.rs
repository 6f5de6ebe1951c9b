//! Lost connections, reconnecting, and what happens to operations in progress.

use super::*;

fn quickly() -> Reconnect {
    Reconnect::between(Duration::from_millis(5), Duration::from_millis(20))
}

/// Options with a callback that records each state.
fn noting(options: Options) -> (Options, Receiver<State>) {
    let (send, states) = channel();
    (options.on_state(move |state| drop(send.send(state.clone()))), states)
}

#[test]
fn a_lost_connection_is_made_again_and_each_state_is_told() {
    let (target, _) = serve(2, |mut stream, nth| {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        stream.write_all(&byte).unwrap();
        if nth == 0 {
            return;
        }
        let _ = stream.read(&mut byte);
    });
    let (options, states) = noting(Options::new().reconnect(quickly()));
    let clients = start();
    let client = connected(&clients, &target, options);
    assert_eq!(done(client.send_receive(vec![1], GUARD)).unwrap(), [1]);
    let next = || states.recv_timeout(GUARD).unwrap();
    assert_eq!(next(), State::Connecting);
    assert!(matches!(next(), State::Connected { address } if address.address() == target));
    let State::Waiting { attempt: 1, why, .. } = next() else { panic!("no wait") };
    assert_eq!(why, Error::ClosedByPeer);
    assert_eq!(done(client.send_receive(vec![2], GUARD)).unwrap(), [2]);
    assert_eq!(next(), State::Connecting);
    assert!(matches!(next(), State::Connected { .. }));
    done(client.disconnect()).unwrap();
    assert_eq!(next(), State::Closed { why: Error::Cancelled });
    assert!(states.try_recv().is_err());
}

#[test]
fn a_client_waits_for_a_server_that_is_not_there_yet() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (options, states) = noting(Options::new().reconnect(quickly()));
    let clients = start();
    let client = clients.client(&address.to_string(), options).unwrap();
    let connect = client.connect(GUARD);
    let request = client.send_receive(b"early".to_vec(), GUARD);
    let refused = |state: State| matches!(state, State::Waiting { attempt, why: Error::Refused(_), .. } if attempt > 2);
    while !refused(states.recv_timeout(GUARD).unwrap()) {}
    let config = Config::new().listen(address).workers(1).max_connections(10);
    let _server = Server::start(config, Echo).unwrap();
    assert_eq!(done(connect).unwrap(), address.into());
    assert_eq!(done(request).unwrap(), b"early");
}

#[test]
fn it_gives_up_after_as_many_attempts_as_it_was_told() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let (options, states) = noting(Options::new().reconnect(quickly().attempts_max(3)));
    let clients = start();
    let client = clients.client(&address.to_string(), options).unwrap();
    let failed = done(client.connect(GUARD)).unwrap_err();
    assert!(matches!(failed.error, Error::Refused(_)), "{failed:?}");
    let mut told = Vec::new();
    while !matches!(told.last(), Some(State::Closed { .. })) {
        told.push(states.recv_timeout(GUARD).unwrap());
    }
    let connecting = told.iter().filter(|state| **state == State::Connecting).count();
    assert_eq!(connecting, 3, "{told:?}");
    assert!(matches!(told.last(), Some(State::Closed { why: Error::Refused(_) })), "{told:?}");
}

/// A server whose first connection reads a little and is reset on command, and whose second
/// connection reads to the end.
fn reset_then_read(go: Receiver<()>) -> (String, Receiver<Vec<u8>>) {
    serve(2, move |mut stream, nth| {
        let mut all = Vec::new();
        if nth == 0 {
            go.recv_timeout(GUARD).unwrap();
            let mut some = [0; 1000];
            stream.read_exact(&mut some).unwrap();
            reset(stream);
        } else {
            let _ = stream.read_to_end(&mut all);
        }
        all
    })
}

#[test]
fn messages_that_were_not_handed_over_are_kept_and_sent_again_whole() {
    let (go, when) = channel();
    let (target, received) = reset_then_read(when);
    let options = Options::new()
        .reconnect(quickly())
        .unsent(Unsent::Keep)
        .framing(Framing::Length { order: ByteOrder::Little, max: 1 << 30 });
    let clients = start();
    let client = connected(&clients, &target, options);
    // Exceeds the socket buffers, so it is in progress when the reset arrives.
    let big = pattern(32 << 20);
    let sends = [big.clone(), b"second".to_vec(), b"third".to_vec()].map(|m| client.send(m));
    go.send(()).unwrap();
    for send in sends {
        done(send).unwrap();
    }
    done(client.disconnect()).unwrap();
    assert_eq!(received.recv_timeout(GUARD).unwrap(), b"");
    let all = received.recv_timeout(GUARD).unwrap();
    let expected = [framed(&big), framed(b"second"), framed(b"third")].concat();
    assert!(all == expected, "{} bytes, not {}", all.len(), expected.len());
}

#[test]
fn messages_that_were_not_handed_over_are_reported_with_how_much_was() {
    let (go, when) = channel();
    let (target, received) = reset_then_read(when);
    let clients = start();
    let client = connected(&clients, &target, Options::new().reconnect(quickly()));
    let big = pattern(32 << 20);
    let [first, second] = [big.clone(), b"second".to_vec()].map(|m| client.send(m));
    // When the loop knows of both.
    on_the_loop(&client, move || go.send(()).unwrap());
    let failed = done(first).unwrap_err();
    assert_eq!(failed.error, Error::Reset);
    assert!(failed.bytes_sent >= 1000 && failed.bytes_sent < big.len(), "{}", failed.bytes_sent);
    assert!(failed.buffer == big);
    let failed = done(second).unwrap_err();
    assert_eq!((failed.bytes_sent, &failed.buffer[..]), (0, &b"second"[..]));
    done(client.send(b"later".to_vec())).unwrap();
    done(client.disconnect()).unwrap();
    received.recv_timeout(GUARD).unwrap();
    assert_eq!(received.recv_timeout(GUARD).unwrap(), b"later");
}

#[test]
fn a_message_that_was_handed_over_is_not_sent_twice() {
    let (target, received) = serve(2, |mut stream, nth| {
        let mut all = vec![0; 6];
        stream.read_exact(&mut all).unwrap();
        if nth == 1 {
            let _ = stream.read_to_end(&mut all);
        }
        all
    });
    let (options, states) = noting(Options::new().reconnect(quickly()).unsent(Unsent::Keep));
    let clients = start();
    let client = connected(&clients, &target, options);
    done(client.send(b"first!".to_vec())).unwrap();
    assert_eq!(received.recv_timeout(GUARD).unwrap(), b"first!");
    while !matches!(states.recv_timeout(GUARD).unwrap(), State::Waiting { .. }) {}
    done(client.send(b"second".to_vec())).unwrap();
    done(client.disconnect()).unwrap();
    assert_eq!(received.recv_timeout(GUARD).unwrap(), b"second");
}

#[test]
fn a_request_that_has_begun_is_never_repeated() {
    let (target, received) = serve(2, |mut stream, nth| {
        let mut request = vec![0; 3];
        stream.read_exact(&mut request).unwrap();
        if nth == 1 {
            stream.write_all(&request).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        }
        request
    });
    let options = Options::new().reconnect(quickly()).unsent(Unsent::Keep);
    let clients = start();
    let client = connected(&clients, &target, options);
    let failed = done(client.send_receive(b"one".to_vec(), GUARD)).unwrap_err();
    assert_eq!((failed.error, failed.bytes_sent), (Error::ClosedByPeer, 3));
    assert_eq!(done(client.send_receive(b"two".to_vec(), GUARD)).unwrap(), b"two");
    done(client.disconnect()).unwrap();
    let seen: Vec<_> = (0..2).map(|_| received.recv_timeout(GUARD).unwrap()).collect();
    assert_eq!(seen, [b"one", b"two"]);
}

#[test]
fn what_an_earlier_connection_left_comes_before_the_next_one() {
    let (target, _) = serve(2, |mut stream, nth| {
        stream.write_all(&framed(if nth == 0 { b"old" } else { b"new" })).unwrap();
        if nth == 0 {
            stream.write_all(&framed(b"half")[..6]).unwrap();
            return;
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let clients = start();
    let options = Options::new().framing(LITTLE).reconnect(quickly());
    let client = connected(&clients, &target, options);
    thread::sleep(SHORT);
    assert_eq!(done(client.receive_message(vec![])).unwrap(), b"old");
    let failed = done(client.receive_message(vec![])).unwrap_err();
    assert_eq!((failed.error, failed.buffer), (Error::ClosedByPeer, framed(b"half")[..6].into()));
    assert_eq!(done(client.receive_message(vec![])).unwrap(), b"new");
}

#[test]
fn a_reply_is_not_looked_for_in_what_an_earlier_connection_left() {
    let (go, when) = channel();
    let (target, _) = serve(2, move |mut stream, nth| {
        if nth == 0 {
            stream.write_all(&framed(b"old")).unwrap();
            when.recv_timeout(GUARD).unwrap();
            return reset(stream);
        }
        let mut request = [0; 7];
        stream.read_exact(&mut request).unwrap();
        stream.write_all(&request).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new().framing(LITTLE).reconnect(quickly()));
    thread::sleep(SHORT);
    go.send(()).unwrap();
    // While unrequested bytes are waiting, the client notices the reset only when it sends.
    let begun = Instant::now();
    while done(client.send(vec![1])).is_ok() {
        assert!(begun.elapsed() < GUARD, "the reset is never seen");
    }
    assert_eq!(done(client.send_receive(b"new".to_vec(), GUARD)).unwrap(), b"new");
}

#[test]
fn waiting_to_connect_can_be_cancelled_and_disconnected() {
    let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let slowly = Reconnect::between(GUARD, GUARD);
    let clients = start();
    let client = clients.client(&address.to_string(), Options::new().reconnect(slowly)).unwrap();
    let connect = client.connect(GUARD);
    let send = client.send(b"x".to_vec()).wait_timeout(SHORT).expect_err("not connected");
    connect.cancel();
    assert_eq!(done(connect).unwrap_err().error, Error::Cancelled);
    assert_eq!(done(send).unwrap_err().error, Error::Cancelled);
    let connect = client.connect(GUARD);
    done(client.disconnect()).unwrap();
    assert_eq!(done(connect).unwrap_err().error, Error::Cancelled);
    // With a time-out, connect fails then, with the results of its attempts.
    let failed = done(client.connect(Duration::from_secs(1))).unwrap_err();
    assert!(matches!(failed.error, Error::Refused(_)), "{failed:?}");
}
