//! From worker to worker: frames for the members of another worker are copied into a buffer staged
//! for it, which goes there as a parcel once in each turn, or when it is full.
//!
//! A parcel is the number of the worker that it is from (1 byte), then runs: what the frames are
//! (1), for whom (8, 0: all), how many bytes (4), then so many bytes of whole frames. Both ends are
//! this file, on one machine, so the order of the numbers' bytes is fixed.
//!
//! Few parcels may be on their way from one worker to another at a time. So a worker that has not
//! caught up holds back those who send to it, and the commands in its inbox are not crowded out.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use crate::buffer::{self, Lease, Pool};
use crate::service::{ConnectionId, Parcels, WorkerContext};

/// Parcels from one worker to another at a time: one being filled there, one being unpacked here,
/// and two between that bridge a turn.
pub(super) const PARCELS_MAX: u32 = 4;

/// The most messages to single members in one parcel: each may cause a NOT_SENT reply.
pub(super) const UNICASTS_MAX: usize = 512;

/// Replies that may wait to be passed on to other workers: those of two parcels.
pub(super) const OWED_MAX: usize = 2 * UNICASTS_MAX;

/// Replies on their way to one worker at most: some parcels' worth.
const NOT_SENT_MAX: usize = 2 * UNICASTS_MAX;

/// Bytes in front of a run.
pub(super) const RUN_HEAD_BYTES: usize = 1 + 8 + 4;

/// Bytes that stand in a parcel beside its first frame.
pub(super) const PARCEL_HEAD_BYTES: usize = 1 + RUN_HEAD_BYTES;

/// What the frames of a run are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    /// Messages to all members.
    Broadcast,
    /// Messages to one member; their senders are told if it does not get them.
    Unicast,
    /// Who came and went.
    Notices,
    /// Such notices were lost: every member gets a new list. No frames.
    Refresh,
}

/// The head of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) kind: Kind,
    /// The id of the member, or 0.
    pub(super) to: u64,
    /// Bytes of its frames.
    pub(super) len: usize,
}

impl Run {
    /// Reads the head that `bytes` begin with.
    pub(super) fn read(bytes: &[u8]) -> Run {
        let (kinds, rest) = bytes.split_first().expect("a run has a head");
        let (to, rest) = rest.split_first_chunk().expect("a run has a head");
        let len = rest.first_chunk().expect("a run has a head");
        let all = [Kind::Broadcast, Kind::Unicast, Kind::Notices, Kind::Refresh];
        Run {
            kind: all[usize::from(*kinds)],
            to: u64::from_le_bytes(*to),
            len: u32::from_le_bytes(*len) as usize,
        }
    }

    fn head(&self) -> [u8; RUN_HEAD_BYTES] {
        let mut head = [0; RUN_HEAD_BYTES];
        head[0] = self.kind as u8;
        head[1..9].copy_from_slice(&self.to.to_le_bytes());
        head[9..].copy_from_slice(&(self.len as u32).to_le_bytes());
        head
    }
}

/// An answer to a member of another worker: what it sent to `about` was not delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotSent {
    pub(super) to: ConnectionId,
    pub(super) reason: u8,
    pub(super) about: u64,
}

/// A parcel of which a part is unpacked, and the rest waits for buffers.
pub(super) struct Unpacking {
    pub(super) from: usize,
    pub(super) buffer: buffer::Shared,
    pub(super) left: Range<usize>,
}

impl Unpacking {
    pub(super) fn new(from: usize, lease: Lease) -> Unpacking {
        let buffer = buffer::Shared::from(lease);
        let left = buffer.range();
        Unpacking { from, buffer, left }
    }
}

/// What all copies of a hub share on one listener of one server.
pub(super) struct Shared {
    /// One bit for each worker that has members.
    present: AtomicU64,
    /// Parcels on their way, from each worker to each.
    on_the_way: Box<[AtomicU32]>,
    /// Replies on their way to each worker.
    not_sent: Box<[ArrayQueue<NotSent>]>,
    workers: usize,
}

impl Shared {
    pub(super) fn new(workers: usize) -> Shared {
        Shared {
            present: AtomicU64::new(0),
            on_the_way: (0..workers * workers).map(|_| AtomicU32::new(0)).collect(),
            not_sent: (0..workers).map(|_| ArrayQueue::new(NOT_SENT_MAX)).collect(),
            workers,
        }
    }
}

