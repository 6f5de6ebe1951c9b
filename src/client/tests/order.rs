//! Operations that are started in a row without waiting. Each applies to the state that the earlier
//! ones leave.

use super::*;

/// Starts operations while a callback blocks the loop, so that the loop receives all of them at
/// once.
fn at_once<T>(client: &Client, begin: impl FnOnce() -> T) -> T {
    let (held, is_held) = channel();
    let (go, when) = channel::<()>();
    on_the_loop(client, move || {
        held.send(()).unwrap();
        let _ = when.recv_timeout(GUARD);
    });
    is_held.recv_timeout(GUARD).unwrap();
    let begun = begin();
    drop(go);
    begun
}

#[test]
fn a_reply_is_for_the_request_and_not_for_a_receive_that_was_begun_later() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new().framing(LITTLE));
    for _ in 0..50 {
        let (request, receive) = at_once(&client, || {
            let request = client.send_receive(b"mine".to_vec(), GUARD);
            (request, client.receive_message(Vec::new()))
        });
        assert_eq!(done(request).unwrap(), b"mine");
        receive.cancel();
        assert_eq!(done(receive).unwrap_err().error, Error::Cancelled);
    }
}

/// A server that keeps its side open after its client has closed its own. Also returns its
/// connections.
fn keeping_open(connections: usize) -> (String, Receiver<(Vec<u8>, TcpStream)>) {
    serve(connections, |mut stream, _| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        (all, stream)
    })
}

#[test]
fn nothing_waits_behind_a_half_close() {
    let (target, received) = keeping_open(1);
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let (half, send, request, again) = at_once(&client, || {
        (
            client.half_close(),
            client.send(b"late".to_vec()),
            client.send_receive(b"late".to_vec(), GUARD),
            client.half_close(),
        )
    });
    done(half).unwrap();
    let failed = done(send).unwrap_err();
    assert_eq!((failed.error, &failed.buffer[..]), (Error::HalfClosed, &b"late"[..]));
    assert_eq!(done(request).unwrap_err().error, Error::HalfClosed);
    assert_eq!(done(again).unwrap_err().error, Error::HalfClosed);
    let (all, _open) = received.recv_timeout(GUARD).unwrap();
    assert_eq!(all, b"");
}

#[test]
fn a_half_close_is_forgotten_with_its_connection() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    for _ in 0..3 {
        let to_end = client.receive_to_end(Vec::new(), 9);
        done(client.half_close()).unwrap();
        assert_eq!(done(to_end).unwrap(), b"");
        let failed = done(client.send(b"x".to_vec())).unwrap_err();
        assert_eq!(failed.error, Error::ClosedByPeer);
        let connect = client.connect(GUARD);
        let request = client.send_receive(b"two".to_vec(), GUARD);
        done(connect).unwrap();
        assert_eq!(done(request).unwrap(), b"two");
    }
}

#[test]
fn what_is_begun_behind_a_half_close_waits_for_the_next_connection_if_there_is_one() {
    let (_server, target) = echo_server();
    let clients = start();
    let again = Reconnect::between(Duration::from_millis(200), Duration::from_millis(200));
    let client = connected(&clients, &target, Options::new().reconnect(again));
    let to_end = client.receive_to_end(Vec::new(), 9);
    done(client.half_close()).unwrap();
    assert_eq!(done(to_end).unwrap(), b"");
    // The connection has ended, and the client waits to reconnect.
    assert_eq!(done(client.send_receive(b"next".to_vec(), GUARD)).unwrap(), b"next");
}

#[test]
fn a_client_disconnects_connects_and_sends_without_waiting() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    for round in 0..20_u8 {
        let (leave, lost, connect, request, receive) = at_once(&client, || {
            let leave = client.disconnect();
            let lost = client.send(vec![round]);
            let connect = client.connect(GUARD);
            let request = client.send_receive(vec![round; 3], GUARD);
            drop(client.send(vec![round; 2]));
            (leave, lost, connect, request, client.receive(Vec::with_capacity(9)))
        });
        done(leave).unwrap();
        assert_eq!(done(lost).unwrap_err().error, Error::NotConnected);
        done(connect).unwrap();
        assert_eq!(done(request).unwrap(), [round; 3]);
        assert_eq!(done(receive).unwrap(), [round; 2]);
    }
    // If the next connection is cancelled, the operations that wait for it fail.
    let (connect, send, leave) = at_once(&client, || {
        drop(client.disconnect());
        (client.connect(GUARD), client.send(vec![1]), client.disconnect())
    });
    assert_eq!(done(connect).unwrap_err().error, Error::Cancelled);
    assert_eq!(done(send).unwrap_err().error, Error::Cancelled);
    done(leave).unwrap();
}

