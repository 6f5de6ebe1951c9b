//! Starts the shards of a run at the same time, even if their clocks differ.
//!
//! Shard 0 listens, and each other shard connects when its own connections are established. When
//! all have connected, shard 0 asks each a few times for the time of its clock, and uses the reply
//! with the shortest round trip. The shard read its clock in the middle of that round trip, with an
//! error of at most half of it. Shard 0 then tells each shard when to begin, by that shard's own
//! clock.
//!
//! All messages are lines of text. If a shard is missing, or shard 0 disconnects, the others fail
//! with a message that names it.
//!
//! ```text
//! shard I    echopool-barrier 1 I/N SEED
//! shard 0    clock                      (several times)
//! shard I    UNIX_NANOSECONDS
//! shard 0    begin UNIX_NANOSECONDS AHEAD_NANOSECONDS ERROR_NANOSECONDS
//! ```

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::barrier_files::FileBarrier;
use crate::cli::{BarrierAddress, BarrierPlace, MachinesArgs, StartAt};
use crate::plan::shard::Shard;
use crate::report::schema::ClockComparison;

/// Names the protocol and its version.
const HELLO: &str = "echopool-barrier 1";
/// Longest line.
const LINE_MAX: u64 = 128;
/// How often a clock is asked.
const CLOCK_ASKED: usize = 8;
/// From the moment at which all have been told to the common begin.
const NOTICE: Duration = Duration::from_millis(200);
/// How long a peer may take for a line.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two attempts to connect, or to accept.
const RETRY: Duration = Duration::from_millis(20);

/// What a run waits for when its connections are established.
#[derive(Debug)]
pub enum StartGate {
    /// A time of the wall clock.
    At(SystemTime),
    /// The other shards.
    Barrier { place: BarrierPlace, timeout: Duration, shard: Shard, seed: u64 },
    /// The same, while it is waited for.
    Waiting(Receiver<Result<Begin, String>>),
}

/// When to begin.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Begin {
    /// By this machine's clock.
    pub at: SystemTime,
    /// How this machine's clock stands to that of shard 0, if they were compared.
    pub clock: Option<ClockComparison>,
}

impl StartGate {
    /// What these flags ask for, if anything.
    pub fn new(machines: &MachinesArgs, shard: Shard, seed: u64) -> Option<StartGate> {
        match (&machines.barrier, machines.start_at) {
            (Some(place), _) => Some(StartGate::Barrier {
                place: place.clone(),
                timeout: machines.barrier_timeout,
                shard,
                seed,
            }),
            (None, Some(StartAt(at))) => Some(StartGate::At(at)),
            (None, None) => None,
        }
    }

    /// Called again and again when the run is ready. Returns when to begin as soon as it is known.
    ///
    /// # Errors
    /// The other shards cannot be waited for.
    pub fn poll(&mut self) -> Result<Option<Begin>, String> {
        match self {
            StartGate::At(at) => Ok(Some(Begin { at: *at, clock: None })),
            StartGate::Barrier { place, timeout, shard, seed } => {
                let (send, begin) = channel();
                let (timeout, shard, seed) = (*timeout, *shard, *seed);
                let deadline = Instant::now() + timeout;
                let wait: Box<dyn FnOnce() -> Result<Begin, String> + Send> = match place.clone() {
                    BarrierPlace::Address(address) => {
                        let barrier = Barrier { address, deadline, timeout, shard, seed };
                        Box::new(move || barrier.wait())
                    }
                    BarrierPlace::Directory(directory) => {
                        let barrier = FileBarrier { directory, deadline, timeout, shard, seed };
                        Box::new(move || barrier.wait())
                    }
                };
                // If the run is interrupted, it ends with the process.
                let started =
                    thread::Builder::new().name("barrier".into()).spawn(move || send.send(wait()));
                started.map_err(|error| format!("cannot start a thread: {error}"))?;
                *self = StartGate::Waiting(begin);
                Ok(None)
            }
            StartGate::Waiting(begin) => match begin.try_recv() {
                Ok(begin) => begin.map(Some),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err("the barrier has failed".into()),
            },
        }
    }
}

struct Barrier {
    address: BarrierAddress,
    deadline: Instant,
    timeout: Duration,
    shard: Shard,
    seed: u64,
}

/// A shard that waits at shard 0.
struct Guest {
    shard: Shard,
    lines: Lines,
}

/// A connection on which lines are exchanged.
struct Lines {
    from: BufReader<TcpStream>,
}

