//! The users of the clients: which operations they start and when, from other threads and in
//! callbacks, and how each operation ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use crate::base::time::Time;
use crate::client::submission::Submission;
use crate::client::target::Target;
use crate::client::{Canceller, Client, Error, Failed, Options, Pending, Reconnect, State, Unsent};
use crate::protocol::framing::{ByteOrder, Delimiter, Framing};
use crate::sim::clock;
use crate::sim::marks::{Mark, Marks};
use crate::sim::world::{Route, World, address_of};

/// Number of addresses of each client.
pub(super) const ADDRESSES: usize = 4;
/// Maximum number of operations that callbacks start, over all callers.
const FROM_CALLBACKS_MAX: u32 = 60;
/// Maximum number of operations of a caller, and of callers in one world.
const OPERATIONS_MAX: usize = 40;
const CALLERS_MAX: usize = 12;
/// Longest time between the deadline of a request and its end: the tick of deadlines, the tick that
/// times are rounded up by, and late turns of the loop. A connect first finishes the current round
/// of attempts, because that gives a more exact error.
const LATE: Duration = Duration::from_millis(5);
const CONNECT_LATE: Duration = Duration::from_millis(55);
/// Number of operations that the number on the wire distinguishes.
const NUMBERS: usize = 1 << 16;

/// An operation that a caller starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum CallerOperation {
    Connect(Duration),
    Send(usize),
    Request(usize, Duration),
    Receive(usize),
    Message,
    ToEnd(usize),
    HalfClose,
    Disconnect,
}

impl CallerOperation {
    pub(super) fn sends(self) -> bool {
        matches!(self, CallerOperation::Send(_) | CallerOperation::Request(..))
    }

    pub(super) fn has_reply(self) -> bool {
        self.receives() || matches!(self, CallerOperation::Request(..))
    }

    pub(super) fn receives(self) -> bool {
        matches!(
            self,
            CallerOperation::Receive(_) | CallerOperation::Message | CallerOperation::ToEnd(_)
        )
    }
}

/// An operation and its result.
pub(super) struct Record {
    pub(super) caller: usize,
    pub(super) what: CallerOperation,
    pub(super) due: Option<Time>,
    /// The bytes that it sends.
    pub(super) data: Vec<u8>,
    pub(super) canceller: Option<Canceller>,
    pub(super) was_cancelled: bool,
    /// A callback tried to wait for it and was refused, so its result is unknown.
    pub(super) refused: bool,
    pub(super) ended: Option<Result<Vec<u8>, Failed>>,
}

/// The record of what all callers did.
pub(super) struct CallerLog {
    rng: fastrand::Rng,
    pub(super) records: Vec<Record>,
    /// The operations in the order in which they ended.
    pub(super) order: Vec<usize>,
    pub(super) wrong: Option<String>,
    pub(super) marks: Marks,
    from_callbacks: u32,
    /// Trace lines not yet written, because a callback has no access to the world.
    pub(super) untold: Vec<(usize, String)>,
    /// Callbacks start no more operations.
    resting: bool,
    /// For each caller, whether it is connected.
    pub(super) connected: Vec<bool>,
    /// From when to when the process was last suspended.
    pub(super) suspended: (Time, Time),
}

/// The log, shared with callbacks.
pub(super) struct SharedLog {
    log: Mutex<CallerLog>,
    in_callback: AtomicBool,
}

impl SharedLog {
    pub(super) fn log(&self) -> std::sync::MutexGuard<'_, CallerLog> {
        self.log.lock().expect("no thread panics while it holds the log")
    }
}

/// What a caller does with its client.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    pub(super) framing: Option<Framing>,
    /// It makes only requests, to servers that echo or stay silent: each reply equals its request.
    pub(super) requests_only: bool,
    /// It never disconnects and makes no requests, so nothing sent to it may be lost.
    pub(super) listens: bool,
}

/// A client and its user.
pub(super) struct Caller {
    client: Option<Arc<Client>>,
    pub(super) dropped_at: Option<Time>,
    pub(super) manners: Manners,
    pub(super) keeps: bool,
    /// None of its addresses ever replies.
    pub(super) hopeless: bool,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) look_up_takes: Duration,
    length_max: usize,
    left: usize,
}

/// All callers.
pub(super) struct Callers {
    pub(super) all: Vec<Caller>,
    pub(super) shared: Arc<SharedLog>,
    submission: Arc<Submission>,
}

