//! Drain and stop (failure mode 15): each client receives an exact prefix of what it sent, every
//! byte that the server read is echoed, and no accepted connection ends with RST.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Client, Daemon, Fate, Fleet, GUARD, Random, alone, eventually, named_values};

/// Longer than any test waits, so that only a fault lets this time-out expire.
const NEVER: &str = "600s";

/// Drains at random moments under load. `BLACKBOX_SEED` repeats a run.
#[test]
fn a_drain_at_any_moment_loses_no_byte_that_was_read() {
    const ROUNDS: u64 = 10;
    let (mut random, seed) = Random::from_environment();
    let mut unread = 0;
    for round in 0..ROUNDS {
        let window = [1, 1_000, 70_000, u64::MAX][random.below(4) as usize];
        let moment = Duration::from_micros(random.below(200_000));
        println!("seed {seed}, round {round}: window {window}, SIGTERM after {moment:?}");
        unread += drain_under_load(window, moment);
    }
    assert!(unread > 0, "seed {seed}: no drain started while bytes were in transit");
}

/// Returns the number of bytes that were sent and not echoed.
fn drain_under_load(window: u64, moment: Duration) -> u64 {
    const CLIENTS: usize = 100;
    let patient = ["--drain-timeout", NEVER, "--linger", NEVER];
    let mut daemon = Daemon::start(&[&patient[..], &["--workers", "2", "--log", "debug"]].concat());
    let mut fleet = Fleet::connect(daemon.address(), CLIENTS);
    // A client that has received an echo has been accepted.
    fleet.echo(1);
    fleet.set_window(window);
    fleet.set_endless();
    fleet.drive_for(moment);
    daemon.signal(Signal::TERM);
    fleet.drive("waiting for FIN after SIGTERM");
    assert_eq!(fleet.count(Fate::Fin), CLIENTS, "not all ended by FIN: {:?}", fleet.fates());
    let books = fleet.books();
    // Closing sends FIN, which ends the server's linger.
    drop(fleet);
    let status = daemon.wait();
    assert_eq!(status.code(), Some(0), "{}", daemon.tail());
    compare(&books, &daemon);
    books.iter().map(|(_, sent, received)| sent - received).sum()
}

/// Compares both sides: the server read a prefix, echoed all of it, and the clients received all of
/// it.
fn compare(books: &[(SocketAddr, u64, u64)], daemon: &Daemon) {
    let closed = daemon.closed();
    assert_eq!(closed.len(), books.len(), "disconnect lines");
    for (local, sent, received) in books {
        let theirs = closed.iter().find(|closed| closed.peer == *local);
        let theirs = theirs.unwrap_or_else(|| panic!("no disconnect line for {local}"));
        assert_eq!(theirs.sent, *received, "{theirs:?}: sent, but not received");
        assert_eq!(theirs.received, theirs.sent, "{theirs:?}: read, but not echoed");
        assert!(theirs.received <= *sent, "{theirs:?}: more than was sent");
        assert_eq!(theirs.reason, "drained", "{theirs:?}");
    }
    let end = daemon.lines_with("ended").pop().expect("the last line of the log");
    assert_eq!(named_values(&end)["unaccepted"], 0, "reset in the backlog: {end}");
}

#[test]
fn sigint_drains_like_sigterm() {
    let mut daemon = Daemon::start(&["--log", "debug"]);
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    daemon.signal(Signal::INT);
    client.expect_fin();
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.closed()[0].reason, "drained");
    assert_eq!((daemon.lines_with("SIGINT").len(), daemon.lines_with("SIGTERM").len()), (1, 0));
}

#[test]
fn a_drain_without_clients_ends_immediately() {
    Daemon::start(&["--drain-timeout", NEVER, "--linger", NEVER]).finish();
}

