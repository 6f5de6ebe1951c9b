//! What a seed draws: the flags of a run, and the network and the server that it meets.

use std::time::Duration;

use echopool::internals::ClockError;
use echopool::internals::stamp::{ErrorEstimate, Format};
use fastrand::Rng;

/// How often each fault happens, in thousandths.
#[derive(Clone, Copy, Default, Debug)]
pub struct Faults {
    /// There, and back.
    pub lost: [u32; 2],
    pub doubled: [u32; 2],
    /// By up to the time-out, so that later ones overtake.
    pub slow: [u32; 2],
    /// By more than the time-out.
    pub late: u32,
    pub corrupted: u32,
    pub truncated: u32,
    pub longer: u32,
    /// The kernel refuses to send.
    pub refused: u32,
    /// ICMP says that there is no server.
    pub unreachable: u32,
    /// A socket cannot be opened.
    pub not_opened: u32,
    /// The thread gets no processor for up to three time-outs.
    pub paused: u32,
    /// The same after it has found nothing, before it does anything else.
    pub stopped: u32,
}

/// A run, and its network.
#[derive(Clone, Debug)]
pub struct Drawn {
    pub flags: String,
    pub targets: usize,
    pub faults: Faults,
    pub timeout_ns: u64,
    /// Of each direction, at least, and what is added to it at most.
    pub delay_ns: u64,
    pub jitter_ns: u64,
    pub residence_ns: u64,
    pub busy_poll: bool,
    pub is_stamp: bool,
    pub is_stateful: bool,
    pub kernel_times: bool,
    pub own_error: ClockError,
    pub reflector_error: ErrorEstimate,
    /// How far the reflector's clock is ahead of the generator's.
    pub reflector_ahead_ns: i64,
}

impl Drawn {
    pub fn new(seed: u64) -> Drawn {
        let mut rng = Rng::with_seed(seed ^ 0xda7a_6a35);
        let timeout_ms = rng.u64(2..=40);
        let is_stamp = rng.u8(0..5) < 2;
        let busy_poll = rng.u8(0..12) == 0;
        let targets = [1, 1, 2, 3][rng.usize(0..4)];
        let is_stateful = is_stamp && rng.u8(0..4) > 0;
        let name = match (is_stamp, is_stateful) {
            (false, _) => "udp://world:7",
            (true, false) => "stamp://world:862",
            (true, true) => "stamp://world:862?stateful=on",
        };
        let mut flags = format!("{name} --seed {seed} -t 1 --timeout {timeout_ms}ms");
        flags += &load(&mut rng, is_stamp, timeout_ms);
        let faults = faults(&mut rng, busy_poll);
        if busy_poll {
            flags += " --busy-poll";
        }
        let timeout_ns = timeout_ms * 1_000_000;
        let ahead = match rng.u8(0..4) {
            0 | 1 => 0,
            2 => rng.i64(-200_000..=200_000),
            _ => rng.i64(-3_000_000_000..=3_000_000_000),
        };
        Drawn {
            flags,
            targets,
            faults,
            timeout_ns,
            delay_ns: rng.u64(10_000..=1 + timeout_ns / 8),
            jitter_ns: [0, rng.u64(1..=timeout_ns / 4)][rng.usize(0..2)],
            residence_ns: [0, rng.u64(1..=timeout_ns / 8)][rng.usize(0..2)],
            busy_poll,
            is_stamp,
            is_stateful,
            kernel_times: rng.u8(0..4) > 0,
            own_error: ClockError {
                is_synchronized: rng.u8(0..4) > 0,
                error_ns: rng.u64(0..=2_000_000),
            },
            reflector_error: ErrorEstimate {
                is_synchronized: rng.u8(0..4) > 0,
                format: if rng.u8(0..4) == 0 { Format::Ptp } else { Format::Ntp },
                error_ns: rng.u64(1..=2_000_000),
            },
            reflector_ahead_ns: ahead,
        }
    }

    pub fn timeout(&self) -> Duration {
        Duration::from_nanos(self.timeout_ns)
    }
}

/// Flags for sockets, sizes, and a closed or open loop of a few hundred datagrams.
fn load(rng: &mut Rng, is_stamp: bool, timeout_ms: u64) -> String {
    let sockets = rng.u64(1..=5);
    let pipeline = [1, 1, 2, 8, 40][rng.usize(0..5)];
    let least = if is_stamp { 44 } else { 12 };
    let length = match rng.u8(0..4) {
        0 => format!("{least}"),
        1 => format!("uniform:{least}-{}", least + rng.u64(1..=200)),
        2 => format!("list:{least}:3,{}:1", rng.u64(64..=1_400)),
        _ => format!("{}", rng.u64(64..=1_400)),
    };
    let mut flags = format!(" -c {sockets} -p {pipeline} -l {length}");
    let is_open = rng.bool();
    let rate = rng.u64(200..=4_000);
    if is_open {
        flags += &format!(" -R {rate}");
        flags += ["", " --arrivals poisson", " --strict"][rng.usize(0..3)];
    }
    match rng.u8(0..3) {
        0 => flags += &format!(" -n {}", rng.u64(1..=400).max(sockets)),
        _ if is_open => flags += &format!(" -d {}ms", 1 + 300_000 / rate),
        // The time of as many replies to each socket, if none is lost.
        _ => flags += &format!(" -d {}ms", timeout_ms * rng.u64(1..=20) / pipeline.min(8) + 1),
    }
    if rng.u8(0..3) == 0 {
        flags += &format!(" --warmup {}ms", rng.u64(1..=2 * timeout_ms));
    }
    flags
}

fn faults(rng: &mut Rng, busy_poll: bool) -> Faults {
    let mut some = |of: u32, most: u32| if rng.u32(0..of) == 0 { rng.u32(1..=most) } else { 0 };
    Faults {
        lost: [some(2, 150), some(2, 150)],
        doubled: [some(3, 150), some(3, 150)],
        slow: [some(3, 200), some(2, 200)],
        late: some(3, 150),
        corrupted: some(3, 100),
        truncated: some(3, 100),
        longer: some(6, 50),
        refused: some(8, 50),
        unreachable: some(8, 50),
        not_opened: some(8, 400),
        // A thread that never waits has no place for it.
        paused: if busy_poll { 0 } else { some(6, 30) },
        stopped: if busy_poll { 0 } else { some(6, 30) },
    }
}