impl Callers {
    pub(super) fn new(seed: u64, submission: Arc<Submission>) -> Callers {
        let log = CallerLog {
            rng: fastrand::Rng::with_seed(seed ^ 0xca11),
            records: Vec::new(),
            order: Vec::new(),
            wrong: None,
            marks: Marks::default(),
            from_callbacks: 0,
            untold: Vec::new(),
            resting: false,
            connected: Vec::new(),
            suspended: (Time::ZERO, Time::ZERO),
        };
        let shared = SharedLog { log: Mutex::new(log), in_callback: AtomicBool::new(false) };
        Callers { all: Vec::new(), shared: Arc::new(shared), submission }
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Adds a caller. Returns whether the loop had room for its client.
    pub(super) fn add(&mut self, world: &mut World) -> bool {
        let number = self.all.len();
        if number == CALLERS_MAX {
            return false;
        }
        let window = world.rates.window;
        let rng = &mut world.rng;
        let framing = match rng.u8(0..4) {
            0 => Some(Framing::Length { order: ByteOrder::Little, max: 4000 }),
            1 => {
                let delimiter = Delimiter::new(&[0xFF, 0xFE]).expect("two bytes");
                Some(Framing::Delimiter { delimiter, max: 4000 })
            }
            _ => None,
        };
        let kind = rng.u8(0..6);
        let connect_timeout = Duration::from_millis(*rng.choice(&[50, 2_000, 20_000]).expect("s"));
        let (options, keeps) = options(rng, framing, connect_timeout, &self.shared, number);
        let addresses: Vec<_> = addresses_of(number)[..rng.usize(1..=ADDRESSES)].to_vec();
        let hopeless = rng.u8(0..10) == 0;
        draw_routes(world, &addresses, hopeless);
        let rng = &mut world.rng;
        let named = rng.bool();
        let target = Target {
            host: format!("h{number}"),
            port: 1,
            literal: if named {
                Vec::new()
            } else {
                addresses.iter().map(|&address| address.into()).collect()
            },
            framing,
            service: crate::builtin::url::ServiceOptions::Echo,
            #[cfg(feature = "tls")]
            tls: None,
        };
        let Ok(client) = Client::new(&self.submission, target, options) else {
            world.mark(Mark::TooManyClients);
            return false;
        };
        self.shared.log().connected.push(false);
        self.all.push(Caller {
            client: Some(Arc::new(client)),
            dropped_at: None,
            manners: Manners { framing, requests_only: kind == 0, listens: kind == 1 },
            keeps,
            hopeless,
            addresses,
            look_up_takes: Duration::from_micros(*rng.choice(&[100, 30_000, 900_000]).expect("s")),
            length_max: match window {
                1 => 40,
                7 => 200,
                _ => 2000,
            },
            left: rng.usize(5..=OPERATIONS_MAX),
        });
        true
    }

    /// Lets a caller act. Returns its longest pause, or `None` if it dropped its client.
    pub(super) fn act(&mut self, number: usize, world: &mut World) -> Option<Duration> {
        let pause = Duration::from_millis(*world.rng.choice(&[1, 30, 400]).expect("some"));
        let caller = &mut self.all[number];
        let client = caller.client.clone().expect("it acts until it drops its client");
        match world.rng.u8(0..40) {
            0 if number + 1 < CALLERS_MAX => {
                world.mark(Mark::ClientDropped);
                caller.client = None;
                caller.dropped_at = Some(world.now);
                return None;
            }
            1..=5 => self.cancel(number, world),
            _ if caller.left > 0 => {
                // Several at once, so that they queue behind each other.
                for _ in 0..world.rng.usize(1..=4) {
                    caller.left = caller.left.saturating_sub(1);
                    let what = caller.choose(&mut world.rng);
                    begin(&self.shared, &client, number, caller.manners, what);
                }
            }
            _ => {}
        }
        Some(pause)
    }

    fn cancel(&mut self, number: usize, world: &mut World) {
        let mut log = self.shared.log();
        let mine = |record: &Record| record.caller == number && record.ended.is_none();
        let mine: Vec<usize> = (0..log.records.len()).filter(|&n| mine(&log.records[n])).collect();
        let Some(&nth) = world.rng.choice(&mine) else { return };
        let record = &mut log.records[nth];
        record.was_cancelled = true;
        let canceller = record.canceller.clone();
        world.trace(63, number, nth as u64, || format!("caller {number} cancels {nth}"));
        drop(log);
        if let Some(canceller) = canceller {
            canceller.cancel();
        }
    }

    /// Stops callers and callbacks from starting operations.
    pub(super) fn rest(&mut self) {
        self.shared.log().resting = true;
    }

    /// Drops all clients.
    pub(super) fn leave(&mut self) {
        self.all.iter_mut().for_each(|caller| caller.client = None);
    }

    pub(super) fn under_way(&self) -> usize {
        self.shared.log().records.iter().filter(|record| record.is_under_way()).count()
    }

    pub(super) fn describe_waiting(&self) -> String {
        let log = self.shared.log();
        let waiting = log.records.iter().enumerate().filter(|(_, record)| record.is_under_way());
        let waiting: Vec<_> = waiting.map(|(nth, of)| (nth, of.caller, of.what)).collect();
        format!("in flight are {waiting:?}")
    }
}

impl Record {
    /// Whether it is in flight and its result is expected.
    pub(super) fn is_under_way(&self) -> bool {
        self.ended.is_none() && !self.refused
    }
}

/// Draws a client's options, and whether it keeps unsent data.
fn options(
    rng: &mut fastrand::Rng,
    framing: Option<Framing>,
    connect_timeout: Duration,
    shared: &Arc<SharedLog>,
    number: usize,
) -> (Options, bool) {
    let shared = shared.clone();
    let mut options = Options::new()
        .connect_timeout(connect_timeout)
        .on_state(move |state| shared.state(number, state));
    if let Some(framing) = framing {
        options = options.framing(framing);
    }
    let keeps = rng.bool();
    if rng.u8(0..4) != 0 {
        let shortest = Duration::from_millis(rng.u64(1..100));
        let mut reconnect = Reconnect::between(shortest, shortest * rng.u32(1..10));
        if rng.u8(0..4) == 0 {
            reconnect = reconnect.attempts_max(rng.u32(1..4));
        }
        options = options.reconnect(reconnect);
    }
    (options.unsent(if keeps { Unsent::Keep } else { Unsent::Report }), keeps)
}

fn draw_routes(world: &mut World, addresses: &[SocketAddr], hopeless: bool) {
    for (nth, &address) in addresses.iter().enumerate() {
        let last = nth + 1 == addresses.len();
        let route = match world.rng.u8(0..10) {
            _ if hopeless => Route::Silent,
            0 => Route::Refused,
            1 => Route::Late(Duration::from_millis(world.rng.u64(1..3_000))),
            2 if !last => Route::Silent,
            _ => continue,
        };
        world.routes.insert(address, route);
    }
}

impl Caller {
    fn choose(&self, rng: &mut fastrand::Rng) -> CallerOperation {
        let Manners { framing, requests_only, listens } = self.manners;
        let length = rng.usize(3..=self.length_max);
        let soon = Duration::from_millis(*rng.choice(&[5, 300, 5_000]).expect("some"));
        if requests_only {
            return match rng.u8(0..10) {
                0 | 1 => CallerOperation::Connect(soon),
                2 => CallerOperation::Disconnect,
                _ => CallerOperation::Request(length, soon),
            };
        }
        match rng.u8(0..24) {
            0..=3 => CallerOperation::Connect(soon),
            4..=8 => CallerOperation::Send(length),
            9..=12 if !listens => CallerOperation::Request(length, soon),
            13..=16 => CallerOperation::Receive(rng.usize(1..=length)),
            17..=20 if framing.is_some() => CallerOperation::Message,
            21 if rng.bool() => CallerOperation::ToEnd(10 * self.length_max),
            22 if rng.bool() => CallerOperation::HalfClose,
            23 if !listens => CallerOperation::Disconnect,
            _ => CallerOperation::Receive(rng.usize(1..=length)),
        }
    }
}

impl Manners {
    /// Draws the operation that a callback starts.
    fn next(self, rng: &mut fastrand::Rng) -> CallerOperation {
        match rng.u8(0..3) {
            _ if self.requests_only => {
                CallerOperation::Request(rng.usize(3..30), Duration::from_millis(700))
            }
            0 if !self.listens => {
                CallerOperation::Request(rng.usize(3..30), Duration::from_millis(700))
            }
            1 => CallerOperation::Send(rng.usize(3..30)),
            _ => CallerOperation::Receive(rng.usize(1..30)),
        }
    }
}

impl SharedLog {
    fn state(&self, caller: usize, state: &State) {
        let mut log = self.log();
        log.untold.push((caller, format!("caller {caller}: {state:?}")));
        log.connected[caller] = matches!(state, State::Connected { .. });
        log.marks.hit(match state {
            State::Connecting => Mark::ClientConnecting,
            State::Connected { .. } => Mark::ClientConnected,
            State::Waiting { .. } => Mark::ClientWaited,
            State::Closed { why: Error::Cancelled } => Mark::ClientClosed,
            State::Closed { .. } => Mark::ClientGaveUp,
        });
    }
}

/// The bytes that operation `number` sends. They contain the number, and mark their first byte.
pub(super) fn data_of(number: usize, length: usize) -> Vec<u8> {
    let n = number % NUMBERS;
    let header = [0x80 | (n >> 10) as u8, 0xC0 | (n >> 5 & 31) as u8, 0xC0 | (n & 31) as u8];
    let body = (3..length).map(|at| (number * 31 + at * 7 + at / 100) as u8 & 0x7F);
    header.into_iter().chain(body).collect()
}

/// Starts an operation and logs its result.
fn begin(
    shared: &Arc<SharedLog>,
    client: &Arc<Client>,
    caller: usize,
    manners: Manners,
    what: CallerOperation,
) {
    let mut log = shared.log();
    let nth = log.records.len();
    let data = match what {
        CallerOperation::Send(length) | CallerOperation::Request(length, _) => data_of(nth, length),
        _ => Vec::new(),
    };
    let due = match what {
        CallerOperation::Connect(timeout) | CallerOperation::Request(_, timeout) => {
            Some(clock::now() + timeout)
        }
        _ => None,
    };
    log.untold.push((nth, format!("caller {caller} begins {nth}: {what:?}")));
    log.records.push(Record {
        caller,
        what,
        due,
        data: data.clone(),
        canceller: None,
        was_cancelled: false,
        refused: false,
        ended: None,
    });
    drop(log);
    let ends = Ends { shared: shared.clone(), client: Arc::downgrade(client), nth, manners };
    match what {
        CallerOperation::Connect(timeout) => ends.hear(client.connect(timeout), |_| Vec::new()),
        CallerOperation::Send(_) => ends.hear(client.send(data), |sent| sent),
        CallerOperation::Request(_, timeout) => {
            ends.hear(client.send_receive(data, timeout), |reply| reply)
        }
        CallerOperation::Receive(room) => {
            ends.hear(client.receive(Vec::with_capacity(room)), |got| got)
        }
        CallerOperation::Message => ends.hear(client.receive_message(Vec::new()), |got| got),
        CallerOperation::ToEnd(max) => ends.hear(client.receive_to_end(Vec::new(), max), |got| got),
        CallerOperation::HalfClose => ends.hear(client.half_close(), |()| Vec::new()),
        CallerOperation::Disconnect => ends.hear(client.disconnect(), |()| Vec::new()),
    }
}

/// Logs the result of an operation.
struct Ends {
    shared: Arc<SharedLog>,
    client: Weak<Client>,
    nth: usize,
    manners: Manners,
}

impl Ends {
    fn hear<T: 'static>(
        self,
        pending: Pending<T>,
        bytes: impl FnOnce(T) -> Vec<u8> + Send + 'static,
    ) {
        self.shared.log().records[self.nth].canceller = Some(pending.canceller());
        if self.shared.in_callback.load(Ordering::Relaxed) && self.waits() {
            // Refused unless it has already completed.
            let result = pending.wait().map(bytes);
            let mut log = self.shared.log();
            let refused = matches!(&result, Err(failed) if failed.error == Error::OnLoopThread);
            if refused {
                log.marks.hit(Mark::WaitRefused);
                log.records[self.nth].refused = true;
            } else {
                log.note(self.nth, result);
            }
            return;
        }
        pending.on_complete(move |result| {
            let shared = self.shared.clone();
            if shared.in_callback.swap(true, Ordering::Relaxed) {
                let text = "a callback runs on the stack of another callback".to_string();
                shared.log().wrong.get_or_insert(text);
            }
            self.ended(result.map(bytes));
            shared.in_callback.store(false, Ordering::Relaxed);
        });
    }

