//! The layer on the real kernel, with a client that sends what the test says.

use std::io::{ErrorKind, Read};
use std::net::Shutdown;
use std::time::Instant;

use super::super::tests::{Does, Layered, Told};
use super::*;
use crate::buffer::{Lease, Reserve};
use crate::shared::mailbox::EndOrder;
use crate::tls::options::TlsVersion;
use crate::tls::testing::{Client, Clients, Directory};

const GUARD: Duration = Duration::from_secs(20);
const VERSIONS: [TlsVersion; 2] = [TlsVersion::V1_2, TlsVersion::V1_3];

fn layer(timeout: Duration) -> Tls {
    let directory = Directory::new();
    let options = directory.options(&["cert.pem"], &["key.pem"]);
    let acceptor = Arc::new(Acceptor::new(&options).unwrap());
    Tls::new(acceptor, timeout)
}

/// A worker with the layer, and one client of it.
struct Talk {
    layered: Layered<Tls>,
    client: Client,
    /// The plaintext that came.
    heard: Vec<u8>,
    /// FIN came.
    fin: bool,
}

impl Talk {
    fn new(version: TlsVersion, buffers: u32, buffer_size: usize) -> Talk {
        Talk::that(version, buffers, buffer_size, GUARD)
    }

    fn that(version: TlsVersion, buffers: u32, buffer_size: usize, timeout: Duration) -> Talk {
        let layered = Layered::over(layer(timeout), Does::Echo, buffers, buffer_size);
        let client = Clients::new(version).client("localhost");
        Talk { layered, client, heard: Vec::new(), fin: false }
    }

    /// A connection after its handshake.
    fn open(version: TlsVersion, buffers: u32, buffer_size: usize) -> Talk {
        let mut talk = Talk::new(version, buffers, buffer_size);
        talk.shakes_hands(usize::MAX);
        talk
    }

    /// Does the handshake. The client sends pieces of this size.
    fn shakes_hands(&mut self, piece: usize) {
        self.until("the handshake", piece, |talk| {
            !talk.client.is_handshaking() && !talk.layered.told.borrow().is_empty()
        });
    }

    /// A turn of the worker. Whatever has come goes to the client.
    fn turn(&mut self) {
        self.layered.turn();
        let mut bytes = [0; 40_000];
        match self.layered.client.read(&mut bytes) {
            Ok(0) => self.fin = true,
            Ok(count) => self.heard.extend(self.client.hears(&bytes[..count]).unwrap()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
        }
    }

    /// Sends in pieces of this size, with a turn after each.
    fn says(&mut self, mut bytes: &[u8], piece: usize) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(piece.min(20_000).min(bytes.len()));
            self.layered.says(now);
            self.turn();
            bytes = later;
        }
    }

    /// Takes turns, and sends what the client wants to.
    fn until(&mut self, what: &str, piece: usize, condition: impl Fn(&Talk) -> bool) {
        let begun = Instant::now();
        while !condition(self) {
            assert!(begun.elapsed() < GUARD, "never: {what}; {:?}", self.layered.told.borrow());
            let bytes = self.client.says();
            self.says(&bytes, piece);
            self.turn();
        }
    }

    /// Sends `bytes` and waits for their echo.
    fn echoes(&mut self, bytes: &[u8], piece: usize) {
        let records = self.client.writes(bytes);
        self.says(&records, piece);
        self.until("the echo", piece, |talk| talk.heard.len() >= bytes.len());
        assert_eq!(std::mem::take(&mut self.heard), bytes);
    }

    /// Waits for close_notify and FIN, with no plaintext before.
    fn ends(&mut self) {
        self.until("close_notify and FIN", usize::MAX, |talk| talk.client.ended && talk.fin);
        assert_eq!(self.heard, b"");
    }

    /// Waits for an alert that is not close_notify, and FIN.
    fn hears_an_alert(&mut self) -> String {
        let begun = Instant::now();
        let mut bytes = Vec::new();
        loop {
            assert!(begun.elapsed() < GUARD, "no FIN");
            self.layered.turn();
            let mut piece = [0; 40_000];
            match self.layered.client.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => bytes.extend(&piece[..count]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
            }
        }
        self.client.hears(&bytes).expect_err("no alert").to_string()
    }
}

