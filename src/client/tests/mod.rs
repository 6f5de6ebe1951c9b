//! Clients against servers of this library, and against misbehaving servers on threads.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::builtin::Echo;
use crate::protocol::framing::{ByteOrder, Delimiter, FrameError, Framing};
use crate::{Config, Server, ServerHandle};

mod callbacks;
mod callers;
mod connecting;
mod hostile;
mod many;
mod order;
mod random;
mod reconnecting;
#[cfg(feature = "tls")]
mod tls;
mod unix;

/// Longer than any operation takes. It only prevents tests from hanging.
const GUARD: Duration = Duration::from_secs(60);

/// How long to wait for something that must not happen.
const SHORT: Duration = Duration::from_millis(50);

/// A time-out that is meant to expire, but not before the loop has started the operation, even on
/// a busy machine.
const EXPIRES: Duration = Duration::from_secs(2);

const LITTLE: Framing = Framing::Length { order: ByteOrder::Little, max: 1 << 20 };

fn echo_server() -> (ServerHandle, String) {
    let config = Config::new().listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let server = Server::start(config.workers(1).max_connections(2_000), Echo).unwrap();
    let target = server.local_endpoints()[0].to_string();
    (server, target)
}

/// A server on a thread that runs `act` on its first connections, one after the other, and sends
/// the results through the channel.
fn serve<T: Send + 'static>(
    connections: usize,
    act: impl Fn(TcpStream, usize) -> T + Send + 'static,
) -> (String, Receiver<T>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let (send, answers) = channel();
    thread::spawn(move || {
        for nth in 0..connections {
            let (stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(GUARD)).unwrap();
            stream.set_nodelay(true).unwrap();
            let _ = send.send(act(stream, nth));
        }
    });
    (target, answers)
}

fn start() -> ClientLoop {
    ClientLoop::start(LoopLimits::for_clients(8)).unwrap()
}

fn connected(clients: &ClientLoop, target: &str, options: Options) -> Client {
    let client = clients.client(target, options).unwrap();
    client.connect(GUARD).wait().unwrap();
    client
}

/// Waits for the result.
#[track_caller]
fn done<T: 'static>(pending: Pending<T>) -> Result<T, Failed> {
    pending.wait_timeout(GUARD).expect("an operation that completes")
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], payload].concat()
}

fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Bytes that differ from their neighbours.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[test]
fn a_request_comes_back_whatever_its_length() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    for len in [1, 0, 255, 16 << 10, (16 << 10) + 1, 3 << 20] {
        let request = pattern(len);
        let reply = done(client.send_receive(request.clone(), GUARD)).unwrap();
        assert!(reply == request, "{len} bytes");
    }
}

#[test]
fn the_blocking_form_sends_receives_and_ends() {
    let (server, target) = echo_server();
    let mut client = Blocking::connect(&target).unwrap();
    assert_eq!(client.send_receive(b"Hello World", GUARD).unwrap(), b"Hello World");
    client.send(b"half").unwrap();
    assert_eq!(client.receive().unwrap(), b"half");
    client.send(b"the rest").unwrap();
    client.half_close().unwrap();
    assert_eq!(client.receive_to_end(100).unwrap(), b"the rest");
    // The half-close ends with its connection.
    assert_eq!(client.send(b"more").unwrap_err().error, Error::ClosedByPeer);
    client.disconnect().unwrap();
    let counts = server.stats().total();
    assert_eq!((counts.accepted, counts.bytes_received), (1, 23));
}

#[test]
fn requests_that_are_under_way_together_get_their_own_replies() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let requests: Vec<Vec<u8>> = (1..30).map(|n| pattern(n * 997)).collect();
    let pending: Vec<_> =
        requests.iter().map(|request| client.send_receive(request.clone(), GUARD)).collect();
    for (request, pending) in requests.iter().zip(pending) {
        assert!(done(pending).unwrap() == *request);
    }
}

#[test]
fn messages_arrive_whole_in_either_framing_wherever_the_stream_is_cut() {
    let eof = Framing::Delimiter { delimiter: Delimiter::new(b"<EOF>").unwrap(), max: 1000 };
    for framing in [LITTLE, eof] {
        let (target, _) = serve(1, |mut stream, _| {
            // Echo one byte at a time.
            let mut byte = [0];
            while stream.read(&mut byte).unwrap_or(0) == 1 {
                stream.write_all(&byte).unwrap();
            }
        });
        let clients = start();
        let client = connected(&clients, &target, Options::new().framing(framing));
        for payload in [&b""[..], b"a", b"<EOF", b"<<E<EO", &[7; 300]] {
            done(client.send(payload.to_vec())).unwrap();
            assert_eq!(done(client.receive_message(Vec::new())).unwrap(), payload);
            assert_eq!(done(client.send_receive(payload.to_vec(), GUARD)).unwrap(), payload);
        }
    }
}

