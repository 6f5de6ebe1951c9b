//! Shared by the tests: the daemon as a process, clients, known bytes, waiting with a time limit.

mod client;
mod daemon;
mod fleet;
mod log;
mod process;

pub use client::Client;
pub use daemon::{Daemon, NO_SANDBOX, binary, lines, run_to_end};
pub use fleet::{Fate, Fleet};
pub use log::named_values;
pub use process::{have, run_with_input, trace_accepts};

use std::io::Write;
use std::net::{TcpListener, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Longest time of any step, after which it counts as hanging. No other time is asserted.
pub const GUARD: Duration = Duration::from_secs(60);

/// Number of clients of the big tests.
const CLIENTS: usize = 10_000;

/// Files reserved beside the clients of a big test: for other tests of this process, and for the
/// daemon's listeners, pollers and standard streams.
const FILES_RESERVED: u64 = 4_000;

/// Waits until `done` returns true. Fails the test after [`GUARD`].
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < GUARD, "still waiting after {GUARD:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Calls `again` in a loop on another thread while `body` runs.
pub fn meanwhile<T>(mut again: impl FnMut() + Send, body: impl FnOnce() -> T) -> T {
    struct SetOnDrop<'a>(&'a AtomicBool);
    impl Drop for SetOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        // Also set if `body` panics, because the scope waits for the thread.
        let _over = SetOnDrop(&over);
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                again();
            }
        });
        body()
    })
}

/// A port for daemons that have to be told one, free at all addresses of IPv4 for TCP and UDP. Port 0 would
/// not do: what the system has chosen once, it may choose again for another test. It chooses none of
/// these by default (`ip_local_port_range`), and each call returns another one.
pub fn own_port() -> u16 {
    const FIRST: u32 = 10_000;
    const PORTS: u32 = 22_000;
    const OF_PROCESS: u32 = 16;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = || {
        let number = std::process::id().wrapping_mul(OF_PROCESS);
        let number = number.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        (FIRST + number % PORTS) as u16
    };
    let is_free = |port: &u16| {
        let at = ("0.0.0.0", *port);
        TcpListener::bind(at).is_ok() && UdpSocket::bind(at).is_ok()
    };
    std::iter::repeat_with(next).take(PORTS as usize).find(is_free).expect("a free port")
}

/// Serializes the tests with many clients: two at once would need more files, ports and socket
/// memory than a machine has.
pub fn alone() -> MutexGuard<'static, ()> {
    static BIG: Mutex<()> = Mutex::new(());
    BIG.lock().unwrap_or_else(PoisonError::into_inner)
}

/// [`CLIENTS`], or fewer if the limit of open files requires it, which is printed and fails in CI.
pub fn many_clients() -> usize {
    let possible = usize::try_from(files().saturating_sub(FILES_RESERVED)).unwrap_or(CLIENTS);
    if possible < CLIENTS {
        let files = files();
        skip(&format!("{possible} clients, not {CLIENTS}: the limit of open files is {files}"));
    }
    possible.min(CLIENTS)
}

/// Raises this process's soft limit of open files to the hard limit, and returns it.
pub fn files() -> u64 {
    static FILES: LazyLock<u64> = LazyLock::new(|| {
        let hard = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: hard, maximum: hard })
            .expect("raising the soft limit of open files to the hard one");
        hard.unwrap_or(u64::MAX)
    });
    *FILES
}

/// Prints that something is skipped. In CI this fails, because nothing may be skipped there.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "would be skipped, but this is CI: {why}");
    // Not eprintln: the test harness hides its output if the test passes.
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

/// Whether this machine has IPv6 on its loopback. If not, the test is skipped.
pub fn have_ipv6() -> bool {
    let have = std::net::TcpListener::bind("[::1]:0").is_ok();
    if !have {
        skip("this machine has no IPv6");
    }
    have
}

/// A prime, so that a loss or repetition of a round number of bytes is always detected.
const PERIOD: usize = 1_000_003;

/// Length of the slices that [`payload`] returns.
pub const PIECE: usize = 64 * 1024;

/// The [`PIECE`] bytes that client `id` sends from stream offset `offset` on. Each client has its
/// own stream, so that a lost, repeated or foreign byte is detected. All share one table, so that a
/// comparison costs only a `memcmp`, even in a debug build.
pub fn payload(id: u64, offset: u64) -> &'static [u8] {
    static TABLE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut random = Random::new(0x9E37_79B9_7F4A_7C15);
        let period: Vec<u8> = (0..PERIOD).map(|_| random.number() as u8).collect();
        [&period[..], &period[..PIECE]].concat()
    });
    let start = (id.wrapping_mul(7919) + offset) % PERIOD as u64;
    &TABLE[start as usize..start as usize + PIECE]
}

/// A seeded random number generator (xorshift64*, Vigna 2016).
pub struct Random(u64);

impl Random {
    /// `seed` must not be 0.
    pub fn new(seed: u64) -> Random {
        assert_ne!(seed, 0);
        Random(seed)
    }

    /// A generator seeded from `BLACKBOX_SEED`, to repeat a run, or with a new seed. Returns the
    /// seed too.
    pub fn from_environment() -> (Random, u64) {
        let given = std::env::var("BLACKBOX_SEED").ok();
        let seed = match given {
            Some(seed) => seed.parse().expect("BLACKBOX_SEED is a number"),
            None => u64::from(std::process::id()) << 20 | u64::from(now_subsec_nanos()) | 1,
        };
        (Random::new(seed), seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.number() % end
    }
}

fn now_subsec_nanos() -> u32 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(1, |since| since.subsec_nanos())
}