    /// Whether a callback tries to wait for the operation that it starts, which is not allowed.
    fn waits(&self) -> bool {
        self.shared.log().rng.u8(0..6) == 0
    }

    /// The callback of an operation. It may start another operation.
    fn ended(self, result: Result<Vec<u8>, Failed>) {
        let mut log = self.shared.log();
        log.note(self.nth, result);
        let caller = log.records[self.nth].caller;
        if log.resting || log.from_callbacks >= FROM_CALLBACKS_MAX || log.rng.u8(0..3) != 0 {
            return;
        }
        log.from_callbacks += 1;
        let what = self.manners.next(&mut log.rng);
        log.marks.hit(Mark::BegunInCallback);
        drop(log);
        if let Some(client) = self.client.upgrade() {
            begin(&self.shared, &client, caller, self.manners, what);
        }
    }
}

impl CallerLog {
    /// Logs the result of an operation, and checks it as far as possible on its own.
    fn note(&mut self, nth: usize, result: Result<Vec<u8>, Failed>) {
        let now = clock::now();
        let record = &mut self.records[nth];
        if record.ended.is_some() {
            self.wrong.get_or_insert(format!("operation {nth} completed twice"));
            return;
        }
        if let Some(due) = record.due.map(|due| due.max(self.suspended.1)) {
            let late = if matches!(record.what, CallerOperation::Connect(_)) {
                CONNECT_LATE
            } else {
                LATE
            };
            if now > due + late {
                let late = now - due;
                self.wrong
                    .get_or_insert(format!("operation {nth} ended {late:?} after its deadline"));
            }
        }
        let text = match &result {
            Ok(bytes) => format!("operation {nth} ends with {} bytes", bytes.len()),
            Err(failed) => format!("operation {nth} ends with {failed:?}"),
        };
        self.untold.push((nth, text));
        mark(&mut self.marks, record, &result);
        record.ended = Some(result);
        self.order.push(nth);
    }
}