impl Lines {
    fn new(stream: TcpStream) -> io::Result<Lines> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Lines { from: BufReader::new(stream) })
    }

    fn write(&mut self, line: &str) -> io::Result<()> {
        self.from.get_mut().write_all(format!("{line}\n").as_bytes())
    }

    /// A line without its end.
    fn read(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.from.by_ref().take(LINE_MAX).read_line(&mut line)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.to_owned()),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Whether the peer is there and has nothing to say.
    fn is_there(&mut self) -> bool {
        let stream = self.from.get_ref();
        if !self.from.buffer().is_empty() || stream.set_nonblocking(true).is_err() {
            return false;
        }
        let peeked = stream.peek(&mut [0]);
        let is_there =
            matches!(peeked, Err(ref error) if error.kind() == io::ErrorKind::WouldBlock);
        is_there && stream.set_nonblocking(false).is_ok()
    }
}

impl Barrier {
    fn wait(&self) -> Result<Begin, String> {
        if self.shard.index == 0 { self.host() } else { self.join() }
    }

    /// Shard 0: waits for all others, and tells them when to begin.
    fn host(&self) -> Result<Begin, String> {
        let address = &self.address;
        let at = (&address.host[..], address.port);
        let listener = TcpListener::bind(at).map_err(|error| {
            format!(
                "shard 0 cannot listen at the barrier {address}: {error}: use an address of the \
                 machine of shard 0, with a free port"
            )
        })?;
        listener.set_nonblocking(true).map_err(|error| format!("barrier {address}: {error}"))?;
        let mut guests: Vec<Guest> = Vec::new();
        loop {
            while (guests.len() as u64) < self.shard.count - 1 {
                if Instant::now() >= self.deadline {
                    return Err(self.who_is_missing(&guests));
                }
                match listener.accept() {
                    Ok((stream, _)) => self.welcome(stream, &mut guests),
                    Err(_) => thread::sleep(RETRY),
                }
                guests.retain_mut(|guest| guest.lines.is_there());
            }
            // One that leaves in between may come again.
            let compared: Vec<_> = guests.iter_mut().map(|guest| guest.lines.compare()).collect();
            let mut all = compared.iter();
            guests.retain(|_| all.next().is_some_and(Result::is_ok));
            let clocks: Vec<_> = compared.into_iter().flatten().collect();
            if (clocks.len() as u64) < self.shard.count - 1 {
                continue;
            }
            let at = SystemTime::now() + NOTICE;
            for (guest, clock) in guests.iter_mut().zip(&clocks) {
                let begin = unix_ns(at).saturating_add(clock.ahead_ns);
                let line = format!("begin {begin} {} {}", clock.ahead_ns, clock.error_max_ns);
                guest.lines.write(&line).map_err(|error| {
                    format!("shard {} has left the barrier: {error}", guest.shard)
                })?;
            }
            return Ok(Begin { at, clock: Some(ClockComparison { ahead_ns: 0, error_max_ns: 0 }) });
        }
    }

    fn welcome(&self, stream: TcpStream, guests: &mut Vec<Guest>) {
        let Ok(mut lines) = Lines::new(stream) else { return };
        // Whoever says something else is not a shard.
        let Ok(hello) = lines.read() else { return };
        match self.check(&hello, guests) {
            Ok(shard) => guests.push(Guest { shard, lines }),
            Err(why) => {
                let _ = lines.write(&format!("refused {why}"));
                let _ = lines.from.get_ref().shutdown(Shutdown::Write);
            }
        }
    }

    fn check(&self, hello: &str, guests: &[Guest]) -> Result<Shard, String> {
        let words = hello.strip_prefix(HELLO).and_then(|rest| rest.trim_start().split_once(' '));
        let parsed = words.and_then(|(shard, seed)| {
            Some((shard.parse::<Shard>().ok()?, seed.parse::<u64>().ok()?))
        });
        let (shard, seed) = parsed.ok_or("not a shard of this version of loadgen")?;
        let count = self.shard.count;
        match shard {
            _ if shard.count != count => Err(format!("this is a run of {count} shards")),
            Shard { index: 0, .. } => Err("shard 0 listens and does not connect".into()),
            _ if seed != self.seed => Err(format!("the seed of this run is {}", self.seed)),
            _ if guests.iter().any(|guest| guest.shard == shard) => {
                Err(format!("shard {shard} has already connected"))
            }
            _ => Ok(shard),
        }
    }