/// Why something cannot be staged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoRoom {
    /// The other worker has enough to do.
    Behind,
    /// There is no free buffer.
    NoBuffer,
}

/// The buffers staged for the other workers.
pub(super) struct Outbox {
    worker: usize,
    shared: Arc<Shared>,
    parcels: Parcels,
    pool: Pool,
    stages: Vec<Stage>,
    /// Workers that have been given replies, one bit each.
    notified: u64,
    /// A buffer was asked for, and there was none.
    pub(super) starves: bool,
}

/// What is staged for one worker.
#[derive(Default)]
struct Stage {
    lease: Option<Lease>,
    /// The last run in it, and where its head stands.
    run: Option<(Run, usize)>,
    unicasts: usize,
    /// Notices did not fit: it has to be told that some were lost.
    lost_notices: bool,
}

impl Outbox {
    /// What it takes of memory.
    pub(super) fn bytes(workers: usize) -> usize {
        let not_sent = NOT_SENT_MAX * (size_of::<NotSent>() + size_of::<usize>());
        workers * (size_of::<Stage>() + size_of::<AtomicU32>()) + not_sent
    }

    pub(super) fn new(context: &WorkerContext, shared: Arc<Shared>) -> Outbox {
        Outbox {
            worker: context.worker(),
            shared,
            parcels: context.parcels(),
            pool: context.pool().clone(),
            stages: (0..context.workers()).map(|_| Stage::default()).collect(),
            notified: 0,
            starves: false,
        }
    }

    /// Says whether this worker has members.
    pub(super) fn set_present(&self, present: bool) {
        let bit = 1 << self.worker;
        match present {
            true => self.shared.present.fetch_or(bit, Ordering::SeqCst),
            false => self.shared.present.fetch_and(!bit, Ordering::SeqCst),
        };
        // Who comes is in the directory before others are looked for, and others are to be seen
        // here before they look into the directory: one of two who come at once sees the other.
        fence(Ordering::SeqCst);
    }

    /// The other workers that have members.
    pub(super) fn others(&self) -> Workers {
        fence(Ordering::SeqCst);
        Workers(self.shared.present.load(Ordering::SeqCst) & !(1 << self.worker))
    }

    /// Whether another worker has members.
    pub(super) fn is_present(&self, worker: usize) -> bool {
        self.shared.present.load(Ordering::SeqCst) & (1 << worker) != 0
    }

    /// Whether a frame of so many bytes can be staged for a worker without another buffer.
    pub(super) fn has_room(&self, worker: usize, frame_bytes: usize) -> bool {
        let stage = &self.stages[worker];
        let room = |lease: &Lease| lease.room() >= RUN_HEAD_BYTES + frame_bytes;
        stage.unicasts < UNICASTS_MAX && stage.lease.as_ref().is_some_and(room)
    }

    /// Sees to it that a frame of so many bytes can be staged for a worker.
    pub(super) fn make_room(&mut self, worker: usize, frame_bytes: usize) -> Result<(), NoRoom> {
        if self.has_room(worker, frame_bytes) {
            return Ok(());
        }
        if self.stages[worker].lease.is_some() && !self.dispatch(worker) {
            return Err(NoRoom::Behind);
        }
        let Some(mut lease) = self.pool.lease() else {
            self.starves = true;
            return Err(NoRoom::NoBuffer);
        };
        lease.extend_from_slice(&[self.worker as u8]);
        self.stages[worker].lease = Some(lease);
        Ok(())
    }