/// Idle clients get FIN immediately, and the drain ends when they have closed too.
#[test]
fn idle_clients_do_not_hold_up_a_drain() {
    let flags = ["--drain-timeout", NEVER, "--linger", NEVER, "--log", "debug"];
    let mut daemon = Daemon::start(&flags);
    let mut clients: Vec<Client> = (0..20).map(|_| Client::connect(daemon.address())).collect();
    clients.iter_mut().for_each(|client| client.ping(10));
    daemon.signal(Signal::TERM);
    clients.iter_mut().for_each(Client::expect_fin);
    drop(clients);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert!(daemon.closed().iter().all(|closed| closed.reason == "drained"));
}

/// No new client is accepted, even while an old client delays the drain.
#[test]
fn a_draining_daemon_accepts_no_client() {
    let daemon = Daemon::start(&["--drain-timeout", NEVER, "--linger", NEVER]);
    let mut old = Client::connect(daemon.address());
    old.ping(10);
    daemon.signal(Signal::TERM);
    old.expect_fin();
    let to = daemon.address();
    eventually("connects are refused", || {
        let refused = std::net::TcpStream::connect_timeout(&to, GUARD).err();
        refused.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
    });
}

/// A slow client still gets everything that the server had read before the drain started. The rest
/// of a large buffer needs several sends, the last of them long after SIGTERM.
#[test]
fn a_drain_waits_for_a_client_that_reads_slowly() {
    for buffer_size in ["16Ki", "1Mi"] {
        let flags = ["--drain-timeout", NEVER, "--send-timeout", "off", "--log", "debug"];
        let pool = ["--buffer-size", buffer_size, "--buffers", "64"];
        let mut daemon = Daemon::start(&[&flags[..], &pool].concat());
        let mut client = Client::connect_with_small_window(daemon.address(), 16 * 1024);
        let mut sent = fill(&daemon, &mut client);
        // Repeated filling makes the server read several buffers at once.
        for _ in 0..6 {
            client.expect(TAKEN);
            sent += fill(&daemon, &mut client);
        }
        daemon.signal(Signal::TERM);
        daemon.wait_lines(1, "SIGTERM: draining");
        let port = daemon.address().port();
        eventually("its listeners are closed", || daemon.listeners_on(port) == 0);
        assert!(daemon.try_wait().is_none(), "the drain did not wait for the slow client");
        client.read_to_fin();
        let received = client.received();
        assert!(received < sent, "nothing was in transit");
        drop(client);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
        let closed = &daemon.closed()[0];
        assert_eq!((closed.received, closed.sent), (received, received), "{closed:?}");
    }
}

/// Bytes to read before each refill: less than the path to the server and back holds.
const TAKEN: u64 = 3 << 20;

/// Sends until the path to the server and back is full: the kernel accepts nothing for a while, and
/// all threads of the server sleep. The kernel may also just be late with its bytes, so [`TAKEN`]
/// bytes must be in transit. Returns the number of bytes sent.
fn fill(daemon: &Daemon, client: &mut Client) -> u64 {
    let (mut sent, mut quiet) = (0, 0);
    eventually("the path is full", || {
        let taken = client.send_without_waiting(1 << 20);
        sent += taken;
        quiet = if taken == 0 && daemon.is_asleep() { quiet + 1 } else { 0 };
        quiet >= 10 && client.in_transit() >= TAKEN
    });
    sent
}

#[test]
fn the_drain_deadline_cuts_a_client_that_never_closes() {
    let flags = ["--drain-timeout", "1s", "--linger", NEVER, "--log", "debug"];
    let mut daemon = Daemon::start(&flags);
    let mut client = Client::connect(daemon.address());
    client.ping(10);
    daemon.signal(Signal::TERM);
    client.expect_fin();
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.closed().len(), 1);
}

/// Lingering ends at `--linger`, long before the deadline of the drain.
#[test]
fn linger_ends_for_a_client_that_never_closes() {
    let flags = ["--drain-timeout", NEVER, "--linger", "1s", "--log", "debug"];
    let mut daemon = Daemon::start(&flags);
    let mut client = Client::connect(daemon.address());
    client.ping(10);
    daemon.signal(Signal::TERM);
    client.expect_fin();
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.closed()[0].reason, "drained");
}