/// Bytes that differ from their neighbours.
fn payload(count: usize) -> Vec<u8> {
    (0..count).map(|at| (at * 7 + at / 251) as u8).collect()
}

fn data(told: &[Told]) -> Vec<u8> {
    let bytes = |told: &Told| if let Told::Data(bytes) = told { bytes.clone() } else { vec![] };
    told.iter().flat_map(bytes).collect()
}

#[test]
fn bytes_come_back_through_both_versions_and_buffers_of_any_size() {
    for version in VERSIONS {
        for (buffers, size) in [(1200, 64), (300, 256), (8, 16 << 10), (4, 1 << 20)] {
            let mut talk = Talk::open(version, buffers, size);
            assert_eq!(talk.client.version(), Some(version));
            assert!(talk.layered.is_listed());
            for count in [1, 5, 16_383, 16_384, 16_385, 100_000] {
                talk.echoes(&payload(count), usize::MAX);
            }
            let bytes = talk.client.closes();
            talk.says(&bytes, usize::MAX);
            // Its FIN need not come first.
            talk.ends();
            let counts = talk.layered.counters.read();
            assert_eq!((counts.bytes_received, counts.bytes_sent), (149_158, 149_158));
            assert!(counts.wire_bytes_received > 149_158 && counts.wire_bytes_sent > 149_158);
            let told = talk.layered.end(CloseReason::PeerClosed);
            assert!(matches!(told[0], Told::Open(_)));
            assert_eq!(
                told[told.len() - 2..],
                [Told::PeerClosed, Told::Closed(CloseReason::PeerClosed)]
            );
            assert_eq!(data(&told).len(), 149_158);
        }
    }
}

#[test]
fn the_handshake_records_and_close_notify_may_be_cut_at_every_byte() {
    for version in VERSIONS {
        let mut talk = Talk::new(version, 64, 256);
        talk.shakes_hands(1);
        talk.echoes(b"one byte at a time", 1);
        talk.echoes(&payload(300), 1);
        for piece in [2, 3, 5, 21, 22, 23] {
            talk.echoes(&payload(100), piece);
        }
        let bytes = [talk.client.writes(b"last"), talk.client.closes()].concat();
        talk.says(&bytes, 1);
        talk.until("the end", 1, |talk| talk.client.ended && talk.fin);
        assert_eq!(talk.heard, b"last");
        talk.layered.end(CloseReason::PeerClosed);
    }
}

/// The records of many writes in one receive, and close_notify behind them.
#[test]
fn many_records_at_once_come_back_before_the_end() {
    for version in VERSIONS {
        let mut talk = Talk::open(version, 64, 1024);
        let mut bytes: Vec<u8> = (0..100).flat_map(|at| talk.client.writes(&[at; 10])).collect();
        bytes.extend(talk.client.closes());
        talk.says(&bytes, usize::MAX);
        talk.until("the end", usize::MAX, |talk| talk.client.ended && talk.fin);
        assert_eq!(talk.heard, (0..100).flat_map(|at| [at; 10]).collect::<Vec<u8>>());
        talk.layered.end(CloseReason::PeerClosed);
    }
}

#[test]
fn fin_without_close_notify_is_a_truncated_stream() {
    for version in VERSIONS {
        let mut talk = Talk::open(version, 64, 256);
        talk.echoes(b"hello", usize::MAX);
        let half = talk.client.writes(b"half a record");
        talk.layered.says(&half[..half.len() - 1]);
        talk.layered.client.shutdown(Shutdown::Write).unwrap();
        talk.ends();
        let told = talk.layered.end(CloseReason::TlsTruncated);
        assert_eq!(data(&told), b"hello");
        assert!(!told.contains(&Told::PeerClosed), "{told:?}");
    }
}

#[test]
fn fin_in_the_handshake_is_a_failed_handshake_and_before_it_a_peer_that_has_closed() {
    let mut talk = Talk::new(TlsVersion::V1_3, 64, 256);
    let hello = talk.client.says();
    talk.layered.says(&hello[..hello.len() - 1]);
    talk.layered.client.shutdown(Shutdown::Write).unwrap();
    talk.layered.hears_the_end();
    assert_eq!(talk.layered.end(CloseReason::TlsHandshake), []);
    let mut talk = Talk::new(TlsVersion::V1_3, 64, 256);
    talk.layered.client.shutdown(Shutdown::Write).unwrap();
    talk.layered.hears_the_end();
    assert_eq!(talk.layered.end(CloseReason::PeerClosed), []);
}