    fn who_is_missing(&self, guests: &[Guest]) -> String {
        let is_there = |index: &u64| guests.iter().any(|guest| guest.shard.index == *index);
        let missing: Vec<_> = (1..self.shard.count).filter(|index| !is_there(index)).collect();
        who_is_missing(self.shard.count, &self.address, self.timeout, &missing)
    }

    /// Another shard: connects, and waits to be told when to begin.
    fn join(&self) -> Result<Begin, String> {
        let (shard, address) = (self.shard, &self.address);
        let mut lines = self.connect()?;
        let failed = |error: io::Error| {
            format!(
                "shard {shard}: the barrier at {address} has closed without a start time: {error}"
            )
        };
        lines.write(&format!("{HELLO} {shard} {}", self.seed)).map_err(failed)?;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let wait = left.max(Duration::from_millis(1));
            lines.from.get_ref().set_read_timeout(Some(wait)).map_err(failed)?;
            let line = match lines.read() {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => {
                    return Err(format!(
                        "shard {shard}: the barrier at {address} did not open within {:?} \
                         (--barrier-timeout)",
                        self.timeout
                    ));
                }
                line => line.map_err(failed)?,
            };
            match line.split_once(' ') {
                None if line == "clock" => {
                    lines.write(&unix_ns(SystemTime::now()).to_string()).map_err(failed)?;
                }
                Some(("refused", why)) => {
                    return Err(format!("shard {shard}: rejected at the barrier {address}: {why}"));
                }
                Some(("begin", numbers)) => {
                    let begin = parse_begin(numbers);
                    return begin.ok_or_else(|| format!("shard {shard}: no time in '{line}'"));
                }
                _ => return Err(format!("shard {shard}: there is no barrier at {address}")),
            }
        }
    }

    fn connect(&self) -> Result<Lines, String> {
        let address = &self.address;
        loop {
            let attempt = (&address.host[..], address.port)
                .to_socket_addrs()
                .and_then(|mut all| all.next().ok_or(io::ErrorKind::NotFound.into()))
                .and_then(|at| TcpStream::connect_timeout(&at, PATIENCE))
                .and_then(Lines::new);
            match attempt {
                Ok(lines) => return Ok(lines),
                // Shard 0 may come later, and its name be known later.
                Err(_) if Instant::now() < self.deadline => thread::sleep(RETRY),
                Err(error) => {
                    return Err(format!(
                        "shard {}: shard 0 did not listen at the barrier {address} within {:?} \
                         (--barrier-timeout): {error}",
                        self.shard, self.timeout
                    ));
                }
            }
        }
    }
}

