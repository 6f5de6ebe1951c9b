//! Random operations in random order, against a peer with random behaviour: each completes exactly
//! once.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
enum Do {
    Connect,
    Send(usize),
    SendReceive(usize),
    Receive(usize),
    Message,
    ToEnd,
    HalfClose,
    Disconnect,
    /// The operation that was started this many before.
    Cancel(usize),
    Pause,
}

#[derive(Clone, Copy, Debug)]
enum Peer {
    Echo,
    Write(usize),
    Garbage(usize),
    Read(usize),
    Pause,
    Close,
    Reset,
}

fn any_do() -> impl Strategy<Value = Do> {
    prop_oneof![
        2 => Just(Do::Connect),
        3 => (0..100_000_usize).prop_map(Do::Send),
        4 => (0..5_000_usize).prop_map(Do::SendReceive),
        2 => (1..5_000_usize).prop_map(Do::Receive),
        2 => Just(Do::Message),
        1 => Just(Do::ToEnd),
        1 => Just(Do::HalfClose),
        1 => Just(Do::Disconnect),
        3 => (0..8_usize).prop_map(Do::Cancel),
        1 => Just(Do::Pause),
    ]
}

fn any_peer() -> impl Strategy<Value = Peer> {
    prop_oneof![
        4 => Just(Peer::Echo),
        2 => (1..20_000_usize).prop_map(Peer::Write),
        1 => (1..50_usize).prop_map(Peer::Garbage),
        2 => (1..20_000_usize).prop_map(Peer::Read),
        1 => Just(Peer::Pause),
        1 => Just(Peer::Close),
        1 => Just(Peer::Reset),
    ]
}

/// Runs its steps on each connection, then closes it.
fn peer(steps: Vec<Peer>) -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let target = listener.local_addr().unwrap().to_string();
    thread::spawn(move || {
        // Ends some time after its client.
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.set_read_timeout(Some(Duration::from_millis(20)));
            let _ = stream.set_write_timeout(Some(Duration::from_millis(20)));
            let mut buffer = vec![0; 20_000];
            for step in &steps {
                match *step {
                    Peer::Echo => {
                        let count = stream.read(&mut buffer).unwrap_or(0);
                        let _ = stream.write_all(&buffer[..count]);
                    }
                    Peer::Write(len) => drop(stream.write_all(&framed(&pattern(len)))),
                    Peer::Garbage(len) => drop(stream.write_all(&vec![0xFF; len])),
                    Peer::Read(len) => drop(stream.read(&mut buffer[..len])),
                    Peer::Pause => thread::sleep(Duration::from_millis(2)),
                    Peer::Close => drop(stream.shutdown(Shutdown::Write)),
                    Peer::Reset => {
                        drop(socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)))
                    }
                }
            }
        }
    });
    target
}

/// Counts how often an operation completes.
fn count<T: 'static>(pending: Pending<T>, counts: &Arc<Vec<AtomicU64>>, nth: usize) -> Canceller {
    let (canceller, counts) = (pending.canceller(), counts.clone());
    pending.on_complete(move |_| {
        counts[nth].fetch_add(1, SeqCst);
    });
    canceller
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..crate::base::property::config() })]

    #[test]
    fn each_operation_completes_exactly_once(
        does in proptest::collection::vec(any_do(), 1..40),
        steps in proptest::collection::vec(any_peer(), 1..20),
        with_framing in any::<bool>(),
        reconnects in any::<bool>(),
        keep in any::<bool>(),
    ) {
        let target = peer(steps);
        let limits = LoopLimits {
            buffer_size: 1024,
            linger: Duration::from_millis(20),
            send_timeout: Some(Duration::from_millis(200)),
            operations: 16,
            ..LoopLimits::for_clients(1)
        };
        let clients = ClientLoop::start(limits).unwrap();
        let mut options = Options::new().unsent(if keep { Unsent::Keep } else { Unsent::Report });
        if with_framing {
            options = options.framing(LITTLE);
        }
        if reconnects {
            let fast = Duration::from_millis(1);
            options = options.reconnect(Reconnect::between(fast, fast * 4));
        }
        let client = clients.client(&target, options).unwrap();
        // A peer that resets at once may do so before the client notices the connection.
        let _ = client.connect(GUARD).wait();
        let counts: Arc<Vec<_>> = Arc::new(does.iter().map(|_| AtomicU64::new(0)).collect());
        let mut cancellers = Vec::new();
        let soon = Duration::from_millis(30);
        let mut begun = 0;
        for (nth, act) in does.iter().enumerate() {
            let canceller = match *act {
                Do::Connect => count(client.connect(soon), &counts, nth),
                Do::Send(len) => count(client.send(pattern(len)), &counts, nth),
                Do::SendReceive(len) => {
                    count(client.send_receive(pattern(len), soon), &counts, nth)
                }
                Do::Receive(len) => {
                    count(client.receive(Vec::with_capacity(len)), &counts, nth)
                }
                Do::Message => count(client.receive_message(Vec::new()), &counts, nth),
                Do::ToEnd => count(client.receive_to_end(Vec::new(), 50_000), &counts, nth),
                Do::HalfClose => count(client.half_close(), &counts, nth),
                Do::Disconnect => count(client.disconnect(), &counts, nth),
                Do::Cancel(back) => {
                    let at = cancellers.len().checked_sub(back + 1);
                    let old: Option<&Canceller> = at.and_then(|at| cancellers.get(at));
                    if let Some(canceller) = old {
                        canceller.cancel();
                    }
                    continue;
                }
                Do::Pause => {
                    thread::sleep(Duration::from_millis(3));
                    continue;
                }
            };
            begun += 1;
            cancellers.push(canceller);
        }
        // The end of the loop completes all remaining operations.
        drop(client);
        drop(clients);
        let totals: Vec<u64> = counts.iter().map(|count| count.load(SeqCst)).collect();
        prop_assert!(totals.iter().all(|&count| count <= 1), "{totals:?}");
        prop_assert_eq!(totals.iter().sum::<u64>(), begun, "{:?}", totals);
    }
}