fn mark(marks: &mut Marks, record: &Record, result: &Result<Vec<u8>, Failed>) {
    let Err(failed) = result else {
        return marks.hit(match record.what {
            CallerOperation::Connect(_) => Mark::ConnectDone,
            CallerOperation::Send(_) => Mark::SendDone,
            CallerOperation::Request(..) => Mark::RequestDone,
            CallerOperation::Receive(_) => Mark::ReceiveDone,
            CallerOperation::Message => Mark::ReceiveMessageDone,
            CallerOperation::ToEnd(_) => Mark::ReceiveToEndDone,
            CallerOperation::HalfClose => Mark::HalfCloseDone,
            CallerOperation::Disconnect => Mark::DisconnectDone,
        });
    };
    let (what, sent) = (record.what, failed.bytes_sent);
    let in_part = sent > 0 && sent < record.data.len();
    marks.hit(match &failed.error {
        Error::Resolve { .. } => Mark::FailedResolve,
        Error::Refused(_) => Mark::FailedRefused,
        Error::ConnectTimedOut(_) => Mark::FailedConnectTimedOut,
        Error::Unreachable(_) => Mark::FailedUnreachable,
        Error::TimedOut => Mark::FailedTimedOut,
        Error::SendTimedOut => Mark::FailedSendTimedOut,
        Error::ClosedByPeer => Mark::FailedClosedByPeer,
        Error::Reset if what.receives() && !failed.buffer.is_empty() => Mark::ResetInReceive,
        Error::Reset if in_part => Mark::ResetInSend,
        Error::Reset => Mark::FailedReset,
        Error::FrameTooLarge(_) => Mark::FailedFrameTooLarge,
        Error::TooLong(_) => Mark::FailedTooLong,
        Error::Cancelled if what.receives() => Mark::CancelledReceive,
        Error::Cancelled if in_part => Mark::CancelledInSend,
        Error::Cancelled if matches!(what, CallerOperation::Connect(_)) => Mark::CancelledConnect,
        Error::Cancelled if sent > 0 => Mark::CancelledAfterSend,
        Error::Cancelled => Mark::CancelledBeforeSend,
        Error::NotConnected => Mark::FailedNotConnected,
        Error::AlreadyConnected => Mark::FailedAlreadyConnected,
        Error::HalfClosed => Mark::FailedHalfClosed,
        Error::QueueFull => Mark::FailedQueueFull,
        Error::LoopEnded => Mark::FailedLoopEnded,
        _ => Mark::FailedOtherwise,
    });
}

/// The addresses of a caller's client.
fn addresses_of(caller: usize) -> [SocketAddr; ADDRESSES] {
    std::array::from_fn(|nth| address_of(caller * ADDRESSES + nth))
}