    /// Stages a frame, in pieces.
    ///
    /// # Panics
    /// If no room was made for it.
    pub(super) fn stage<'a>(
        &mut self,
        worker: usize,
        kind: Kind,
        to: u64,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) {
        let stage = &mut self.stages[worker];
        let lease = stage.lease.as_mut().expect("room was made");
        stage.unicasts += usize::from(kind == Kind::Unicast);
        let (mut run, at) = match stage.run {
            Some((run, at)) if (run.kind, run.to) == (kind, to) => (run, at),
            _ => {
                let run = Run { kind, to, len: 0 };
                let at = lease.len();
                lease.extend_from_slice(&run.head());
                (run, at)
            }
        };
        for piece in pieces {
            let copied = lease.extend_from_slice(piece);
            assert_eq!(copied, piece.len(), "room was made");
            run.len += copied;
        }
        lease.filled_mut()[at..at + RUN_HEAD_BYTES].copy_from_slice(&run.head());
        stage.run = Some((run, at));
    }

    /// Stages a notice for each of the others. Where it does not fit, a list will take its place.
    pub(super) fn notify(&mut self, frame: &[u8]) {
        for worker in self.others() {
            if self.stages[worker].lost_notices || self.make_room(worker, frame.len()).is_err() {
                self.stages[worker].lost_notices = true;
            } else {
                self.stage(worker, Kind::Notices, 0, std::iter::once(frame));
            }
        }
    }

    /// Passes an answer on. Returns whether there was room for it; there is at a worker that has
    /// ended, where it is for nobody.
    pub(super) fn forward(&mut self, owed: NotSent) -> bool {
        let worker = owed.to.worker();
        self.notified |= 1 << worker;
        self.parcels.has_ended(worker) || self.shared.not_sent[worker].push(owed).is_ok()
    }

    /// The next answer for a member of this worker.
    pub(super) fn next_not_sent(&self) -> Option<NotSent> {
        self.shared.not_sent[self.worker].pop()
    }

    /// Whether others have more replies for this worker than there is room for, as it seems.
    pub(super) fn not_sent_is_full(&self) -> bool {
        self.shared.not_sent[self.worker].is_full()
    }

    /// Sends what is staged. Returns whether all of it went.
    pub(super) fn turn(&mut self) -> bool {
        Workers(std::mem::take(&mut self.notified)).for_each(|worker| self.parcels.wake(worker));
        let mut all = true;
        for worker in 0..self.stages.len() {
            if self.parcels.has_ended(worker) {
                // Its clients are gone, and nobody will take anything any more.
                self.stages[worker] = Stage::default();
                continue;
            }
            if self.stages[worker].lost_notices && self.make_room(worker, 0).is_ok() {
                self.stage(worker, Kind::Refresh, 0, std::iter::empty());
                self.stages[worker].lost_notices = false;
            }
            if self.stages[worker].run.is_none() {
                // Room was made for something that is still held back.
                self.stages[worker].lease = None;
            }
            all &= self.stages[worker].lease.is_none() || self.dispatch(worker);
            all &= !self.stages[worker].lost_notices;
        }
        all
    }

    /// Sends what is staged for a worker. If too much is on its way there, it stays staged.
    fn dispatch(&mut self, worker: usize) -> bool {
        let on_the_way = self.shared.on_the_way(self.worker, worker);
        if on_the_way.load(Ordering::Acquire) >= PARCELS_MAX {
            return false;
        }
        let stage = &mut self.stages[worker];
        let lease = stage.lease.take().expect("something is staged");
        on_the_way.fetch_add(1, Ordering::AcqRel);
        match self.parcels.send(worker, lease) {
            Ok(()) => {
                (stage.run, stage.unicasts) = (None, 0);
                true
            }
            Err(lease) => {
                on_the_way.fetch_sub(1, Ordering::AcqRel);
                stage.lease = Some(lease);
                false
            }
        }
    }

    /// A parcel from this worker is unpacked: it may send another one.
    pub(super) fn unpacked(&self, from: usize) {
        let on_the_way = self.shared.on_the_way(from, self.worker);
        if on_the_way.fetch_sub(1, Ordering::AcqRel) == PARCELS_MAX {
            self.parcels.wake(from);
        }
    }
}

impl Shared {
    fn on_the_way(&self, from: usize, to: usize) -> &AtomicU32 {
        &self.on_the_way[from * self.workers + to]
    }
}

/// Numbers of workers, out of a word with a bit for each.
#[derive(Clone, Copy)]
pub(super) struct Workers(u64);

impl Iterator for Workers {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let worker = self.0.trailing_zeros();
        self.0 &= self.0.wrapping_sub(1);
        (worker < 64).then_some(worker as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_the_bits_of_a_word() {
        assert_eq!(Workers(0).next(), None);
        let some = Workers(1 | 1 << 5 | 1 << 63);
        assert_eq!(some.collect::<Vec<_>>(), [0, 5, 63]);
    }

    #[test]
    fn the_head_of_a_run_is_read_as_it_is_written() {
        for kind in [Kind::Broadcast, Kind::Unicast, Kind::Notices, Kind::Refresh] {
            let run = Run { kind, to: u64::MAX - 1, len: 70_000 };
            assert_eq!(Run::read(&run.head()), run);
        }
    }
}
