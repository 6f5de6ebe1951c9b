//! What must hold for a loop and its clients: after every turn, after the faults have ended, and
//! after the loop has ended.

use std::time::Duration;

use super::ClientWorld;
use super::caller::{ADDRESSES, CallerLog, CallerOperation, Record, data_of};
use super::server::{Server, wire};
use crate::base::time::Time;
use crate::client::Error;
use crate::protocol::framing::{Framing, LENGTH_BYTES};
use crate::sim::marks::Mark;
use crate::sim::seat::Seat;
use crate::sim::world::peer_of;
use crate::worker::Worker;

/// Length of a partial message on the wire that is enough to know its number.
const NUMBER_KNOWN_AFTER: usize = LENGTH_BYTES + 3;

/// Longest time until the loop notices that a client was dropped.
const DROPPED_FOR_MAX: Duration = Duration::from_millis(5);

/// Longest time until a loop that runs has seen what came: readiness may be reported 5 ms late.
const SEEN_AFTER_MAX: Duration = Duration::from_millis(10);

/// Events that destroy bytes in transit.
const DESTROYERS: [Mark; 13] = [
    Mark::BacklogReset,
    Mark::ServerReset,
    Mark::RecvReset,
    Mark::RecvTimedOut,
    Mark::RecvNomem,
    Mark::RecvHostunreach,
    Mark::SendPipe,
    Mark::SendReset,
    Mark::SendNobufs,
    Mark::SendNomem,
    Mark::SendTimedout,
    Mark::SendNetunreach,
    Mark::ShutdownNotconn,
];

impl<E: Seat> ClientWorld<E> {
    pub(super) fn check(&mut self) {
        let open = self.worker.as_ref().map_or(0, Worker::open);
        assert_eq!(
            self.world.borrow().open(),
            open,
            "numbers of open sockets and connections differ"
        );
        let mut log = self.callers.shared.log();
        for (nth, text) in log.untold.drain(..) {
            self.world.borrow_mut().trace(64, nth, 0, || text);
        }
        let wrong = log.wrong.take();
        if let Some(wrong) = wrong {
            panic!("{wrong}");
        }
        {
            let world = self.world.borrow();
            let count = DESTROYERS.iter().map(|&mark| world.marks.count(mark)).sum();
            if count != self.destroyed.0 {
                self.destroyed = (count, world.now);
            }
        }
        for &nth in &log.order[self.ended_checked..] {
            let record = &log.records[nth];
            // A request that is cancelled after a part of it was sent closes its connection unread.
            if record.was_cancelled
                && matches!(&record.ended, Some(Err(failed)) if failed.bytes_sent > 0)
            {
                self.closed_by_cancel[record.caller] = self.world.borrow().now;
            }
            // A connection that is finished for a disconnect behind the request is not read either.
            let mut behind = log.records[nth..].iter();
            let finishes = behind.any(|other| {
                other.caller == record.caller && other.what == CallerOperation::Disconnect
            });
            if !finishes {
                self.check_timed_out(nth, record, log.suspended);
            }
        }
        self.ended_checked = log.order.len();
    }

    /// Checks that a request has not timed out right after a suspension although bytes for it came
    /// meanwhile.
    fn check_timed_out(&self, nth: usize, record: &Record, (from, until): (Time, Time)) {
        // Not one that was never sent.
        let timed_out = matches!(
            &record.ended,
            Some(Err(failed)) if failed.error == Error::TimedOut && failed.bytes_sent > 0
        );
        let world = self.world.borrow();
        // One whose own time is not over has ended with another on its connection.
        let is_due = record.due.is_some_and(|due| due <= world.now);
        let closes = self.closed_by_cancel[record.caller] >= until || self.destroyed.1 >= until;
        if !timed_out || !is_due || closes || self.waited || world.now > until + SEEN_AFTER_MAX {
            return;
        }
        let server = self.servers.iter().rfind(|server| server.caller == record.caller);
        let since = server.and_then(|server| server.unseen_by_client(&world));
        let overlooked = since.filter(|since| (from..until).contains(since));
        let requests_only = self.callers.all[record.caller].manners.requests_only;
        assert!(
            !requests_only || overlooked.is_none(),
            "request {nth} timed out at {:?}, but bytes had come at {since:?}",
            record.due
        );
    }