#[test]
fn a_message_that_is_too_long_is_refused_before_it_is_sent() {
    let (_server, target) = echo_server();
    let clients = start();
    let framing = Framing::Length { order: ByteOrder::Big, max: 10 };
    let client = connected(&clients, &target, Options::new().framing(framing));
    for pending in [client.send(vec![1; 11]), client.send_receive(vec![1; 11], GUARD)] {
        let failed = done(pending).unwrap_err();
        let too_long = FrameError::TooLong { len: 11, max: 10 };
        assert_eq!(failed.error, Error::FrameTooLarge(too_long));
        assert_eq!((failed.bytes_sent, failed.buffer), (0, vec![1; 11]));
    }
    assert_eq!(done(client.send_receive(vec![2; 10], GUARD)).unwrap(), [2; 10]);
}

#[test]
fn a_cancelled_receive_leaves_what_came_for_the_next() {
    let (send, to_send) = channel::<Vec<u8>>();
    let to_send = Mutex::new(to_send);
    let (target, _) = serve(1, move |mut stream, _| {
        for bytes in to_send.lock().unwrap().iter() {
            stream.write_all(&bytes).unwrap();
        }
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new().framing(LITTLE));
    let whole = framed(b"a message in three parts");
    let (head, tail) = whole.split_at(2);
    let (middle, tail) = tail.split_at(9);
    for part in [head, middle] {
        let pending = client.receive_message(Vec::new());
        send.send(part.to_vec()).unwrap();
        let pending = pending.wait_timeout(SHORT).expect_err("it is not whole");
        pending.cancel();
        let failed = done(pending).unwrap_err();
        assert_eq!((failed.error, failed.buffer), (Error::Cancelled, Vec::new()));
    }
    send.send(tail.to_vec()).unwrap();
    let message = done(client.receive_message(Vec::new())).unwrap();
    assert_eq!(message, b"a message in three parts");
    // Receive it as bytes on the wire too.
    let pending = client.receive_message(Vec::new());
    send.send(whole[..7].to_vec()).unwrap();
    let pending = pending.wait_timeout(SHORT).expect_err("it is not whole");
    pending.cancel();
    assert!(done(pending).is_err());
    assert_eq!(done(client.receive(Vec::with_capacity(3))).unwrap(), whole[..3]);
    assert_eq!(done(client.receive(Vec::with_capacity(100))).unwrap(), whole[3..7]);
}

#[test]
fn a_cancelled_send_says_how_much_cannot_be_taken_back() {
    let (go, when) = channel();
    let (send, has_begun) = channel();
    let (target, received) = serve(1, move |mut stream, _| {
        stream.peek(&mut [0]).unwrap();
        send.send(()).unwrap();
        when.recv_timeout(GUARD).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let data = pattern(64 << 20);
    let pending = client.send(data.clone());
    has_begun.recv_timeout(GUARD).unwrap();
    let pending = pending.wait_timeout(SHORT).expect_err("nobody reads");
    pending.cancel();
    let failed = done(pending).unwrap_err();
    assert_eq!(failed.error, Error::Cancelled);
    assert!(failed.buffer == data, "the data comes back whole");
    assert!(failed.bytes_sent > 0 && failed.bytes_sent < data.len(), "{}", failed.bytes_sent);
    go.send(()).unwrap();
    // The stream continues where it was cut.
    done(client.send(b"end".to_vec())).unwrap();
    done(client.disconnect()).unwrap();
    let all = received.recv_timeout(GUARD).unwrap();
    assert!(all == [&data[..failed.bytes_sent], b"end"].concat(), "{} bytes", all.len());
}

#[test]
fn a_cancelled_request_that_has_not_begun_leaves_the_others_alone() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = clients.client(&target, Options::new()).unwrap();
    let connect = client.connect(GUARD);
    let kept = client.send_receive(b"kept".to_vec(), GUARD);
    connect.wait().unwrap();
    assert_eq!(done(kept).unwrap(), b"kept");
    let late = client.send_receive(b"late".to_vec(), GUARD);
    let canceller = late.canceller();
    done(late).unwrap();
    canceller.cancel();
    assert_eq!(done(client.send_receive(b"next".to_vec(), GUARD)).unwrap(), b"next");
}

#[test]
fn what_was_not_asked_for_is_kept_and_then_comes_the_end() {
    let (target, closed) = serve(1, |mut stream, _| {
        stream.write_all(b"bytes").unwrap();
        stream.shutdown(Shutdown::Both).unwrap();
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    closed.recv_timeout(GUARD).unwrap();
    thread::sleep(SHORT);
    assert_eq!(done(client.receive(Vec::with_capacity(2))).unwrap(), b"by");
    assert_eq!(done(client.receive(Vec::with_capacity(20))).unwrap(), b"tes");
    assert_eq!(done(client.receive(Vec::new())).unwrap_err().error, Error::ClosedByPeer);
    assert_eq!(done(client.receive(Vec::new())).unwrap_err().error, Error::ClosedByPeer);
}

#[test]
fn a_peer_that_is_not_read_from_is_held_back() {
    let (target, sent) = serve(1, |mut stream, _| {
        stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let (mut sent, block) = (0, vec![5; 64 << 10]);
        while let Ok(count) = stream.write(&block) {
            sent += count;
        }
        stream.set_write_timeout(None).unwrap();
        sent
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let sent = sent.recv_timeout(GUARD).unwrap();
    // All bytes arrive once they are requested; none were refused or discarded.
    let all = done(client.receive_to_end(Vec::new(), usize::MAX)).unwrap();
    assert_eq!(all.len(), sent);
}

#[test]
fn a_client_that_does_not_receive_takes_no_buffers_from_the_others() {
    let (flooding, _) = serve(1, |mut stream, _| while stream.write_all(&[5; 65_536]).is_ok() {});
    let (_server, target) = echo_server();
    let limits = LoopLimits { buffers: 16, buffer_size: 1024, ..LoopLimits::for_clients(2) };
    let clients = ClientLoop::start(limits).unwrap();
    let _flooded = connected(&clients, &flooding, Options::new());
    let client = connected(&clients, &target, Options::new());
    thread::sleep(SHORT);
    let request = pattern(100_000);
    assert!(done(client.send_receive(request.clone(), GUARD)).unwrap() == request);
}

#[test]
fn a_client_whose_peer_does_not_read_takes_no_buffers_from_the_others() {
    let (send, keep) = channel();
    let (stuck, _) = serve(1, move |stream, _| send.send(stream).unwrap());
    let (_server, target) = echo_server();
    let limits = LoopLimits { buffers: 16, buffer_size: 1024, ..LoopLimits::for_clients(2) };
    let clients = ClientLoop::start(limits).unwrap();
    let sender = connected(&clients, &stuck, Options::new());
    let client = connected(&clients, &target, Options::new());
    let send = sender.send(vec![1; 64 << 20]).wait_timeout(SHORT * 10).expect_err("nobody reads");
    let request = pattern(100_000);
    assert!(done(client.send_receive(request.clone(), GUARD)).unwrap() == request);
    drop((sender, keep));
    assert_eq!(done(send).unwrap_err().error, Error::Cancelled);
}

#[test]
fn what_had_come_before_a_reset_can_still_be_received() {
    let (go, when) = channel();
    let (target, _) = serve(1, move |mut stream, _| {
        stream.write_all(b"bytes").unwrap();
        when.recv_timeout(GUARD).unwrap();
        reset(stream);
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    thread::sleep(SHORT);
    go.send(()).unwrap();
    // The client notices the reset when it sends.
    let begun = Instant::now();
    while done(client.send(vec![1])).is_ok() {
        assert!(begun.elapsed() < GUARD, "the reset is never seen");
    }
    assert_eq!(done(client.receive(Vec::new())).unwrap(), b"bytes");
    assert_eq!(done(client.receive(Vec::new())).unwrap_err().error, Error::Reset);
}

#[test]
fn a_peer_that_never_closes_is_waited_for_no_longer_than_the_linger_time() {
    let (send, keep) = channel();
    let (target, _) = serve(2, move |stream, _| send.send(stream).unwrap());
    let limits = LoopLimits { linger: Duration::from_millis(100), ..LoopLimits::for_clients(1) };
    let clients = ClientLoop::start(limits).unwrap();
    // Long enough that the connect time-out cannot end the wait.
    let options = Options::new().connect_timeout(Duration::from_secs(3600));
    let client = clients.client(&target, options).unwrap();
    for half_close in [false, true] {
        client.connect(Duration::MAX).wait().unwrap();
        if half_close {
            done(client.half_close()).unwrap();
        }
        done(client.disconnect()).unwrap();
    }
    drop(keep);
}

/// Calls `act` on the loop's thread. The client must be connected and have nothing to receive.
///
/// The callback of an operation that can complete on its own would not do: if it completes before
/// the callback is set, the callback runs on the caller's thread.
fn on_the_loop(client: &Client, act: impl FnOnce() + Send + 'static) {
    let receive = client.receive(Vec::new());
    let canceller = receive.canceller();
    receive.on_complete(move |received| {
        assert_eq!(received.unwrap_err().error, Error::Cancelled);
        act();
    });
    canceller.cancel();
}

#[test]
fn callbacks_come_on_the_loops_thread_and_may_go_on_from_there() {
    // The server replies only after the callback is set.
    let (go, when) = channel();
    let when = Mutex::new(when);
    let (target, _) = serve(1, move |mut stream, _| {
        for () in when.lock().unwrap().iter() {
            let mut request = [0; 3];
            stream.read_exact(&mut request).unwrap();
            stream.write_all(&request).unwrap();
        }
    });
    let clients = start();
    let client = Arc::new(connected(&clients, &target, Options::new()));
    let (send, results) = channel();
    let (again, also_go) = (client.clone(), go.clone());
    client.send_receive(b"one".to_vec(), GUARD).on_complete(move |reply| {
        let name = thread::current().name().map(str::to_owned);
        let next = again.send_receive(b"two".to_vec(), GUARD);
        next.on_complete(move |next| send.send((reply, name, next)).unwrap());
        also_go.send(()).unwrap();
    });
    go.send(()).unwrap();
    let (reply, name, next) = results.recv_timeout(GUARD).unwrap();
    assert_eq!(name.as_deref(), Some("clients"));
    assert_eq!((&reply.unwrap()[..], &next.unwrap()[..]), (&b"one"[..], &b"two"[..]));
}

#[test]
fn a_panic_in_a_callback_is_its_own_affair_and_waiting_in_one_is_refused() {
    let (_server, target) = echo_server();
    let clients = start();
    let options = Options::new().on_state(|state| panic!("on purpose, at {state:?}"));
    let client = Arc::new(connected(&clients, &target, options));
    let (send, results) = channel();
    let inner = client.clone();
    on_the_loop(&client, move || {
        send.send(inner.send_receive(b"2".to_vec(), GUARD).wait()).unwrap();
        panic!("on purpose");
    });
    let failed = results.recv_timeout(GUARD).unwrap().unwrap_err();
    assert_eq!(failed.error, Error::OnLoopThread);
    assert_eq!(done(client.send_receive(b"3".to_vec(), GUARD)).unwrap(), b"3");
}

#[test]
fn what_has_no_room_is_refused_at_once() {
    let (_server, target) = echo_server();
    let limits = LoopLimits { operations: 3, ..LoopLimits::for_clients(2) };
    let clients = ClientLoop::start(limits).unwrap();
    let client = connected(&clients, &target, Options::new());
    let other = clients.client(&target, Options::new()).unwrap();
    let third = clients.client(&target, Options::new());
    assert_eq!(third.unwrap_err(), Error::TooManyClients);
    let waiting: Vec<_> = (0..3).map(|_| client.receive(Vec::new())).collect();
    let failed = done(client.send(b"kept".to_vec())).unwrap_err();
    assert_eq!((failed.error, &failed.buffer[..]), (Error::QueueFull, &b"kept"[..]));
    waiting[0].cancel();
    let mut waiting = waiting.into_iter();
    assert_eq!(done(waiting.next().unwrap()).unwrap_err().error, Error::Cancelled);
    done(client.send(b"now".to_vec())).unwrap();
    assert_eq!(done(waiting.next().unwrap()).unwrap(), b"now");
    drop(other);
    // The slot is released when the loop has noticed the drop.
    let begun = Instant::now();
    while clients.client(&target, Options::new()).is_err() {
        assert!(begun.elapsed() < GUARD);
    }
}

#[test]
fn limits_out_of_range_are_named() {
    for (limits, name) in [
        (LoopLimits::for_clients(0), "clients"),
        (LoopLimits { operations: 0, ..LoopLimits::default() }, "operations"),
        (LoopLimits { buffers: 7, ..LoopLimits::for_clients(2) }, "buffers"),
        (LoopLimits { buffer_size: 1, ..LoopLimits::default() }, "buffer_size"),
    ] {
        let error = ClientLoop::start(limits).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains(name), "{error}");
    }
}

#[test]
fn operations_without_a_connection_or_a_framing_say_what_is_missing() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = clients.client(&target, Options::new()).unwrap();
    assert_eq!(done(client.send(vec![1])).unwrap_err().error, Error::NotConnected);
    assert_eq!(done(client.receive(vec![])).unwrap_err().error, Error::NotConnected);
    assert_eq!(done(client.receive_message(vec![])).unwrap_err().error, Error::NoFraming);
    done(client.disconnect()).unwrap();
    client.connect(GUARD).wait().unwrap();
    assert_eq!(client.connect(GUARD).wait().unwrap_err().error, Error::AlreadyConnected);
}

#[test]
fn a_client_can_disconnect_and_connect_again() {
    let (server, target) = echo_server();
    let clients = start();
    let client = clients.client(&target, Options::new()).unwrap();
    for round in 0..5_u8 {
        client.connect(GUARD).wait().unwrap();
        let pending = client.receive(Vec::new());
        let reply = client.send_receive(vec![round; 10], GUARD);
        // In order: the receive was first.
        assert_eq!(done(pending).unwrap(), [round; 10]);
        let disconnect = client.disconnect();
        assert_eq!(done(reply).unwrap_err().error, Error::Cancelled);
        done(disconnect).unwrap();
        assert_eq!(done(client.send(vec![1])).unwrap_err().error, Error::NotConnected);
    }
    assert_eq!(server.stats().total().accepted, 5);
}

#[test]
fn a_disconnect_comes_after_what_was_to_be_sent() {
    let (target, received) = serve(1, |mut stream, _| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let sends: Vec<_> = (0..20).map(|n| client.send(vec![n; 100_000])).collect();
    let disconnect = client.disconnect();
    for send in sends {
        done(send).unwrap();
    }
    done(disconnect).unwrap();
    let all = received.recv_timeout(GUARD).unwrap();
    assert_eq!(all.len(), 2_000_000);
    assert!(all.chunks(100_000).enumerate().all(|(n, part)| part == [n as u8; 100_000]));
}

#[test]
fn the_end_of_a_loop_completes_everything() {
    let (_server, target) = echo_server();
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    let pending = client.receive(Vec::new());
    drop(clients);
    assert_eq!(done(pending).unwrap_err().error, Error::LoopEnded);
    let failed = done(client.send(vec![1])).unwrap_err();
    assert_eq!((failed.error, failed.buffer), (Error::LoopEnded, vec![1]));
    pending_is_over(client.connect(GUARD));
}

fn pending_is_over<T: 'static + std::fmt::Debug>(pending: Pending<T>) {
    assert!(pending.is_complete());
    assert_eq!(done(pending).unwrap_err().error, Error::LoopEnded);
}

#[test]
fn a_client_that_is_dropped_closes_in_order_what_it_was_sending() {
    let (target, received) = serve(1, |mut stream, _| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    let clients = start();
    let client = connected(&clients, &target, Options::new());
    done(client.send(b"last words".to_vec())).unwrap();
    let pending = client.receive(Vec::new());
    drop(client);
    assert_eq!(done(pending).unwrap_err().error, Error::Cancelled);
    assert_eq!(received.recv_timeout(GUARD).unwrap().unwrap(), b"last words");
}

/// An address that refuses connections: its port was free a moment ago.
fn refusing() -> SocketAddr {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap()
}

/// A listener whose backlog is full: connects are neither accepted nor refused.
fn unanswering() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let full = (0..4).map_while(|_| TcpStream::connect_timeout(&address, SHORT).ok()).collect();
    (address, listener, full)
}

#[test]
fn a_name_is_looked_up() {
    let (_server, target) = echo_server();
    let port = target.rsplit_once(':').unwrap().1;
    let mut client = Blocking::connect(&format!("localhost:{port}")).unwrap();
    assert_eq!(client.send_receive(b"found", GUARD).unwrap(), b"found");
}

#[test]
fn all_addresses_are_tried_in_their_order_within_the_time() {
    let (_server, target) = echo_server();
    let (silent, _listener, _full) = unanswering();
    let clients = start();
    let mut several = target::Target::parse(&target).unwrap();
    let good = several.literal[0];
    several.literal = vec![refusing().into(), silent.into(), good];
    let options = Options::new().connect_timeout(Duration::from_secs(3));
    let client = Client::new(&clients.submission, several.clone(), options).unwrap();
    assert_eq!(done(client.connect(GUARD)).unwrap(), good);
    assert_eq!(done(client.send_receive(b"x".to_vec(), GUARD)).unwrap(), b"x");
    several.literal.pop();
    let client = Client::new(&clients.submission, several.clone(), Options::new()).unwrap();
    let failed = done(client.connect(EXPIRES)).unwrap_err();
    let Error::Refused(attempts) = &failed.error else { panic!("{failed:?}") };
    let answers: Vec<_> = attempts.iter().map(|attempt| (attempt.address, attempt.error)).collect();
    let [refused, late] = [crate::error::Errno::CONNREFUSED, crate::error::Errno::TIMEDOUT];
    assert_eq!(answers, [(several.literal[0], refused), (silent.into(), late)]);
}

#[test]
fn a_refused_connect_says_what_each_address_answered() {
    // A port that was free a moment ago, for both address families.
    let port = {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0));
        let listener = listener.or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)));
        listener.unwrap().local_addr().unwrap().port()
    };
    let clients = start();
    let client = clients.client(&format!("localhost:{port}"), Options::new()).unwrap();
    let early = client.send(vec![1]);
    let failed = done(client.connect(GUARD)).unwrap_err();
    let Error::Refused(attempts) = &failed.error else { panic!("{failed:?}") };
    let found: Vec<_> = ("localhost", port).to_socket_addrs_list();
    let tried: Vec<_> =
        attempts.iter().filter_map(|attempt| attempt.address.socket_addr()).collect();
    assert_eq!(tried, found);
    assert!(failed.to_string().contains("start the server"), "{failed}");
    assert!(done(early).is_err());
}

trait ToList {
    fn to_socket_addrs_list(self) -> Vec<SocketAddr>;
}

impl ToList for (&str, u16) {
    fn to_socket_addrs_list(self) -> Vec<SocketAddr> {
        std::net::ToSocketAddrs::to_socket_addrs(&self).unwrap().collect()
    }
}

#[test]
fn a_name_that_nobody_has_is_an_error_of_its_own() {
    let clients = start();
    let client = clients.client("no-such-host.invalid:7", Options::new()).unwrap();
    let failed = done(client.connect(GUARD)).unwrap_err();
    let Error::Resolve { host, .. } = &failed.error else { panic!("{failed:?}") };
    assert_eq!(host, "no-such-host.invalid");
}

#[test]
fn a_connect_that_is_cancelled_ends_at_once() {
    let (address, _listener, _full) = unanswering();
    let clients = start();
    let client = clients.client(&address.to_string(), Options::new()).unwrap();
    let pending = client.connect(GUARD).wait_timeout(SHORT).expect_err("nobody accepts");
    pending.cancel();
    assert_eq!(done(pending).unwrap_err().error, Error::Cancelled);
    let failed = done(client.connect(EXPIRES)).unwrap_err();
    let Error::ConnectTimedOut(attempts) = &failed.error else { panic!("{failed:?}") };
    assert_eq!(attempts.iter().map(|a| a.address).collect::<Vec<_>>(), [address.into()]);
}

#[test]
fn a_thousand_clients_share_one_loop() {
    const CLIENTS: usize = 1_000;
    let (server, target) = echo_server();
    let clients = ClientLoop::start(LoopLimits::for_clients(CLIENTS as u32)).unwrap();
    let all: Vec<_> =
        (0..CLIENTS).map(|_| clients.client(&target, Options::new()).unwrap()).collect();
    let connects: Vec<_> = all.iter().map(|client| client.connect(GUARD)).collect();
    for connect in connects {
        done(connect).unwrap();
    }
    let answered = Arc::new(AtomicU64::new(0));
    for round in 0..3_u64 {
        let pending: Vec<_> = all
            .iter()
            .enumerate()
            .map(|(nth, client)| {
                let request = (nth as u64 * 10 + round).to_le_bytes().repeat(nth % 40 + 1);
                (request.clone(), client.send_receive(request, GUARD))
            })
            .collect();
        for (request, pending) in pending {
            assert_eq!(done(pending).unwrap(), request);
            answered.fetch_add(1, SeqCst);
        }
    }
    assert_eq!(answered.load(SeqCst), 3 * CLIENTS as u64);
    assert_eq!(server.stats().total().connections, CLIENTS as u64);
}