#[test]
fn what_a_cancelled_receive_had_got_goes_to_the_next_in_line() {
    let (target, _) = serve(1, |mut stream, _| {
        stream.write_all(&framed(b"0123456789")[..7]).unwrap();
        let _ = stream.read(&mut [0]);
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new().framing(LITTLE));
    let first = client.receive_message(Vec::new());
    let second = client.receive(Vec::new());
    let first = first.wait_timeout(SHORT).expect_err("it is not whole");
    first.cancel();
    assert_eq!(done(first).unwrap_err().error, Error::Cancelled);
    assert_eq!(done(second).unwrap(), framed(b"0123456789")[..7]);
}

#[test]
fn a_wait_that_is_refused_takes_its_receive_along() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = Arc::new(connected(&clients, &target, Options::new()));
    let (send, refused) = channel();
    let inner = client.clone();
    on_the_loop(&client, move || {
        send.send(inner.receive(Vec::new()).wait().unwrap_err().error).unwrap();
    });
    assert_eq!(refused.recv_timeout(GUARD).unwrap(), Error::OnLoopThread);
    done(client.send(b"2".to_vec())).unwrap();
    assert_eq!(done(client.receive(Vec::new())).unwrap(), b"2");
}

#[test]
fn messages_that_came_unasked_are_kept_when_a_send_is_given_up() {
    let (send, keep) = channel();
    let (target, _) = serve(1, move |mut stream, _| {
        stream.write_all(&framed(b"unasked")).unwrap();
        send.send(stream).unwrap();
    });
    let limits =
        LoopLimits { send_timeout: Some(Duration::from_millis(300)), ..LoopLimits::for_clients(1) };
    let clients = ClientLoop::start(limits).unwrap();
    let big = Framing::Length { order: ByteOrder::Little, max: 1 << 30 };
    let client = connected(&clients, &target, Options::new().framing(big));
    // It has written before anything is sent to it.
    let _stream = keep.recv_timeout(GUARD).unwrap();
    let failed = done(client.send(vec![1; 64 << 20])).unwrap_err();
    assert_eq!(failed.error, Error::SendTimedOut);
    assert_eq!(done(client.receive_message(Vec::new())).unwrap(), b"unasked");
    assert_eq!(done(client.receive_message(Vec::new())).unwrap_err().error, Error::SendTimedOut);
}

#[test]
fn messages_that_came_unasked_are_kept_when_a_framed_send_is_cut_short() {
    let (send, keep) = channel();
    let (target, _) = serve(1, move |mut stream, _| {
        stream.write_all(&framed(b"unasked")).unwrap();
        send.send(stream).unwrap();
    });
    let clients = start();
    let big = Framing::Length { order: ByteOrder::Little, max: 1 << 30 };
    let client = connected(&clients, &target, Options::new().framing(big));
    // It has written before anything is sent to it.
    let _stream = keep.recv_timeout(GUARD).unwrap();
    let pending = client.send(vec![1; 64 << 20]).wait_timeout(SHORT * 4).expect_err("no reader");
    pending.cancel();
    assert_eq!(done(pending).unwrap_err().error, Error::Cancelled);
    assert_eq!(done(client.receive_message(Vec::new())).unwrap(), b"unasked");
    assert_eq!(done(client.receive_message(Vec::new())).unwrap_err().error, Error::Cancelled);
}

#[test]
fn operations_that_are_turned_away_complete_in_their_order() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let (send, ended) = channel();
    at_once(&client, || {
        for nth in 0..20 {
            let send = send.clone();
            client.connect(GUARD).on_complete(move |result| {
                send.send((nth, result.unwrap_err().error)).unwrap();
            });
        }
    });
    for nth in 0..20 {
        assert_eq!(ended.recv_timeout(GUARD).unwrap(), (nth, Error::AlreadyConnected));
    }
}

#[test]
fn what_came_for_a_request_that_is_given_up_goes_to_no_other_receive() {
    let (send, keep) = channel();
    let (target, _) = serve(1, move |mut stream, _| {
        stream.write_all(&[framed(b"reply"), framed(b"behind it")].concat()).unwrap();
        send.send(stream).unwrap();
    });
    let clients = start();
    let big = Framing::Length { order: ByteOrder::Little, max: 1 << 30 };
    let client = connected(&clients, &target, Options::new().framing(big));
    let _stream = keep.recv_timeout(GUARD).unwrap();
    // Its cancellation returns both messages to the client.
    let all = client.receive_to_end(Vec::new(), 100).wait_timeout(SHORT).expect_err("it is open");
    all.cancel();
    assert_eq!(done(all).unwrap_err().error, Error::Cancelled);
    let request = client.send_receive(vec![1; 64 << 20], GUARD);
    let request = request.wait_timeout(SHORT).expect_err("the server does not read");
    let receive = client.receive_message(Vec::new());
    request.cancel();
    assert_eq!(done(request).unwrap_err().error, Error::Cancelled);
    assert_eq!(done(receive).unwrap_err().error, Error::Cancelled);
}
