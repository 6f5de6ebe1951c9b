//! Tests of workers on the real kernel, from inside: each system call made to fail, services that
//! panic, hold back or wait, and the order in which waiting connections are served.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::*;
use crate::buffer::Reserve;
use crate::builtin::Echo;
use crate::engine::MioEngine;
use crate::engine::sys::Kernel;
use crate::engine::sys::faulty::{Call, Fault, Faulty};
use crate::error::CloseReason;
use crate::service::{Answer, Connection, ServiceFactory, To};
use crate::shared::mailbox::EndOrder;
use crate::{Config, Drained, Server, ServerHandle};

mod endings;
mod handover;
mod listeners;
mod panics;
mod stepped;
mod time_outs;

/// Longer than any test takes; guards against hanging.
const GUARD: Duration = Duration::from_secs(60);

fn connect(address: SocketAddr) -> TcpStream {
    let client = TcpStream::connect(address).unwrap();
    client.set_read_timeout(Some(GUARD)).unwrap();
    client.set_write_timeout(Some(GUARD)).unwrap();
    client
}

fn echoes(client: &mut TcpStream, message: &[u8]) -> std::io::Result<()> {
    client.write_all(message)?;
    let mut reply = vec![0; message.len()];
    client.read_exact(&mut reply)?;
    assert_eq!(reply, message);
    Ok(())
}

/// Waits until a condition on the server's counters holds.
fn until(server: &ServerHandle, what: &str, condition: impl Fn(&crate::Counts) -> bool) {
    let begun = Instant::now();
    while !condition(&server.stats().total()) {
        assert!(begun.elapsed() < GUARD, "never: {what}: {:?}", server.stats().total());
        thread::sleep(Duration::from_millis(2));
    }
}

fn start(config: Config, factory: impl ServiceFactory) -> (ServerHandle, SocketAddr) {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let server = Server::start(config.workers(1).listen(anywhere), factory).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    (server, address)
}

/// A worker whose system calls fail on request.
struct FaultyWorker {
    address: SocketAddr,
    mailboxes: Arc<Mailboxes>,
    permits: Arc<Permits>,
    thread: JoinHandle<Result<(), Errno>>,
}

fn start_faulty(fault: Fault) -> FaultyWorker {
    start_with_mail(fault, Arc::new(Mailboxes::new(1)))
}

fn start_with_mail(fault: Fault, mailboxes: Arc<Mailboxes>) -> FaultyWorker {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let mut bound = crate::net::bind::bind_all(&[anywhere.into()], 1, 16, false).unwrap();
    let one = bound.pop().unwrap();
    let address = one.endpoint.socket_addr().unwrap();
    let permits = Permits::new(8, mailboxes.clone());
    let (for_thread, mail, of_thread) = (permits.clone(), mailboxes.clone(), fault.clone());
    let thread = thread::spawn(move || {
        let pool = Pool::new(Reserve::new(4096, 8).unwrap(), 0);
        let setup = Setup {
            index: 0,
            connections_max: 8,
            listeners: 1,
            rules: Rules {
                leases_per_connection_max: 2,
                idle_timeout: None,
                send_timeout: None,
                shed_after: None,
                linger: Duration::from_millis(100),
                log_sample: 1,
                accept_pause: Duration::from_millis(50),
            },
            pool: pool.clone(),
            permits: Some(for_thread.clone()),
            mailboxes: mail,
            counters: Arc::default(),
            directory: None,
        };
        let sys = Faulty::new(of_thread);
        let listeners = one.into_listening().collect();
        let engine = MioEngine::new(sys, 8, pool.clone(), Some(for_thread), listeners)?;
        let ended = Worker::new(engine, setup, |_| CloseOnQ).run(drop).map(|_| ());
        assert!(ended.is_err() || pool.held() == 0, "a lease was lost");
        ended
    });
    FaultyWorker { address, mailboxes, permits, thread }
}

/// Echo that closes its side after a `q`, which is the only way to cause a shutdown from here.
struct CloseOnQ;

impl Service for CloseOnQ {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        let quit = connection.input.slices().any(|slice| slice.contains(&b'q'));
        Echo.data(connection, session);
        if quit { Answer::CloseAfterSend } else { Answer::Continue }
    }
}

