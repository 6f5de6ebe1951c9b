//! Kills and restarts a server with 1,000 clients that reconnect. All clients must come back, and
//! no request may be reported as completed without its reply.

#![cfg(target_os = "linux")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use echopool::client::{Client, ClientLoop, Error, LoopLimits, Options, Reconnect, State, Unsent};

const CLIENTS: usize = 1_000;
const ROUNDS: u64 = 3;

/// Longer than any step takes, so that a hang fails the test.
const GUARD: Duration = Duration::from_secs(60);

/// The built daemon. Dropping it kills it with SIGKILL.
struct Daemon {
    process: Child,
    target: String,
}

impl Daemon {
    fn start(listen: &str) -> Daemon {
        let mut process = Command::new(env!("CARGO_BIN_EXE_echopool"))
            .args(["serve", "--workers", "2", "--log", "off", "--listen", listen])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("starting the daemon");
        let mut line = String::new();
        let stdout = process.stdout.take().expect("stdout is piped");
        BufReader::new(stdout).read_line(&mut line).expect("reading the ready line");
        let target = line.trim().strip_prefix("echopool listening on ").expect("a ready line");
        Daemon { target: target.to_owned(), process }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One client and the counts of its requests.
struct Books {
    client: Client,
    number: u64,
    stop: Arc<AtomicBool>,
    begun: AtomicU64,
    answered: AtomicU64,
    failed: AtomicU64,
    wrong: AtomicU64,
    connected: Arc<AtomicU64>,
}

/// Makes one request after the other until `stop` is set.
fn request_repeatedly(books: &Arc<Books>) {
    let nth = books.begun.fetch_add(1, SeqCst);
    // The bytes are unique, so that a reply to another request is detected.
    let request: Vec<u8> =
        [books.number, nth].iter().flat_map(|n| n.to_le_bytes()).cycle().take(200).collect();
    let (asked, of) = (request.clone(), books.clone());
    books.client.send_receive(request, GUARD).on_complete(move |reply| {
        match reply {
            Ok(reply) => {
                of.answered.fetch_add(1, SeqCst);
                of.wrong.fetch_add(u64::from(reply != asked), SeqCst);
            }
            Err(failed) => {
                let lost = matches!(failed.error, Error::Reset | Error::ClosedByPeer);
                of.failed.fetch_add(1, SeqCst);
                of.wrong.fetch_add(u64::from(!lost), SeqCst);
            }
        }
        if !of.stop.load(SeqCst) {
            request_repeatedly(&of);
        }
    });
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < GUARD, "still waiting: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_thousand_clients_come_back_to_a_server_that_was_killed() {
    let mut daemon = Daemon::start("127.0.0.1:0");
    let target = daemon.target.clone();
    let address = target.strip_prefix("tcp://").expect("a TCP address").to_owned();
    let clients = ClientLoop::start(LoopLimits::for_clients(CLIENTS as u32)).expect("a loop");
    let stop = Arc::new(AtomicBool::new(false));
    let reconnect = Reconnect::between(Duration::from_millis(10), Duration::from_millis(200));
    let all: Vec<Arc<Books>> = (0..CLIENTS as u64)
        .map(|number| {
            let connected = Arc::new(AtomicU64::new(0));
            let times = connected.clone();
            let options =
                Options::new().reconnect(reconnect).unsent(Unsent::Keep).on_state(move |state| {
                    if matches!(state, State::Connected { .. }) {
                        times.fetch_add(1, SeqCst);
                    }
                });
            let count = || AtomicU64::new(0);
            Arc::new(Books {
                client: clients.client(&target, options).expect("room for a client"),
                number,
                stop: stop.clone(),
                begun: count(),
                answered: count(),
                failed: count(),
                wrong: count(),
                connected,
            })
        })
        .collect();
    for books in &all {
        books.client.connect(GUARD).on_complete(|address| assert!(address.is_ok()));
        request_repeatedly(books);
    }
    for round in 1..=ROUNDS {
        let before: Vec<u64> = all.iter().map(|books| books.answered.load(SeqCst)).collect();
        let all_answered = || all.iter().zip(&before).all(|(b, n)| b.answered.load(SeqCst) > *n);
        until("every client has a reply", all_answered);
        drop(daemon);
        // Long enough for most clients to try in vain.
        thread::sleep(Duration::from_millis(100));
        daemon = Daemon::start(&address);
        let back = || all.iter().all(|books| books.connected.load(SeqCst) > round);
        until("every client is back", back);
    }
    let before: Vec<u64> = all.iter().map(|books| books.answered.load(SeqCst)).collect();
    until("every client has a reply", || {
        all.iter().zip(&before).all(|(books, n)| books.answered.load(SeqCst) > *n)
    });
    stop.store(true, SeqCst);
    let sum = |count: fn(&Books) -> &AtomicU64| -> u64 {
        all.iter().map(|books| count(books).load(SeqCst)).sum()
    };
    until("every request has completed or failed", || {
        sum(|b| &b.begun) == sum(|b| &b.answered) + sum(|b| &b.failed)
    });
    let (begun, answered, failed) = (sum(|b| &b.begun), sum(|b| &b.answered), sum(|b| &b.failed));
    println!("{begun} requests started, {answered} completed, {failed} failed");
    assert_eq!(sum(|b| &b.wrong), 0, "wrong replies, or unexpected errors");
    assert!(failed > 0, "the server was never killed during a request");
    for books in &all {
        let of = |count: &AtomicU64| count.load(SeqCst);
        assert_eq!(of(&books.begun), of(&books.answered) + of(&books.failed));
    }
}