#[test]
fn garbage_gets_an_alert() {
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 100], &[22, 3, 1, 0xFF, 0xFF, 1]] {
        let mut talk = Talk::new(TlsVersion::V1_3, 64, 256);
        talk.layered.says(garbage);
        let alert = talk.hears_an_alert();
        assert!(alert.contains("fatal alert"), "{alert}");
        assert_eq!(talk.layered.end(CloseReason::TlsHandshake), []);
    }
}

#[test]
fn a_record_that_was_changed_gets_an_alert() {
    for version in VERSIONS {
        let mut talk = Talk::open(version, 64, 256);
        talk.echoes(b"hello", usize::MAX);
        let mut record = talk.client.writes(b"something");
        *record.last_mut().unwrap() ^= 1;
        talk.layered.says(&record);
        let alert = talk.hears_an_alert();
        assert!(alert.contains("BadRecordMac"), "{alert}");
        let told = talk.layered.end(CloseReason::TlsAlert);
        assert_eq!(data(&told), b"hello");
    }
}

#[test]
fn an_alert_of_the_client_ends_the_connection() {
    let mut talk = Talk::open(TlsVersion::V1_2, 64, 256);
    let mut record = talk.client.writes(b"something");
    *record.last_mut().unwrap() ^= 1;
    // The client refuses what it is told to have got.
    assert!(talk.client.hears(&record).is_err());
    let alert = talk.client.says();
    talk.layered.says(&alert);
    talk.layered.turns_until("closed", |layered| layered.worker.open() == 0);
    talk.layered.end(CloseReason::TlsAlert);
}

#[test]
fn a_handshake_that_takes_too_long_ends() {
    let timeout = Duration::from_millis(100);
    let mut talk = Talk::that(TlsVersion::V1_3, 64, 256, timeout);
    let begun = Instant::now();
    let hello = talk.client.says();
    talk.says(&hello[..100], usize::MAX);
    talk.until("FIN", usize::MAX, |talk| talk.fin);
    assert!(begun.elapsed() >= timeout);
    assert_eq!(talk.layered.end(CloseReason::TlsHandshake), []);
}

#[test]
fn one_buffer_is_enough_and_without_any_it_waits() {
    for version in VERSIONS {
        let mut talk = Talk::open(version, 1, 256);
        talk.echoes(&payload(20_000), usize::MAX);
        let taken: Lease = talk.layered.pool.lease().unwrap();
        let bytes = [talk.client.writes(&payload(1000)), talk.client.closes()].concat();
        talk.layered.says(&bytes);
        talk.layered.turns_until("it waits", |layered| !layered.worker.waiting().is_empty());
        (0..20).for_each(|_| talk.turn());
        assert_eq!(talk.heard, b"");
        drop(taken);
        talk.until("the end", usize::MAX, |talk| talk.client.ended && talk.fin);
        assert_eq!(talk.heard, payload(1000));
        talk.layered.end(CloseReason::PeerClosed);
    }
}

#[test]
fn a_drain_ends_the_stream_with_close_notify() {
    for version in VERSIONS {
        let mut talk = Talk::open(version, 64, 256);
        talk.echoes(b"hello", usize::MAX);
        let deadline = crate::engine::sys::monotonic_now() + GUARD;
        talk.layered.mailboxes.order_end(0, EndOrder::Drain { deadline });
        talk.ends();
        talk.layered.end(CloseReason::Drained);
    }
}

#[test]
fn a_client_comes_back_with_a_ticket() {
    for version in VERSIONS {
        let clients = Clients::new(version);
        let mut talk = Talk::new(version, 64, 256);
        for resumed in [false, true] {
            talk.client = clients.client("localhost");
            talk.shakes_hands(usize::MAX);
            talk.echoes(b"hello", usize::MAX);
            assert_eq!(talk.client.is_resumed(), resumed, "{version:?}");
            let bytes = talk.client.closes();
            talk.says(&bytes, usize::MAX);
            talk.ends();
            talk.layered.turns_until("closed", |layered| layered.worker.open() == 0);
            talk.layered.told.take();
            talk.layered.connects();
            talk.fin = false;
        }
    }
}