    /// Checks that the loop does nothing for a dropped client.
    pub(super) fn check_dropped(&self) {
        let world = self.world.borrow();
        for address in world.connecting_to() {
            let caller = peer_of(address.into()) / ADDRESSES;
            let dropped = self.callers.all[caller].dropped_at;
            let late = dropped.is_some_and(|at| at + DROPPED_FOR_MAX < world.now);
            assert!(!late, "caller {caller} dropped its client, which still connects: {address}");
        }
    }

    /// The faults ended long ago: checks that every operation that can end has ended.
    pub(super) fn check_settled(&self) {
        let log = self.callers.shared.log();
        for (nth, record) in log.records.iter().enumerate() {
            let hopeless = self.callers.all[record.caller].hopeless;
            let waits = record.is_under_way() && !record.what.receives() && !hopeless;
            assert!(
                !waits,
                "operation {nth} of caller {} still waits: {:?}",
                record.caller, record.what
            );
        }
        for caller in 0..self.callers.len() {
            let mine = |of: &&Record| of.caller == caller && of.is_under_way();
            let first = log.records.iter().find(mine).map(|record| record.what);
            if let Some(what) = first.filter(|what| what.receives()) {
                self.check_fed(&log, caller, what);
            }
        }
    }

    /// Checks that no receive waits although its bytes have arrived.
    fn check_fed(&self, log: &CallerLog, caller: usize, what: CallerOperation) {
        if self.callers.all[caller].hopeless {
            return;
        }
        let servers = self.servers_of(caller);
        let delivered = self.follow(log, caller, &servers);
        let Some((last, server)) = servers.iter().enumerate().rfind(|(_, server)| !server.closed)
        else {
            panic!("caller {caller} waits for bytes and has no connection: {what:?}")
        };
        let from = if delivered.0 == last { delivered.1 } else { 0 };
        let rest = &server.said[from..];
        let enough = match what {
            CallerOperation::Receive(_) => !rest.is_empty(),
            CallerOperation::Message => has_message(self.callers.all[caller].manners.framing, rest),
            _ => false,
        };
        assert!(!enough, "caller {caller} waits for bytes, and {} are there", rest.len());
    }

    /// Checks that the loop has released everything after all clients were dropped.
    pub(super) fn check_left(&self) {
        let free = self.submission.free();
        let all = (self.limits.clients as usize, self.limits.operations as usize);
        assert_eq!(free, all, "free slots and operations after all clients are gone");
        let open = self.worker.as_ref().map_or(0, Worker::open);
        assert_eq!(open, 0, "connections are open although their clients are gone");
    }

    pub(super) fn check_end(&mut self) {
        self.callers.leave();
        assert_eq!(self.world.borrow().open(), 0, "a descriptor was lost");
        assert_eq!(self.pool.held(), 0, "a buffer was lost");
        let log = self.callers.shared.log();
        self.world.borrow_mut().marks.add(&log.marks);
        for (nth, record) in log.records.iter().enumerate() {
            assert!(!record.is_under_way(), "operation {nth} never completed: {:?}", record.what);
        }
        let operations = self.limits.operations as usize;
        assert_eq!(self.submission.free().1, operations, "operations that were released");
        for caller in 0..self.callers.len() {
            let servers = self.servers_of(caller);
            self.check_sent(&log, caller, &servers);
            self.check_order(&log, caller);
            self.follow(&log, caller, &servers);
            self.check_replies(&log, caller);
        }
    }

    fn servers_of(&self, caller: usize) -> Vec<&Server> {
        self.servers.iter().filter(|server| server.caller == caller).collect()
    }

    /// Checks what the servers received: operations in the order of submission, each once, and as
    /// many bytes of a failed operation as its error reports.
    fn check_sent(&self, log: &CallerLog, caller: usize, servers: &[&Server]) {
        let framing = self.callers.all[caller].manners.framing;
        let keeps = self.callers.all[caller].keeps;
        let mut heard = vec![(0, 0); log.records.len()];
        let mut last = None;
        for server in servers {
            let pieces = pieces(framing, &server.heard);
            for (at, piece) in pieces.iter().enumerate() {
                let Some(nth) = piece.number else { continue };
                assert!(log.records.get(nth).is_some_and(|of| of.caller == caller), "{nth}?");
                let record = &log.records[nth];
                let whole = wire(framing, &record.data);
                assert!(whole.starts_with(piece.bytes), "operation {nth} arrived with wrong bytes");
                let in_order = last.is_none_or(|last| last < nth || (keeps && last == nth));
                assert!(in_order, "operation {nth} arrived after {last:?}");
                last = Some(nth);
                let is_whole = piece.bytes.len() == whole.len();
                if !is_whole && at + 1 < pieces.len() {
                    check_cut_short(nth, record, piece.bytes.len());
                }
                heard[nth].0 += usize::from(is_whole);
                heard[nth].1 = heard[nth].1.max(piece.bytes.len());
            }
        }
        // Without resets and errors, everything that the kernel accepted has arrived.
        let clean = self.is_clean() && servers.iter().all(|server| server.fin_heard);
        for (nth, record) in log.records.iter().enumerate() {
            if record.caller == caller && record.what.sends() {
                check_amount(nth, record, heard[nth], clean, keeps);
            }
        }
    }

