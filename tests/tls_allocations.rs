//! Counts what TLS allocates on a worker's thread: for each echo after the handshake, and for a
//! session. rustls allocates for each record, so there is no way to none; these are the figures of
//! docs/transports.md and of the sum of memory.

mod counting;

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use echopool::builtin::Echo;
use echopool::config::{Limits, TlsVersion};
use echopool::service::{ServiceFactory, ServicePlan};
use echopool::{Config, Drained, Server, ServerHandle};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, version};

use counting::{ALLOCATIONS, COUNTING, IS_MARKED, LIVE_BYTES};

/// Echo, on threads that are marked.
struct Marked;

impl ServiceFactory for Marked {
    type Service = Echo;

    fn plan(self, limits: &Limits) -> ServicePlan<Echo> {
        Echo.plan(limits).map(|echo| {
            IS_MARKED.set(true);
            echo
        })
    }
}

/// A directory that is removed at the end.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

type Client = StreamOwned<ClientConnection, TcpStream>;

struct Setup {
    server: ServerHandle,
    clients: [(TlsVersion, Arc<ClientConfig>); 2],
    _directory: Directory,
}

impl Setup {
    fn new() -> Setup {
        let name = format!("echopool-tls-allocations-{}", std::process::id());
        let directory = Directory(std::env::temp_dir().join(name));
        fs::create_dir_all(&directory.0).unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let path = |name: &str| directory.0.join(name);
        fs::write(path("cert"), made.cert.pem()).unwrap();
        fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        let (cert, key) = (path("cert"), path("key"));
        let url = format!("tls://127.0.0.1:0?cert={}&key={}", cert.display(), key.display());
        let config = Config::new().listen(url).workers(1).max_connections(1000);
        let server = Server::start(config, Marked).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(cert).unwrap()).unwrap();
        let config = |version| {
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_protocol_versions(&[version]).unwrap();
            Arc::new(builder.with_root_certificates(roots.clone()).with_no_client_auth())
        };
        let clients = [
            (TlsVersion::V1_2, config(&version::TLS12)),
            (TlsVersion::V1_3, config(&version::TLS13)),
        ];
        Setup { server, clients, _directory: directory }
    }

    fn connect(&self, config: &Arc<ClientConfig>) -> Client {
        let address = self.server.local_endpoints()[0].socket_addr().unwrap();
        let socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), socket)
    }
}

fn echo(client: &mut Client, bytes: &[u8], reply: &mut [u8]) {
    client.write_all(bytes).unwrap();
    client.read_exact(reply).unwrap();
    assert_eq!(reply, bytes);
}

#[test]
fn an_echo_and_a_session_allocate_no_more_than_stated() {
    let setup = Setup::new();
    COUNTING.store(true, Ordering::Relaxed);
    for (version, config) in &setup.clients {
        let mut client = setup.connect(config);
        for (size, most) in [(64, 2), (1000, 2), (16_000, 12)] {
            let (bytes, mut reply) = (vec![7; size], vec![0; size]);
            (0..10).for_each(|_| echo(&mut client, &bytes, &mut reply));
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            (0..1000).for_each(|_| echo(&mut client, &bytes, &mut reply));
            let each = (ALLOCATIONS.load(Ordering::Relaxed) - before) as f64 / 1000.0;
            println!("{version:?}: {size} bytes: {each} allocations for an echo");
            assert!(each <= f64::from(most), "{version:?}, {size} bytes: {each} allocations");
            assert!(each >= 1.0, "the count does not work");
        }
        drop(client);

        const SESSIONS: usize = 100;
        let live = || LIVE_BYTES.load(Ordering::Relaxed);
        let settled = |connections: u64| {
            let begun = Instant::now();
            while setup.server.stats().total().connections != connections {
                assert!(begun.elapsed() < Duration::from_secs(30), "never {connections}");
                std::thread::yield_now();
            }
            live()
        };
        settled(0);
        std::thread::sleep(Duration::from_millis(100));
        let none = live();
        let mut clients: Vec<Client> = (0..SESSIONS).map(|_| setup.connect(config)).collect();
        let mut reply = [0; 5];
        clients.iter_mut().for_each(|client| echo(client, b"hello", &mut reply));
        let idle = (settled(SESSIONS as u64) - none) / SESSIONS as i64;
        // All but the last byte of the longest record.
        let wire = |setup: &Setup| setup.server.stats().total().wire_bytes_received;
        let before = wire(&setup);
        let mut sent = 0;
        for client in &mut clients {
            client.conn.writer().write_all(&[7; 16 << 10]).unwrap();
            let mut record = Vec::new();
            client.conn.write_tls(&mut record).unwrap();
            sent += record.len() as u64 - 1;
            client.sock.write_all(&record[..record.len() - 1]).unwrap();
        }
        let begun = Instant::now();
        while wire(&setup) < before + sent {
            assert!(begun.elapsed() < Duration::from_secs(30), "never received");
            std::thread::yield_now();
        }
        let partial = (live() - none) / SESSIONS as i64;
        println!("{version:?}: a session: {idle} bytes, with most of a record {partial}");
        assert!(idle >= 1000, "the count does not work");
        assert!(idle <= 12 << 10 && partial <= 40 << 10, "{version:?}: {idle}, {partial}");
        for client in &clients {
            client.sock.shutdown(Shutdown::Both).unwrap();
        }
        let begun = Instant::now();
        // A session is freed after its connection is counted as closed.
        while settled(0) > none + 1000 {
            assert!(begun.elapsed() < Duration::from_secs(30), "sessions are not freed");
            std::thread::yield_now();
        }
    }
    COUNTING.store(false, Ordering::Relaxed);
    assert_eq!(setup.server.drain(Duration::from_secs(10)), Drained::Clean);
}
