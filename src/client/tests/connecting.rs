//! Racing addresses, clients that are dropped while they connect, limited attempts, and durations
//! without limit.

use super::*;

#[test]
fn a_silent_address_delays_the_next_one_by_no_more_than_the_race() {
    let (_server, target) = echo_server();
    let (silent, _listener, _full) = unanswering();
    let clients = start();
    let mut both = target::Target::parse(&target).unwrap();
    let good = both.literal[0];
    both.literal = vec![silent.into(), silent.into(), good];
    // Dividing an hour among the addresses would take too long.
    let options = Options::new().connect_timeout(Duration::from_secs(3600));
    let client = Client::new(&clients.submission, both, options).unwrap();
    assert_eq!(done(client.connect(Duration::MAX)).unwrap(), good);
    assert_eq!(done(client.send_receive(b"x".to_vec(), GUARD)).unwrap(), b"x");
}

#[test]
fn a_silent_address_hides_no_other_from_rounds_shorter_than_the_shortest_race() {
    let (_server, target) = echo_server();
    let (silent, _listener, _full) = unanswering();
    let clients = start();
    let mut both = target::Target::parse(&target).unwrap();
    let good = both.literal[0];
    both.literal = vec![silent.into(), good];
    let options = Options::new().connect_timeout(Duration::from_millis(10));
    let often = Reconnect::between(Duration::from_millis(1), Duration::from_millis(1));
    let client = Client::new(&clients.submission, both, options.reconnect(often)).unwrap();
    assert_eq!(done(client.connect(GUARD)).unwrap(), good);
}

#[test]
fn a_connect_shorter_than_the_race_delay_tries_all_addresses() {
    let (_server, target) = echo_server();
    let (silent, _listener, _full) = unanswering();
    let clients = start();
    let mut both = target::Target::parse(&target).unwrap();
    let good = both.literal[0];
    both.literal = vec![silent.into(), good];
    // A new client for each connect, because a later round begins with the addresses not yet tried.
    // On a busy machine the second address's half of the time may not suffice, so try again.
    let connects = || {
        let client = Client::new(&clients.submission, both.clone(), Options::new()).unwrap();
        done(client.connect(Duration::from_millis(100))).ok() == Some(good)
    };
    assert!((0..50).any(|_| connects()), "the second address is never tried");
}

#[test]
fn a_client_that_is_dropped_while_it_connects_leaves_its_place_to_others() {
    let (_server, target) = echo_server();
    let (silent, _listener, _full) = unanswering();
    let clients = ClientLoop::start(LoopLimits::for_clients(1)).unwrap();
    for _ in 0..10 {
        let begun = Instant::now();
        let client = loop {
            // The slot is released when the loop has noticed that the client was dropped.
            let options = Options::new().connect_timeout(Duration::from_secs(3600));
            match clients.client(&silent.to_string(), options) {
                Ok(client) => break client,
                Err(_) => assert!(begun.elapsed() < GUARD),
            }
        };
        let connect = client.connect(Duration::MAX).wait_timeout(SHORT).expect_err("no answer");
        drop(client);
        assert_eq!(done(connect).unwrap_err().error, Error::Cancelled);
    }
    let begun = Instant::now();
    let client = loop {
        match clients.client(&target, Options::new()) {
            Ok(client) => break client,
            Err(_) => assert!(begun.elapsed() < GUARD),
        }
    };
    done(client.connect(GUARD)).unwrap();
    assert_eq!(done(client.send_receive(b"x".to_vec(), GUARD)).unwrap(), b"x");
}

#[test]
fn rounds_that_connect_are_not_counted_as_failed() {
    let (target, seen) = serve(6, |stream, nth| {
        drop(stream);
        nth
    });
    let often = Reconnect::between(Duration::from_millis(1), Duration::from_millis(1));
    let clients = start();
    let client = clients.client(&target, Options::new().reconnect(often.attempts_max(2))).unwrap();
    done(client.connect(GUARD)).unwrap();
    for nth in 0..6 {
        assert_eq!(seen.recv_timeout(GUARD).unwrap(), nth);
    }
}

#[test]
fn no_duration_is_too_long() {
    let (target, received) = serve(1, |mut stream, _| {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).map(|_| all)
    });
    let limits = LoopLimits {
        linger: Duration::MAX,
        send_timeout: Some(Duration::MAX),
        ..LoopLimits::default()
    };
    let clients = ClientLoop::start(limits).unwrap();
    let for_ever = Reconnect::between(Duration::MAX, Duration::MAX);
    let options = Options::new().reconnect(for_ever).connect_timeout(Duration::MAX);
    let client = clients.client(&target, options).unwrap();
    done(client.connect(Duration::MAX)).unwrap();
    let request = client.send_receive(b"x".to_vec(), Duration::MAX);
    let request = request.wait_timeout(SHORT).expect_err("no reply");
    drop(client);
    drop(clients);
    assert_eq!(received.recv_timeout(GUARD).unwrap().unwrap(), b"x");
    assert!(done(request).is_err());
    // The server has closed its listener, so the client waits until its limit.
    let clients = start();
    let refused = refusing().to_string();
    let client = clients.client(&refused, Options::new().reconnect(for_ever)).unwrap();
    assert!(client.connect(Duration::MAX).wait_timeout(SHORT).is_err());
}