    /// Whether no sent bytes were destroyed in this world.
    fn is_clean(&self) -> bool {
        let marks = &self.world.borrow().marks;
        DESTROYERS.iter().all(|&mark| marks.count(mark) == 0)
    }

    /// Checks that operations of a kind complete in the order in which they were started.
    fn check_order(&self, log: &CallerLog, caller: usize) {
        let done = |of: &Record| of.caller == caller && matches!(of.ended, Some(Ok(_)));
        let check = |kind: fn(CallerOperation) -> bool| {
            let those = log.order.iter().copied().filter(|&nth| done(&log.records[nth]));
            let those: Vec<_> = those.filter(|&nth| kind(log.records[nth].what)).collect();
            let wrong = those.windows(2).find(|pair| pair[0] > pair[1]);
            assert_eq!(wrong, None, "operations of caller {caller} are out of order");
        };
        check(|what| matches!(what, CallerOperation::Send(_)));
        // A request kept for the next connection is overtaken by bytes that arrive on this one.
        let keeps = self.callers.all[caller].keeps;
        check(if keeps { CallerOperation::receives } else { CallerOperation::has_reply });
    }

    /// Checks that the client received, connection by connection, what the servers sent, from the
    /// start and without gaps. Returns the index of the last connection and the offset in it.
    ///
    /// A few bytes may match in several places, so all candidates are followed.
    fn follow(&self, log: &CallerLog, caller: usize, servers: &[&Server]) -> (usize, usize) {
        let framing = self.callers.all[caller].manners.framing;
        let mut places = vec![(0, 0)];
        for &nth in log.order.iter().filter(|&&nth| log.records[nth].caller == caller) {
            let Some(bytes) = received(framing, &log.records[nth]).filter(|b| !b.is_empty()) else {
                continue;
            };
            let fits = |&(server, from): &(usize, usize)| {
                let said = servers.get(server).and_then(|server| server.said.get(from..));
                said.is_some_and(|said| said.starts_with(&bytes))
            };
            let first = places[0];
            let later = (first.0 + 1..servers.len()).map(|server| (server, 0));
            let all = places.iter().copied().chain(later);
            let mut found: Vec<_> =
                all.filter(fits).map(|(at, from)| (at, from + bytes.len())).collect();
            found.sort();
            found.dedup();
            assert!(
                !found.is_empty(),
                "operation {nth} received bytes that were not next: {places:?}"
            );
            if let ([_], &[now]) = (&places[..], &found[..])
                && now.0 > first.0
            {
                self.check_nothing_lost(log, caller, &servers[first.0..now.0], first.1);
            }
            places = found;
        }
        *places.last().expect("there is one")
    }

    /// Checks that a caller that listens received all bytes of a connection before those of the
    /// next.
    fn check_nothing_lost(
        &self,
        log: &CallerLog,
        caller: usize,
        gone: &[&Server],
        delivered: usize,
    ) {
        let spoiled = |of: &Record| match &of.ended {
            Some(Err(failed)) => {
                matches!(failed.error, Error::FrameTooLarge(_) | Error::TooLong(_))
            }
            _ => false,
        };
        let mine = |of: &&Record| of.caller == caller;
        let listens = self.callers.all[caller].manners.listens && self.keeps_all;
        if !listens || log.records.iter().filter(mine).any(spoiled) {
            return;
        }
        let world = self.world.borrow();
        let taken: usize = gone.iter().map(|server| server.taken_by_client(&world)).sum();
        assert_eq!(delivered, taken, "bytes of caller {caller} were lost between connections");
    }