#[test]
fn a_second_signal_ends_a_drain_immediately() {
    for (first, second) in [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM)] {
        let mut daemon = Daemon::start(&["--drain-timeout", NEVER, "--linger", NEVER]);
        let mut client = Client::connect(daemon.address());
        client.ping(10);
        daemon.signal(first);
        client.expect_fin();
        assert!(daemon.try_wait().is_none(), "the drain did not wait for the client");
        daemon.signal(second);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    }
}

/// After SIGSTOP, the daemon finds clients in its backlog and SIGTERM at the same time. The clients
/// are far more than it accepts before it handles the signal.
#[test]
fn clients_in_the_backlog_are_accepted_before_the_listeners_close() {
    const WAITING: usize = 2_000;
    let _alone = alone();
    // On a busy machine the clients read their FINs late. A reset behind the linger time would destroy
    // those that they have not read.
    let patient = ["--drain-timeout", NEVER, "--linger", NEVER];
    let mut daemon = Daemon::start(&[&patient[..], &["--workers", "1", "--log", "debug"]].concat());
    daemon.stop();
    let mut fleet = Fleet::connect(daemon.address(), WAITING);
    fleet.aim(5_000);
    eventually("all have sent", || {
        fleet.drive_for(Duration::from_millis(1));
        fleet.books().iter().all(|(_, sent, _)| *sent >= 5_000)
    });
    daemon.signal(Signal::TERM);
    daemon.signal(Signal::CONT);
    fleet.set_endless();
    fleet.stop_sending();
    fleet.drive("waiting for FIN");
    assert_eq!(fleet.count(Fate::Fin), WAITING, "not all ended by FIN: {:?}", fleet.fates());
    let books = fleet.books();
    drop(fleet);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    compare(&books, &daemon);
    assert_eq!(daemon.lines_with(" connect id=").len(), WAITING);
    let end = daemon.lines_with("ended").pop().expect("the last line of the log");
    // All sent the same. How many the daemon served before the drain ended them depends on time.
    let unanswered = daemon.closed().iter().filter(|closed| closed.received < 5_000).count() as u64;
    assert_eq!(named_values(&end)["unanswered"], unanswered, "{end}");
    assert_eq!(end.contains(", but unaccepted=0 were reset and unanswered="), unanswered > 0);
}

/// A client that sends after the drain has begun gets FIN and no reply, and is counted.
#[test]
fn clients_that_send_while_they_are_drained_are_counted_as_unanswered() {
    let mut daemon = Daemon::start(&["--drain-timeout", NEVER, "--linger", NEVER]);
    let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(daemon.address())).collect();
    clients.iter_mut().for_each(|client| client.ping(10));
    daemon.signal(Signal::TERM);
    clients.iter_mut().for_each(Client::expect_fin);
    clients[..3].iter_mut().for_each(|client| client.send(100));
    drop(clients);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let end = daemon.lines_with("ended").pop().expect("the last line of the log");
    assert!(end.contains("but unaccepted=0 were reset and unanswered=3 got no reply"), "{end}");
    let values = named_values(&end);
    let counts = ["closed", "drained", "unanswered", "bytes_discarded"].map(|name| values[name]);
    assert_eq!(counts, [5, 5, 3, 300], "{end}");
}

/// At the connection limit, clients in the backlog are accepted as places come free. Each gets FIN.
#[test]
fn a_drain_at_the_connection_limit_accepts_clients_as_places_come_free() {
    const LIMIT: usize = 5;
    const CLIENTS: usize = 12;
    let flags = ["--max-connections", "5", "--workers", "2", "--drain-timeout", NEVER];
    let mut daemon = Daemon::start(&flags);
    let mut fleet = Fleet::connect(daemon.address(), CLIENTS);
    fleet.aim(100);
    eventually("the limit is reached", || {
        fleet.drive_for(Duration::from_millis(1));
        fleet.served(100) == LIMIT && daemon.stat("waits_for_slot") > 0
    });
    daemon.signal(Signal::TERM);
    fleet.set_endless();
    fleet.stop_sending();
    fleet.drive("waiting for FIN or RST");
    let ended = fleet.count(Fate::Fin);
    drop(fleet);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    let end = daemon.lines_with("ended").pop().expect("the last line of the log");
    let values = named_values(&end);
    let counts = ["accepted", "drained", "unaccepted"].map(|name| values[name]);
    assert_eq!((ended, counts), (CLIENTS, [CLIENTS as u64, CLIENTS as u64, 0]), "{end}");
}