/// One fault, many clients: the clients that it hits may be disconnected, all others are served,
/// and nothing is lost in the end.
fn survives(call: Call, error: Errno, after: u64) {
    let fault = Fault::new(call, error, after);
    let worker = start_faulty(fault.clone());
    let mut hit = 0;
    for round in 0..6 {
        let mut client = connect(worker.address);
        let ending = if round % 2 == 0 { b"hello".as_slice() } else { b"hellq" };
        match echoes(&mut client, ending) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::TimedOut => panic!("{call:?} {error:?} hangs"),
            Err(_) => hit += 1,
        }
    }
    assert_eq!(fault.fired.load(std::sync::atomic::Ordering::SeqCst), 1, "{call:?} {error:?}");
    assert!(hit <= 1, "{call:?} {error:?} hit {hit} clients");
    let mut last = connect(worker.address);
    echoes(&mut last, b"still there").unwrap();
    drop(last);
    worker.mailboxes.order_end(0, EndOrder::Stop);
    worker.thread.join().unwrap().unwrap();
    assert_eq!(worker.permits.taken(), 0, "{call:?} {error:?}: a permit was lost");
}

#[test]
fn every_error_of_accept_is_survived() {
    for error in [
        Errno::CONNABORTED,
        Errno::PROTO,
        Errno::PERM,
        Errno::NETUNREACH,
        Errno::MFILE,
        Errno::NFILE,
        Errno::NOBUFS,
        Errno::NOMEM,
    ] {
        survives(Call::Accept, error, 0);
        survives(Call::Accept, error, 3);
    }
}

#[test]
fn every_error_of_recv_and_send_hits_one_connection_only() {
    for error in [Errno::CONNRESET, Errno::TIMEDOUT, Errno::NOMEM, Errno::HOSTUNREACH, Errno::IO] {
        survives(Call::Recv, error, 0);
        survives(Call::Recv, error, 4);
    }
    for error in [Errno::PIPE, Errno::CONNRESET, Errno::NOBUFS, Errno::NOMEM, Errno::TIMEDOUT] {
        survives(Call::Send, error, 0);
        survives(Call::Send, error, 2);
    }
}

#[test]
fn errors_of_shutdown_and_registration_hit_one_connection_only() {
    survives(Call::Shutdown, Errno::NOTCONN, 0);
    survives(Call::Shutdown, Errno::NOTCONN, 1);
    // The first registration is the listener's.
    survives(Call::Register, Errno::NOMEM, 1);
    survives(Call::Register, Errno::NOSPC, 3);
}

#[test]
fn a_worker_that_cannot_wait_any_more_says_so() {
    let worker = start_faulty(Fault::new(Call::Wait, Errno::BADF, 0));
    assert_eq!(worker.thread.join().unwrap(), Err(Errno::BADF));
}

#[test]
fn a_command_that_was_sent_before_the_worker_began_is_not_slept_over() {
    let mailboxes = Arc::new(Mailboxes::new(1));
    mailboxes.order_end(0, EndOrder::Stop);
    // This fault never fires.
    let worker = start_with_mail(Fault::new(Call::Wait, Errno::BADF, u64::MAX), mailboxes);
    let begun = Instant::now();
    while !worker.thread.is_finished() {
        assert!(begun.elapsed() < GUARD, "the worker sleeps");
        thread::sleep(Duration::from_millis(2));
    }
    worker.thread.join().unwrap().unwrap();
}

/// Panics in the call that the client's first byte names.
struct Panicking;

impl Service for Panicking {
    type Session = u8;

    fn data(&mut self, connection: &mut Connection<'_>, asked: &mut u8) -> Answer {
        *asked = connection.input.slices().next().unwrap()[0];
        assert_ne!(*asked, b'd', "on purpose, in data");
        Echo.data(connection, &mut ())
    }

    fn sent(&mut self, _: &mut Connection<'_>, asked: &mut u8) -> Answer {
        assert_ne!(*asked, b's', "on purpose, in sent");
        Answer::Continue
    }

    fn peer_closed(&mut self, _: &mut Connection<'_>, asked: &mut u8) -> Answer {
        assert_ne!(*asked, b'p', "on purpose, in peer_closed");
        Answer::CloseAfterSend
    }

    fn closed(&mut self, _: &mut Connection<'_>, asked: &mut u8, _: CloseReason) {
        assert_ne!(*asked, b'c', "on purpose, in closed");
    }
}