    /// Checks that each reply equals its request, if the caller makes only requests.
    fn check_replies(&self, log: &CallerLog, caller: usize) {
        if !self.callers.all[caller].manners.requests_only {
            return;
        }
        for (nth, record) in log.records.iter().enumerate().filter(|(_, of)| of.caller == caller) {
            if let (CallerOperation::Request(..), Some(Ok(reply))) = (record.what, &record.ended) {
                assert_eq!(*reply, record.data, "the reply to request {nth}");
            }
        }
    }
}

/// Checks an operation whose partial message is followed by another: it must report the bytes sent.
fn check_cut_short(nth: usize, record: &Record, bytes: usize) {
    let sent = match &record.ended {
        Some(Err(failed)) => failed.bytes_sent,
        _ => usize::MAX,
    };
    assert_eq!(sent, bytes, "operation {nth} was cut short, and ended with {:?}", record.ended);
}

/// Checks `heard`: how often an operation arrived whole, and the most bytes that arrived of it.
fn check_amount(nth: usize, record: &Record, heard: (usize, usize), clean: bool, keeps: bool) {
    assert!(heard.0 <= 1, "operation {nth} arrived {} times", heard.0);
    match &record.ended {
        Some(Ok(_)) => assert!(heard.0 == 1 || !clean, "operation {nth} never arrived"),
        Some(Err(failed)) if !keeps => {
            let sent = failed.bytes_sent;
            assert!(heard.1 <= sent, "operation {nth} sent {sent} bytes, but {} arrived", heard.1);
            let told = heard.1 == sent || !clean || sent < NUMBER_KNOWN_AFTER;
            assert!(told, "operation {nth} sent {sent} bytes, and only {} arrived", heard.1);
        }
        _ => {}
    }
}

/// The bytes that an operation received, as they were on the wire.
fn received(framing: Option<Framing>, record: &Record) -> Option<Vec<u8>> {
    match (record.what, record.ended.as_ref()?) {
        (CallerOperation::Receive(_) | CallerOperation::ToEnd(_), Ok(bytes)) => Some(bytes.clone()),
        (CallerOperation::Message | CallerOperation::Request(..), Ok(bytes)) => {
            Some(wire(framing, bytes))
        }
        (what, Err(failed)) if what.receives() => Some(failed.buffer.clone()),
        _ => None,
    }
}

/// The part of a server's received stream that one operation sent.
struct Piece<'a> {
    /// The operation, or `None` if the part is too short to identify it.
    number: Option<usize>,
    bytes: &'a [u8],
}

/// Splits what a server received into the parts of each operation.
fn pieces(framing: Option<Framing>, mut heard: &[u8]) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    while !heard.is_empty() {
        let (before, length) = match framing {
            Some(Framing::Length { .. }) if heard.len() < LENGTH_BYTES => (heard.len(), 0),
            Some(Framing::Length { .. }) => {
                let length = u32::from_le_bytes(heard[..LENGTH_BYTES].try_into().expect("four"));
                (LENGTH_BYTES, length as usize)
            }
            _ => {
                let begins = |byte: &u8| (0x80..0xC0).contains(byte);
                (0, 1 + heard[1..].iter().position(begins).unwrap_or(heard.len() - 1))
            }
        };
        let (bytes, rest) = heard.split_at((before + length).min(heard.len()));
        let number = number_in(&bytes[before..]);
        pieces.push(Piece { number, bytes });
        heard = rest;
    }
    pieces
}

fn number_in(payload: &[u8]) -> Option<usize> {
    let &[first, second, third, ..] = payload else { return None };
    let number = |byte: u8, bits: u8| (byte & bits) as usize;
    let found = number(first, 63) << 10 | number(second, 31) << 5 | number(third, 31);
    assert!(data_of(found, 3) == payload[..3], "not the start of a message: {:?}", &payload[..3]);
    Some(found)
}

/// Whether `bytes` start with a whole message.
fn has_message(framing: Option<Framing>, bytes: &[u8]) -> bool {
    match framing {
        Some(Framing::Length { .. }) => bytes.first_chunk::<LENGTH_BYTES>().is_some_and(|length| {
            bytes.len() - LENGTH_BYTES >= u32::from_le_bytes(*length) as usize
        }),
        Some(Framing::Delimiter { delimiter, .. }) => {
            bytes.windows(delimiter.bytes().len()).any(|window| window == delimiter.bytes())
        }
        None => false,
    }
}