impl Lines {
    /// Compares the peer's clock with this machine's.
    fn compare(&mut self) -> io::Result<ClockComparison> {
        let mut best: Option<ClockComparison> = None;
        for _ in 0..CLOCK_ASKED {
            // First the start of the round trip: a pause between the two makes it longer, and the
            // stated error with it.
            let (since, before) = (Instant::now(), unix_ns(SystemTime::now()));
            self.write("clock")?;
            let line = self.read()?;
            let half = (since.elapsed() / 2).as_nanos() as u64;
            let theirs: i64 = line.parse().map_err(|_| io::ErrorKind::InvalidData)?;
            let ahead_ns = theirs.saturating_sub(before.saturating_add(half as i64));
            if best.is_none_or(|best| half < best.error_max_ns) {
                best = Some(ClockComparison { ahead_ns, error_max_ns: half });
            }
        }
        best.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// Names the shards that did not come.
pub fn who_is_missing(
    count: u64,
    place: &dyn fmt::Display,
    timeout: Duration,
    missing: &[u64],
) -> String {
    const NAMED: usize = 8;
    let mut names: Vec<_> = missing.iter().take(NAMED).map(u64::to_string).collect();
    if missing.len() > NAMED {
        names.push(format!("{} more", missing.len() - NAMED));
    }
    format!(
        "of {count} shards these did not arrive at the barrier {place} within {timeout:?}: {} \
         (--barrier-timeout)",
        names.join(", ")
    )
}

fn parse_begin(numbers: &str) -> Option<Begin> {
    let mut words = numbers.split(' ');
    let at = Duration::from_nanos(words.next()?.parse().ok()?);
    let clock = ClockComparison {
        ahead_ns: words.next()?.parse().ok()?,
        error_max_ns: words.next()?.parse().ok()?,
    };
    Some(Begin { at: SystemTime::UNIX_EPOCH.checked_add(at)?, clock: Some(clock) })
}

fn unix_ns(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::process;
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    /// A free port that the system chooses for nobody by default (`ip_local_port_range`). One that
    /// it has chosen it may choose again for another test.
    fn address() -> BarrierAddress {
        const OF_PROCESS: u32 = 16;
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = || {
            let number = process::id().wrapping_mul(OF_PROCESS);
            let number = number.wrapping_add(NEXT.fetch_add(1, Relaxed));
            (10_000 + number % 22_000) as u16
        };
        let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
        let port = std::iter::repeat_with(next).take(1_000).find(is_free).expect("a free port");
        BarrierAddress { host: "127.0.0.1".into(), port }
    }

    fn barrier(address: &BarrierAddress, index: u64, count: u64, seconds: u64) -> Barrier {
        let timeout = Duration::from_secs(seconds);
        Barrier {
            address: address.clone(),
            deadline: Instant::now() + timeout,
            timeout,
            shard: Shard { index, count },
            seed: 1,
        }
    }

    fn spawn(barrier: Barrier) -> thread::JoinHandle<Result<Begin, String>> {
        thread::spawn(move || barrier.wait())
    }

    #[test]
    fn all_are_told_the_same_time_by_their_own_clocks() {
        let address = address();
        // Shard 0 comes last.
        let others: Vec<_> = (1..5).map(|nth| spawn(barrier(&address, nth, 5, 60))).collect();
        thread::sleep(3 * RETRY);
        // Who is not a shard does not disturb.
        let first = spawn(barrier(&address, 0, 5, 60));
        let begin = first.join().expect("no panic").expect("all come");
        for other in others {
            let other = other.join().expect("no panic").expect("all come");
            let clock = other.clock.expect("compared");
            assert_eq!(unix_ns(other.at) - clock.ahead_ns, unix_ns(begin.at));
            // It is one clock.
            assert!(clock.ahead_ns.unsigned_abs() <= clock.error_max_ns + 1_000, "{clock:?}");
        }
    }

    #[test]
    fn strangers_and_wrong_shards_are_sent_away_with_the_reason() {
        let address = address();
        let first = spawn(barrier(&address, 0, 3, 60));
        let say = |text: &str| {
            let mut stream = loop {
                match TcpStream::connect((&address.host[..], address.port)) {
                    Ok(stream) => break stream,
                    Err(_) => thread::sleep(RETRY),
                }
            };
            stream.write_all(text.as_bytes()).expect("it is connected");
            stream.shutdown(Shutdown::Write).expect("it is connected");
            let mut reply = String::new();
            stream.read_to_string(&mut reply).expect("closed in order");
            reply
        };
        assert_eq!(say("GET / HTTP/1.1\r\n"), "refused not a shard of this version of loadgen\n");
        assert_eq!(say("no end of a line"), "");
        assert_eq!(say("echopool-barrier 1 1/4 1\n"), "refused this is a run of 3 shards\n");
        assert_eq!(
            say("echopool-barrier 1 0/3 1\n"),
            "refused shard 0 listens and does not connect\n"
        );
        assert_eq!(say("echopool-barrier 1 1/3 2\n"), "refused the seed of this run is 1\n");
        let mut second = spawn(barrier(&address, 1, 3, 60));
        let twice = loop {
            // It was refused if one of these came first and was not gone yet.
            if second.is_finished() {
                second = spawn(barrier(&address, 1, 3, 60));
            }
            // The other one may not be there yet.
            let twice = say("echopool-barrier 1 1/3 1\n");
            if !twice.is_empty() {
                break twice;
            }
        };
        assert_eq!(twice, "refused shard 1/3 has already connected\n");
        let third = spawn(barrier(&address, 2, 3, 60));
        for thread in [first, second, third] {
            assert!(thread.join().expect("no panic").is_ok());
        }
    }

    #[test]
    fn who_does_not_come_is_named_and_nobody_waits_for_ever() {
        let address = address();
        let second = spawn(barrier(&address, 1, 4, 60));
        let error = spawn(barrier(&address, 0, 4, 5)).join().expect("no panic").expect_err("two");
        assert!(error.contains("of 4 shards these did not arrive"), "{error}");
        assert!(error.contains("within 5s: 2, 3 (--barrier-timeout)"), "{error}");
        let error = second.join().expect("no panic").expect_err("shard 0 has gone");
        assert!(error.starts_with("shard 1/4: the barrier at 127.0.0.1:"), "{error}");
        let error = barrier(&address, 2, 4, 0).wait().expect_err("nobody listens");
        assert!(error.contains("shard 2/4: shard 0 did not listen at the barrier"), "{error}");
    }
}
