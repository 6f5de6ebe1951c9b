//! The hub with many clients, or with clients that do not read, on real sockets.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::builtin::Slow;

/// A client that is read without blocking, so that a few threads can serve many clients.
struct Polled {
    stream: TcpStream,
    id: u64,
    bytes: Vec<u8>,
    /// The number of the next message.
    next: u32,
}

impl Polled {
    fn new(address: SocketAddr) -> Polled {
        let Client { stream, id } = Client::new(address);
        stream.set_nonblocking(true).unwrap();
        Polled { stream, id, bytes: Vec::new(), next: 0 }
    }

    /// Reads the bytes that are there, and checks that they are the next messages from this sender.
    fn poll(&mut self, sender: u64) {
        let mut buffer = [0; 16 << 10];
        match self.stream.read(&mut buffer) {
            Ok(0) => panic!("the server has closed the connection"),
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        let mut rest = &self.bytes[..];
        while let Some((frame, behind)) = rest.split_at_checked(4 + 10 + 100) {
            let expected = [&self.next.to_le_bytes()[..], &[5; 96]].concat();
            assert_eq!(Told::of(&frame[4..]), to_all(sender, &expected));
            self.next += 1;
            rest = behind;
        }
        self.bytes = rest.to_vec();
    }
}

#[test]
fn two_thousand_clients_get_a_thousand_messages_each_once_and_in_order() {
    const CLIENTS: usize = 2000;
    const MESSAGES: u32 = 1000;
    // Twice as many, so that there are also file descriptors for the clients, which run in this
    // process.
    let config = config(3).max_connections(2 * CLIENTS as u32 + 300);
    let (server, address) =
        start_with(config, HubOptions { notices: false, ..HubOptions::default() });
    let mut clients: Vec<Polled> = (0..CLIENTS).map(|_| Polled::new(address)).collect();
    let sender = clients[0].id;
    let sending = clients[0].stream.try_clone().unwrap();
    let begun = Instant::now();
    thread::scope(|scope| {
        scope.spawn(move || {
            for number in 0..MESSAGES {
                let text = [&number.to_le_bytes()[..], &[5; 96]].concat();
                let frame = request(Request::Broadcast, &text);
                let mut left = &frame[..];
                while !left.is_empty() {
                    match (&sending).write(left) {
                        Ok(count) => left = &left[count..],
                        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                    }
                }
            }
        });
        for part in clients.chunks_mut(CLIENTS / 4) {
            scope.spawn(move || {
                while part.iter().any(|client| client.next < MESSAGES) {
                    assert!(begun.elapsed() < GUARD, "not everything has come");
                    part.iter_mut().for_each(|client| client.poll(sender));
                }
            });
        }
    });
    assert!(clients.iter().all(|client| client.next == MESSAGES && client.bytes.is_empty()));
    let total = server.stats().total();
    assert_eq!(total.messages_dropped, 0);
    drop(clients);
    ends_clean(&server);
}

/// A client whose socket takes few bytes while it does not read.
fn narrow(address: SocketAddr) -> Client {
    use socket2::{Domain, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.connect(&address.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(GUARD)).unwrap();
    let mut client = Client { stream, id: 0 };
    let Told::Welcome(id) = client.told() else { panic!("no welcome") };
    Client { id, ..client }
}

fn numbered(number: u32) -> Vec<u8> {
    [&number.to_le_bytes()[..], &[9; 8000]].concat()
}

/// Sends numbered broadcasts until `enough` returns true. Sends each one after all readers have
/// received the one before, so that no reader is slow. Returns the number of broadcasts.
fn pace(
    sender: &mut Client,
    readers: &mut Vec<Client>,
    mut enough: impl FnMut(&mut Vec<Client>, u32) -> bool,
) -> u32 {
    for number in 0.. {
        if enough(readers, number) {
            return number;
        }
        assert!(number < 20_000, "never enough");
        sender.asks(Request::Broadcast, &numbered(number));
        for client in std::iter::once(&mut *sender).chain(&mut *readers) {
            match client.told_of_messages() {
                Told::Message { payload, .. } => assert_eq!(payload, numbered(number)),
                other => panic!("{other:?} in place of message {number}"),
            }
        }
    }
    unreachable!()
}

#[test]
fn clients_that_do_not_read_miss_what_is_counted_and_the_others_nothing() {
    for workers in [1, 3] {
        let (server, address) = start(workers);
        let mut sender = Client::new(address);
        let mut slow: Vec<Client> = (0..4).map(|_| narrow(address)).collect();
        let mut readers: Vec<Client> = (0..10).map(|_| Client::new(address)).collect();
        let sent =
            pace(&mut sender, &mut readers, |_, _| server.stats().total().messages_dropped > 200);
        // The last broadcast must reach the slow readers, so that they are told of the dropped
        // messages before it.
        let mut dropped = 0;
        for client in &mut slow {
            let (mut next, mut missing) = (0, 0);
            while next < sent - missing {
                match client.told() {
                    Told::Message { payload, .. } => {
                        let expected = next + missing;
                        assert_eq!(payload, numbered(expected));
                        next += 1;
                    }
                    Told::Dropped(count) => missing += count as u32,
                    other => panic!("{other:?}"),
                }
            }
            assert!(missing > 0);
            dropped += u64::from(missing);
        }
        assert_eq!(server.stats().total().messages_dropped, dropped);
        drop((sender, slow, readers));
        ends_clean(&server);
    }
}

#[test]
fn clients_that_do_not_read_are_closed_where_that_is_asked_for() {
    let options = HubOptions { notices: false, slow: Slow::Close, ..HubOptions::default() };
    let (server, address) = start_with(config(2), options);
    let mut sender = Client::new(address);
    let slow: Vec<Client> = (0..4).map(|_| narrow(address)).collect();
    let mut readers: Vec<Client> = (0..4).map(|_| Client::new(address)).collect();
    pace(&mut sender, &mut readers, |_, _| {
        server.stats().total().closed(CloseReason::SlowReader) == 4
    });
    assert_eq!(server.clients().len(), 5);
    assert_eq!(server.stats().total().messages_dropped, 0);
    drop((sender, slow, readers));
    ends_clean(&server);
}

#[test]
fn who_leaves_in_the_middle_takes_nothing_from_the_others() {
    // There are enough buffers: a worker that runs out of them sends a list in place of a notice.
    let (server, address) = start_with(config(3).buffers(2048), HubOptions::default());
    let mut sender = Client::new(address);
    let mut readers: Vec<Client> = (0..30).map(|_| Client::new(address)).collect();
    // It is not known how much these clients have read when they leave.
    let mut leavers: Vec<Client> = (0..30).map(|_| narrow(address)).collect();
    pace(&mut sender, &mut readers, |readers, number| {
        if number % 4 == 0 {
            leavers.pop();
            readers.pop();
        }
        readers.len() < 3
    });
    drop((sender, readers, leavers));
    ends_clean(&server);
}

#[test]
fn what_is_queued_when_a_drain_begins_is_sent_before_fin() {
    let options = HubOptions { notices: false, queue: 4 << 20, ..HubOptions::default() };
    // One worker, because the test does not wait for messages in transit between two.
    let (server, address) = start_with(config(1).buffers(1024), options);
    let (mut sender, mut slow) = (Client::new(address), narrow(address));
    let sent = pace(&mut sender, &mut Vec::new(), |_, number| {
        // The log is given back when no message waits. If messages wait, some buffers remain held.
        number > 10 && server.stats().total().buffers_held > 8
    });
    assert_eq!(server.stats().total().messages_dropped, 0);
    server.begin_drain(GUARD);
    assert_eq!(sender.next(), None);
    drop(sender);
    for number in 0..sent {
        let Told::Message { payload, .. } = slow.told() else { panic!() };
        assert_eq!(payload, numbered(number));
    }
    assert_eq!(slow.next(), None);
    drop(slow);
    assert_eq!(server.wait(), Drained::Clean);
    assert_eq!(server.stats().total().buffers_held, 0);
}

#[test]
fn the_servers_own_messages_are_refused_for_a_client_that_does_not_read() {
    let (server, address) = start(2);
    let (mut slow, mut other) = (narrow(address), Client::new(address));
    let id = ConnectionId::from_bits(slow.id);
    let mut sent = 0;
    let refused = loop {
        match server.send_to(id, &numbered(sent)) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 20_000);
    };
    assert_eq!(refused, SendError::QueueFull);
    let Broadcast { queued, refused, .. } = server.broadcast(b"all").unwrap();
    assert_eq!((queued, refused), (1, 1));
    assert_eq!(other.told(), to_all(0, b"all"));
    for number in 0..sent {
        assert_eq!(slow.told(), to_one(0, &numbered(number)));
    }
    assert_eq!(slow.told(), Told::Dropped(2));
    drop((slow, other));
    ends_clean(&server);
}

/// The frames that all clients together were sent.
#[derive(Default)]
struct Heard {
    messages: AtomicU64,
    not_sent: AtomicU64,
    dropped: AtomicU64,
}

impl Heard {
    /// Reads frames until the end of the stream.
    fn listen(&self, mut client: Client) {
        while let Some(told) = client.next() {
            let (counter, count) = match told {
                Told::Message { .. } => (&self.messages, 1),
                Told::NotSent(protocol::QUEUE_FULL, _) => (&self.not_sent, 1),
                Told::Dropped(count) => (&self.dropped, count),
                other => panic!("{other:?}"),
            };
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Whether each of `sent` messages was either received, or dropped and reported to its sender.
    /// The hub counts a reply that it drops together with the dropped messages. So the number of
    /// drops is twice the number of messages not received, minus the number of replies received.
    /// While messages are in transit, the number of drops is smaller than this.
    fn is_all_of(&self, sent: u64, dropped: u64) -> bool {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        // Never more messages than were sent: none is received twice.
        let not_heard = sent.checked_sub(of(&self.messages)).expect("no message comes twice");
        2 * not_heard == dropped + of(&self.not_sent) && of(&self.dropped) == dropped
    }
}

#[test]
fn many_senders_at_once_are_held_back_and_lose_nothing() {
    const SENDERS: usize = 12;
    const EACH: u32 = 3000;
    // Few buffers, but more than the senders' inputs can hold (4 each). If the inputs held all of
    // them, only shedding would resolve it.
    let config = config(3).buffers(96).buffer_size(4096).shed_after(None);
    let options = HubOptions { notices: false, ..HubOptions::default() };
    let (server, address) = start_with(config, options);
    let barrier = Barrier::new(SENDERS);
    let clients: Vec<Client> = (0..SENDERS).map(|_| Client::new(address)).collect();
    let (to, heard) =
        (clients.iter().map(|client| client.id).collect::<Vec<_>>(), Heard::default());
    thread::scope(|scope| {
        let mut senders = Vec::new();
        for (at, client) in clients.iter().enumerate() {
            let copy = || Client { stream: client.stream.try_clone().unwrap(), id: client.id };
            // Each client sends to the next one, which reads all the time.
            let (mut sender, reader) = (copy(), copy());
            let (barrier, heard, receiver) = (&barrier, &heard, to[(at + 1) % SENDERS]);
            senders.push(scope.spawn(move || {
                barrier.wait();
                for number in 0..EACH {
                    let text = [&number.to_le_bytes()[..], &[1; 500]].concat();
                    sender.asks(Request::Send { to: receiver }, &text);
                }
            }));
            scope.spawn(move || heard.listen(reader));
        }
        for sender in senders {
            sender.join().unwrap();
        }
        let sent = SENDERS as u64 * u64::from(EACH);
        until("all are heard or counted", || {
            heard.is_all_of(sent, server.stats().total().messages_dropped)
        });
        // This ends the threads that listen.
        clients.iter().for_each(|client| client.stream.shutdown(Shutdown::Both).unwrap());
    });
    drop(clients);
    ends_clean(&server);
}

#[test]
fn clients_that_hold_all_buffers_and_do_not_read_are_shed_for_the_others() {
    let after = Duration::from_millis(100);
    let config = config(1).buffers(16).buffer_size(4096).shed_after(Some(after));
    let options = HubOptions { notices: false, ..HubOptions::default() };
    let (server, address) = start_with(config, options);
    let (mut sender, mut reader) = (Client::new(address), Client::new(address));
    let slow: Vec<Client> = (0..12).map(|_| narrow(address)).collect();
    // Each slow client holds a different part of the log. Together they hold more than there are
    // buffers.
    for client in &slow {
        loop {
            sender.asks(Request::Send { to: client.id }, &[4; 3000]);
            sender.asks(Request::Send { to: sender.id }, b"next");
            match sender.told() {
                Told::Message { .. } => {}
                Told::NotSent(_, id) => {
                    assert_eq!(id, client.id);
                    assert_eq!(sender.told(), to_one(sender.id, b"next"));
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    sender.asks(Request::Broadcast, b"through");
    assert_eq!(reader.told(), to_all(sender.id, b"through"));
    assert!(server.stats().total().closed(CloseReason::Shed) > 0, "nobody was in the way");
    drop((sender, reader, slow));
    ends_clean(&server);
}