/// Clients for whom no place comes free until the deadline are reset in the backlog, and counted.
#[test]
fn clients_that_a_drain_could_not_accept_are_counted() {
    const LIMIT: usize = 5;
    const WAITING: usize = 7;
    let flags = ["--max-connections", "5", "--workers", "1", "--drain-timeout", "1s"];
    let mut daemon = Daemon::start(&[&flags[..], &["--linger", "10m"]].concat());
    let mut inside: Vec<Client> = (0..LIMIT).map(|_| Client::connect(daemon.address())).collect();
    inside.iter_mut().for_each(|client| client.ping(10));
    let waiting: Vec<Client> = (0..WAITING).map(|_| Client::connect(daemon.address())).collect();
    eventually("they wait", || daemon.stat("waits_for_slot") > 0);
    daemon.signal(Signal::TERM);
    // They do not close, so their places do not come free.
    inside.iter_mut().for_each(Client::expect_fin);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    drop((inside, waiting));
    let end = daemon.lines_with("ended").pop().expect("the last line of the log");
    let values = named_values(&end);
    assert_eq!([values["accepted"], values["unaccepted"]], [5, 7], "{end}");
    assert!(end.contains("ended with connections_cut=5: "), "{end}");
    let closed = daemon.lines_with("a listener was closed with unaccepted=");
    let told: u64 =
        closed.iter().map(|line| named_values(&line.replace(':', ""))["unaccepted"]).sum();
    assert_eq!(told, WAITING as u64, "{closed:?}");
}

/// A drain without free descriptors must not wait for one.
#[test]
fn a_drain_ends_although_files_have_run_out() {
    // Any wait of the drain for a descriptor, for its deadline or for a linger takes longer than the
    // guard.
    let mut daemon = Daemon::start(&["--drain-timeout", NEVER, "--linger", NEVER]);
    let mut inside = Client::connect(daemon.address());
    inside.ping(10);
    daemon.limit_files(daemon.open_files() as u64);
    let waiting: Vec<Client> = (0..10).map(|_| Client::connect(daemon.address())).collect();
    daemon.signal(Signal::TERM);
    inside.expect_fin();
    // One of these may have been accepted with the descriptor that came free.
    drop((inside, waiting));
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
}

#[test]
fn sighup_is_logged_and_is_no_outage() {
    let daemon = Daemon::start(&["--workers", "2"]);
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    daemon.signal(Signal::HUP);
    let line = "SIGHUP: reloaded, generation=2: nothing has changed";
    eventually("a line for SIGHUP", || daemon.lines_with(line).len() == 1);
    client.ping(1_000);
    Client::connect(daemon.address()).close();
    client.close();
    daemon.finish();
}

#[test]
fn a_drain_tells_who_is_still_there() {
    for delay in ["0s", "10ms"] {
        let flags = ["--linger", "1m", "--drain-timeout", "1m", "--drain-delay", delay];
        // The clocks of two workers differ a little, which may change the order.
        let mut daemon = Daemon::start(&[&flags[..], &["--workers", "1"]].concat());
        // One after the other, so that each is connected for longer than the next.
        let mut clients = [(); 7].map(|()| {
            let mut client = Client::connect(daemon.address());
            client.ping(100);
            client
        });
        daemon.signal(Signal::TERM);
        clients.iter_mut().for_each(Client::expect_fin);
        let line = daemon.wait_lines(1, ": connections=7 longest: ").remove(0);
        let longest: Vec<String> =
            clients[..5].iter().map(|client| client.local().to_string()).collect();
        assert!(line.ends_with(&format!(" longest: {}", longest.join(" "))), "{line}");
        drop(clients);
        assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    }
}