#[test]
fn a_panic_in_a_service_closes_that_connection_and_the_worker_goes_on() {
    let (server, address) = start(Config::new().max_connections(10), || Panicking);
    let mut bystander = connect(address);
    echoes(&mut bystander, b"x").unwrap();
    for call in [b"d", b"s", b"p", b"c"] {
        let mut client = connect(address);
        client.write_all(call).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        let _ = client.read_to_end(&mut Vec::new());
    }
    until(&server, "four connections closed", |total| total.closed_total() == 4);
    echoes(&mut bystander, b"y").unwrap();
    let total = server.stats().total();
    assert_eq!(total.closed(CloseReason::ServicePanic), 3, "{total:?}");
    assert_eq!(total.closed(CloseReason::PeerClosed), 1, "closed is called after the end");
    assert_eq!((total.connections, total.buffers_held), (1, 0));
}

/// Records the order in which clients' data arrived.
#[derive(Clone, Default)]
struct InOrder(Arc<Mutex<Vec<SocketAddr>>>);

impl Service for InOrder {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        self.0.lock().unwrap().extend(connection.peer().socket_addr());
        Echo.data(connection, session)
    }
}

/// Fills the path to a client that does not read, until the server's one buffer is stuck in it.
fn stick(server: &ServerHandle, client: &mut TcpStream) {
    client.set_nonblocking(true).unwrap();
    let begun = Instant::now();
    let (mut moved_at, mut before) = (Instant::now(), None);
    loop {
        assert!(begun.elapsed() < GUARD, "the path never fills");
        let is_taken = client.write(&[1; 65536]).is_ok();
        // The server may be late with what was taken.
        let total = server.stats().total();
        let moved = Some((total.bytes_sent, total.receives));
        if is_taken || moved != before {
            (moved_at, before) = (Instant::now(), moved);
        } else if moved_at.elapsed() >= Duration::from_millis(200) && total.buffers_held > 0 {
            return;
        } else {
            thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn those_who_wait_for_a_buffer_are_served_in_the_order_they_came() {
    let order = InOrder::default();
    let config = Config::new().max_connections(20).buffers(1).shed_after(None);
    let of_worker = order.clone();
    let (server, address) = start(config, move || of_worker.clone());
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    let mut waiting: Vec<TcpStream> = (0..10).map(|_| connect(address)).collect();
    // An order other than that of their slots.
    waiting.rotate_left(3);
    for (index, client) in waiting.iter_mut().enumerate() {
        let before = server.stats().total().waits_for_buffer;
        client.write_all(&[index as u8]).unwrap();
        until(&server, "the next waits", |total| total.waits_for_buffer > before);
    }
    order.0.lock().unwrap().clear();
    drop(stuck);
    for (index, client) in waiting.iter_mut().enumerate() {
        let mut reply = [0];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(reply, [index as u8]);
    }
    let expected: Vec<_> = waiting.iter().map(|client| client.local_addr().unwrap()).collect();
    assert_eq!(*order.0.lock().unwrap(), expected);
    until(&server, "the buffer is back", |total| total.buffers_held == 0);
}

#[test]
fn a_client_that_does_not_read_is_shed_when_others_want_its_buffer_and_not_before() {
    let config = Config::new().max_connections(10).buffers(1);
    let (server, address) = start(config.shed_after(Some(Duration::from_millis(100))), Echo);
    let mut stuck = connect(address);
    stick(&server, &mut stuck);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(server.stats().total().closed_total(), 0, "nobody wants its buffer");
    let mut honest = connect(address);
    echoes(&mut honest, b"excuse me").unwrap();
    until(&server, "one is shed", |total| total.closed(CloseReason::Shed) == 1);
}

#[test]
fn a_buffer_stuck_on_one_worker_is_shed_for_one_waiting_on_another() {
    // The kernel chooses the worker of a client, so try until the choice fits.
    for _ in 0..50 {
        let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
        let config = Config::new().workers(2).max_connections(40).buffers(2).listen(anywhere);
        let config = config.shed_after(Some(Duration::from_millis(50)));
        let server = Server::start(config, Echo).unwrap();
        let address = server.local_endpoints()[0].socket_addr().unwrap();
        let mut stuck = [connect(address), connect(address)];
        stuck.iter_mut().for_each(|client| stick(&server, client));
        let mut honest = connect(address);
        echoes(&mut honest, b"excuse me").unwrap();
        until(&server, "one is shed", |total| total.closed(CloseReason::Shed) > 0);
        let of_another = |worker: &crate::Counts| {
            worker.closed(CloseReason::Shed) > 0 && worker.waits_for_buffer == 0
        };
        if server.stats().workers().iter().any(of_another) {
            return;
        }
    }
    panic!("no connection was ever shed for a client of another worker");
}

#[test]
fn no_more_are_shed_than_those_who_wait_need() {
    let config = Config::new().max_connections(60).buffers(10);
    let (server, address) = start(config.shed_after(Some(Duration::from_millis(200))), Echo);
    // One after the other, until they hold all buffers; one client may hold several.
    let mut stuck = Vec::new();
    while server.stats().total().buffers_held < 10 {
        let mut client = connect(address);
        stick(&server, &mut client);
        stuck.push(client);
    }
    assert!(stuck.len() > 1, "one client holds them all");
    // Long enough that any of them may be shed.
    thread::sleep(Duration::from_millis(400));
    assert_eq!(server.stats().total().closed_total(), 0, "nobody waits yet");
    let mut waiting: Vec<TcpStream> = (0..15).map(|_| connect(address)).collect();
    waiting.iter_mut().for_each(|client| client.write_all(b"hello").unwrap());
    waiting.iter_mut().for_each(|client| client.read_exact(&mut [0; 5]).unwrap());
    until(&server, "one is shed", |total| total.closed(CloseReason::Shed) > 0);
    let shed = server.stats().total().closed(CloseReason::Shed);
    assert!(shed < stuck.len() as u64, "{shed} of {} were shed", stuck.len());
}

#[test]
fn the_idle_time_out_holds_again_after_a_stall() {
    let config = Config::new().max_connections(10).send_timeout(None).idle_timeout(None);
    let (server, address) = start(config.clone(), Echo);
    let mut client = connect(address);
    stick(&server, &mut client);
    // Not earlier, because it is idle if this thread stands still before the path is full.
    server.reconfigure(&config.idle_timeout(Some(Duration::from_millis(300)))).unwrap();
    // The idle timer fires meanwhile.
    thread::sleep(Duration::from_millis(600));
    assert_eq!(server.stats().total().closed_total(), 0, "it is not idle: it owes bytes");
    until(&server, "closed", |total| {
        while (&client).read(&mut [0; 65536]).is_ok_and(|count| count > 0) {}
        total.closed(CloseReason::IdleTimeout) == 1
    });
}

/// Never consumes anything.
struct Hoarding;

impl Service for Hoarding {
    type Session = ();

    fn data(&mut self, _: &mut Connection<'_>, (): &mut ()) -> Answer {
        Answer::Continue
    }
}

#[test]
fn a_connection_whose_input_is_not_consumed_is_closed_at_the_limit() {
    let (server, address) =
        start(Config::new().max_connections(10).buffers(64).buffer_size(1024), || Hoarding);
    let mut client = connect(address);
    for _ in 0..100 {
        if client.write_all(&[0; 1024]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    until(&server, "closed", |total| total.closed(CloseReason::InputLimit) == 1);
    until(&server, "buffers are back", |total| total.buffers_held == 0);
}

/// Delays each reply for some time.
struct Late;

impl Service for Late {
    type Session = ();
    const FRESH_CLOCK: bool = true;

    fn data(&mut self, connection: &mut Connection<'_>, (): &mut ()) -> Answer {
        Answer::WaitUntil(connection.now() + Duration::from_millis(50))
    }

    fn timer(&mut self, connection: &mut Connection<'_>, session: &mut ()) -> Answer {
        Echo.data(connection, session)
    }
}

#[test]
fn a_service_can_wait_and_the_timer_is_never_early() {
    let (server, address) = start(Config::new().max_connections(10), || Late);
    let mut client = connect(address);
    for _ in 0..3 {
        let begun = Instant::now();
        echoes(&mut client, b"patience").unwrap();
        assert!(begun.elapsed() >= Duration::from_millis(50));
    }
    drop(client);
    assert_eq!(server.drain(GUARD), Drained::Clean);
}

#[test]
fn an_operation_that_is_done_at_once_never_deepens_the_stack() {
    // A stream of 100 MB over a worker with a small stack: completions are handled in a loop. The
    // design that this server follows is known to overflow its stack here.
    let (server, address) = start(Config::new().max_connections(10), Echo);
    let mut client = connect(address);
    let mut sender = client.try_clone().unwrap();
    let total = 100 << 20;
    let writer = thread::spawn(move || {
        let block = vec![3; 1 << 20];
        (0..total / block.len()).for_each(|_| sender.write_all(&block).unwrap());
        sender.shutdown(Shutdown::Write).unwrap();
    });
    let mut received = 0;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match client.read(&mut buffer).unwrap() {
            0 => break,
            count => {
                assert!(buffer[..count].iter().all(|&byte| byte == 3));
                received += count;
            }
        }
    }
    writer.join().unwrap();
    assert_eq!(received, total);
    assert_eq!(server.drain(GUARD), Drained::Clean);
}

#[test]
fn other_threads_can_send_more_messages_than_there_are_buffers() {
    let (server, address) = start(Config::new().max_connections(4).buffers(8), Echo);
    let mut client = connect(address);
    until(&server, "it is there", |counts| counts.connections == 1);
    let id = server.clients()[0].id;
    let reader = thread::spawn(move || {
        let mut all = Vec::new();
        client.read_to_end(&mut all).unwrap();
        all
    });
    let mut expected = Vec::new();
    for number in 0..100u8 {
        // The queue of a client that has not read yet may be full for a while.
        let begun = Instant::now();
        while let Err(error) = server.send_to(id, &[number; 100]) {
            assert_eq!(error, crate::SendError::QueueFull);
            assert!(begun.elapsed() < GUARD, "message {number} is refused for good");
        }
        expected.extend([number; 100]);
    }
    server.drain(GUARD);
    assert_eq!(reader.join().unwrap(), expected);
}

#[test]
fn other_threads_get_buffers_that_a_worker_keeps_for_itself() {
    // As many as a worker fetches at once: after one echo it has all of them.
    let (server, address) = start(Config::new().max_connections(4).buffers(16), Echo);
    let mut client = connect(address);
    echoes(&mut client, b"hello").unwrap();
    assert_eq!(server.send_to(server.clients()[0].id, b"from outside"), Ok(()));
    let mut text = [0; 12];
    client.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"from outside");
    drop(client);
    assert_eq!(server.drain(GUARD), Drained::Clean);
}

/// Replies `OK` if it has a buffer for that. The connection that sends an `h` keeps all buffers but
/// one until it is told to return them.
struct OneHoards(Arc<AtomicBool>);

impl OneHoards {
    fn look_again(connection: &Connection<'_>) -> Answer {
        Answer::WaitUntil(connection.now() + Duration::from_millis(10))
    }
}

impl Service for OneHoards {
    type Session = Vec<crate::buffer::Lease>;

    fn data(&mut self, connection: &mut Connection<'_>, kept: &mut Self::Session) -> Answer {
        if connection.input.first_slice() == b"h" {
            connection.input.consume(1);
            kept.extend((0..2).map(|_| connection.take_lease().expect("nobody else has any")));
            return OneHoards::look_again(connection);
        }
        if connection.send(b"OK") {
            connection.input.consume(connection.input.len());
        }
        Answer::Continue
    }

    fn timer(&mut self, connection: &mut Connection<'_>, kept: &mut Self::Session) -> Answer {
        if !self.0.load(Ordering::SeqCst) {
            return OneHoards::look_again(connection);
        }
        kept.clear();
        Answer::Continue
    }
}

#[test]
fn a_service_without_a_buffer_to_reply_with_is_called_again_when_there_is_one() {
    let config = Config::new().max_connections(10).buffers(3).shed_after(None);
    let gives_back = Arc::new(AtomicBool::new(false));
    let of_worker = gives_back.clone();
    let (server, address) = start(config, move || OneHoards(of_worker.clone()));
    let mut hoarder = connect(address);
    hoarder.write_all(b"h").unwrap();
    until(&server, "it hoards", |total| total.buffers_held == 2);
    let mut waiting = [connect(address), connect(address)];
    for (index, client) in waiting.iter_mut().enumerate() {
        client.write_all(b"x").unwrap();
        // The first buffer is for a reply, the second to receive into.
        until(&server, "it waits", |total| total.waits_for_buffer == index as u64 + 1);
    }
    gives_back.store(true, Ordering::SeqCst);
    for client in &mut waiting {
        let mut reply = [0; 2];
        client.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"OK");
    }
    let total = server.stats().total();
    assert_eq!((total.waits_for_buffer, total.closed_total()), (2, 0), "{total:?}");
    until(&server, "all buffers are back", |total| total.buffers_held == 0);
}

/// Does what the first byte of a line says: joins the group of the second byte, or sends the rest.
struct Relay;

impl Service for Relay {
    type Session = ();

    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        let mut line = [0; 32];
        let count = connection.input.peek(&mut line);
        connection.input.consume(count);
        let (rest, id) = (&line[1..count], connection.id());
        let sent = match line[0] {
            b'G' => {
                connection.set_group(u64::from(rest[0]));
                connection.set_user_data(id.to_bits() + 1);
                Ok(())
            }
            b'a' => connection.send_message(To::All, rest),
            b'o' => connection.send_message(To::AllBut(id), rest),
            b'g' => connection.send_message(To::Group(u64::from(rest[0])), rest),
            b'n' => connection.send_message(To::GroupBut(u64::from(rest[0]), id), rest),
            _ => {
                let to = rest.first_chunk().expect("an id");
                connection.send_message(
                    To::Client(ConnectionId::from_bits(u64::from_ne_bytes(*to))),
                    &rest[8..],
                )
            }
        };
        if sent.is_err() {
            connection.send(b"!");
        }
        Answer::Continue
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut (),
        message: &mut crate::service::Message<'_>,
    ) -> Answer {
        assert_eq!(connection.clients().count(), 9);
        let from = message.from().expect("a connection's");
        assert!(connection.clients().any(|client| client.id == from));
        connection.forward(message);
        Answer::Continue
    }
}

#[test]
fn a_connections_messages_come_to_whom_they_are_for_on_whatever_worker() {
    let anywhere = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let config = Config::new().workers(3).max_connections(10).listen(anywhere);
    let server = Server::start(config, || Relay).unwrap();
    let address = server.local_endpoints()[0].socket_addr().unwrap();
    let mut clients: Vec<_> = (0..9).map(|_| connect(address)).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.write_all(&[b'G', b'0' + number as u8 % 3]).unwrap();
    }
    let mut listed = server.clients();
    while listed.len() < 9 || listed.iter().any(|client| client.group == 0) {
        thread::sleep(Duration::from_millis(2));
        listed = server.clients();
    }
    assert!(listed.iter().all(|client| client.user_data == client.id.to_bits() + 1));
    let info = |client: &TcpStream| {
        let address = client.local_addr().unwrap();
        *listed.iter().find(|info| info.peer == address.into()).unwrap()
    };
    let ids: Vec<_> = clients.iter().map(|client| info(client).id).collect();
    assert_eq!(info(&clients[4]).group, u64::from(b'1'));

    let mut to_one = [b't'].to_vec();
    to_one.extend(ids[8].to_bits().to_ne_bytes());
    to_one.extend(b"you");
    // Client 4 sends each line. The clients whose numbers follow it receive it.
    let said: [(&[u8], &[u8], &[usize]); 5] = [
        (b"aall", b"all", &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (b"oothers", b"others", &[0, 1, 2, 3, 5, 6, 7, 8]),
        (b"g0roup", b"0roup", &[0, 3, 6]),
        (b"n1ear", b"1ear", &[1, 7]),
        (&to_one, b"you", &[8]),
    ];
    for (line, text, hearers) in said {
        clients[4].write_all(line).unwrap();
        for &hearer in hearers {
            let mut heard = vec![0; text.len()];
            clients[hearer].read_exact(&mut heard).unwrap();
            assert_eq!(heard, text);
        }
    }
    // No client has received more than that. Nothing can be sent to a closed client.
    for client in &mut clients {
        client.write_all(b"t\x07\0\0\0\0\0\0\0").unwrap();
        let mut heard = [0; 2];
        assert_eq!((client.read(&mut heard).unwrap(), heard[0]), (1, b'!'));
    }
    drop(clients);
    assert_eq!(server.drain(GUARD), Drained::Clean);
    assert_eq!(server.stats().total().buffers_held, 0);
}