/// The state of a connection after its handshake, without a worker.
fn after_handshake(tls: &mut Tls, pool: &Pool) -> TlsState {
    let mut held = tls.state(0, Peer::UNKNOWN_PROCESS, pool);
    let mut client = Clients::new(TlsVersion::V1_3).client("localhost");
    let (mut input, mut output) = (Chain::new(pool), Chain::new(pool));
    while client.is_handshaking() || tls.peer(&held, Peer::UNKNOWN_PROCESS).is_none() {
        let mut wire = Chain::new(pool);
        let mut lease = pool.lease().unwrap();
        let bytes = client.says();
        assert_eq!(lease.extend_from_slice(&bytes), bytes.len());
        wire.push_back(lease);
        tls.received(&mut held, &mut input, &mut wire, pool).unwrap();
        let wire = tls.outgoing(&mut held, &mut output, pool).take();
        client.hears(&wire.slices().flatten().copied().collect::<Vec<u8>>()).unwrap();
        assert_eq!(tls.sent(&mut held, wire.len()), 0, "the handshake is not the service's");
    }
    held
}

/// A lease that is full.
fn full(pool: &Pool, size: usize) -> Lease {
    let mut lease = pool.lease().unwrap();
    assert_eq!(lease.extend_from_slice(&vec![7; size]), size);
    lease
}

/// What the session keeps for want of a buffer is not sent, so the service is told only when it is.
#[test]
fn output_that_the_session_keeps_is_not_sent() {
    let pool = Pool::new(Reserve::new(4 << 10, 8).unwrap(), 0);
    let mut tls = layer(GUARD);
    let mut held = after_handshake(&mut tls, &pool);
    let mut output = Chain::new(&pool);
    output.push_back(full(&pool, 4 << 10));
    let taken: Vec<_> = (0..7).map(|_| pool.lease().unwrap()).collect();
    let wire = tls.outgoing(&mut held, &mut output, &pool).take();
    assert!(output.is_empty() && tls.starves(&held), "the record is longer than a buffer");
    let sent = tls.sent(&mut held, wire.len());
    assert!(sent < 4 << 10, "{sent} bytes are sent, and a part of the record is not");
    drop((wire, taken));
    let wire = tls.outgoing(&mut held, &mut output, &pool).take();
    assert_eq!(wire.len(), 22);
    let rest = tls.sent(&mut held, wire.len());
    assert!(rest > 0, "nothing tells that all is sent");
    assert_eq!(sent + rest, 4 << 10);
}

/// A service bounds its output by its length, so the layer must not take all of it.
#[test]
fn output_is_encrypted_only_as_far_as_it_is_sent() {
    let pool = Pool::new(Reserve::new(16 << 10, 64).unwrap(), 0);
    let mut tls = layer(GUARD);
    let mut held = after_handshake(&mut tls, &pool);
    let mut output = Chain::new(&pool);
    for _ in 0..16 {
        output.push_back(full(&pool, 16 << 10));
    }
    let mut in_flight = tls.outgoing(&mut held, &mut output, &pool).take();
    assert_eq!(output.len(), (16 - 4) << 14, "four records");
    assert!(tls.outgoing(&mut held, &mut output, &pool).is_empty(), "until some are sent");
    // The kernel takes half of a record, and then all but a byte.
    assert_eq!(tls.sent(&mut held, 8000), 8000 - 4 * 22);
    let rest = in_flight.len() - 8001;
    assert_eq!(tls.sent(&mut held, rest), (4 << 14) - (8000 - 88) - 1);
    assert_eq!(tls.sent(&mut held, 1), 1);
    in_flight.consume(in_flight.len());
    let mut of_service = 4 << 14;
    while !output.is_empty() {
        let wire = tls.outgoing(&mut held, &mut output, &pool).take();
        of_service += tls.sent(&mut held, wire.len());
    }
    assert_eq!(of_service, 16 << 14);
}
