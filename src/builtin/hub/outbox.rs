//! Sends frames from worker to worker. Frames for the members of another worker are copied into a
//! buffer that is staged for that worker. The buffer is sent as a parcel once per turn, or when it
//! is full.
//!
//! A parcel is the number of the sending worker (1 byte), then runs. A run is the kind of its
//! frames (1 byte), the recipient (8 bytes; 0: all), the number of bytes (4 bytes), and this many
//! bytes of whole frames. Only this file writes and reads parcels, on one machine, so the byte
//! order of the numbers is fixed.
//!
//! The number of parcels in transit from one worker to another is small. So a worker that has not
//! caught up holds back the workers that send to it, and parcels do not crowd out the commands in
//! its inbox.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use crossbeam_queue::ArrayQueue;

use crate::base::time::Time;
use crate::buffer::{self, Lease, Pool};
use crate::service::{ConnectionId, Parcels, WorkerContext};
use crate::shared::histogram::Histogram;

/// The most parcels from one worker to another at a time: one that is being filled at the sender,
/// one that is being unpacked at the receiver, and two in between that bridge a turn.
pub(super) const PARCELS_MAX: u32 = 4;

/// The most messages to single members in one parcel. Each may cause a NOT_SENT reply.
pub(super) const UNICASTS_MAX: usize = 512;

/// The most replies that may wait to be passed on to other workers: those of two parcels.
pub(super) const OWED_MAX: usize = 2 * UNICASTS_MAX;

/// The most replies in transit to one worker: those of two parcels.
const NOT_SENT_MAX: usize = 2 * UNICASTS_MAX;

/// Bytes of the head of a run.
pub(super) const RUN_HEAD_BYTES: usize = 1 + 8 + 4;

/// Bytes of a parcel in front of its first frame.
pub(super) const PARCEL_HEAD_BYTES: usize = 1 + RUN_HEAD_BYTES;

/// The kind of the frames in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum RunKind {
    /// Messages to all members.
    Broadcast,
    /// Messages to one member. Their senders are told if the member does not get them.
    Unicast,
    /// Notices of members that joined or left.
    Notices,
    /// Notices were lost: every member gets a new list. The run has no frames.
    Refresh,
}

impl RunKind {
    /// Whether its frames are messages of clients.
    pub(super) fn has_messages(self) -> bool {
        matches!(self, RunKind::Broadcast | RunKind::Unicast)
    }
}

/// The head of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) kind: RunKind,
    /// The id of the member, or 0.
    pub(super) to: u64,
    /// Bytes of its frames.
    pub(super) len: usize,
}

impl Run {
    /// Reads the head at the start of `bytes`.
    pub(super) fn read(bytes: &[u8]) -> Run {
        let (kinds, rest) = bytes.split_first().expect("a run has a head");
        let (to, rest) = rest.split_first_chunk().expect("a run has a head");
        let len = rest.first_chunk().expect("a run has a head");
        let all = [RunKind::Broadcast, RunKind::Unicast, RunKind::Notices, RunKind::Refresh];
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

/// A reply to a member of another worker: its message to `about` was not delivered.
#[derive(Clone, Copy, Debug)]
pub(super) struct NotSent {
    pub(super) to: ConnectionId,
    pub(super) reason: u8,
    pub(super) about: u64,
}

/// A partly unpacked parcel. The rest waits for buffers.
pub(super) struct Unpacking {
    pub(super) from: usize,
    /// When the first message in it was taken from its sender.
    pub(super) taken_at: Time,
    pub(super) buffer: buffer::Shared,
    pub(super) left: Range<usize>,
}

impl Unpacking {
    pub(super) fn new(from: usize, taken_at: Time, lease: Lease) -> Unpacking {
        let buffer = buffer::Shared::from(lease);
        let left = buffer.range();
        Unpacking { from, taken_at, buffer, left }
    }
}

/// The state that a hub's services on all workers share, for one listener of one server.
pub(super) struct HubState {
    /// One bit for each worker that has members.
    present: AtomicU64,
    /// Number of parcels in transit from each worker to each.
    on_the_way: Box<[AtomicU32]>,
    /// When the first message of each of them was taken from its sender, in nanoseconds. A parcel has
    /// no room for it: that would make messages shorter.
    taken_at: Box<[TakenAt]>,
    /// Replies in transit to each worker.
    not_sent: Box<[ArrayQueue<NotSent>]>,
    /// For each worker, who waits until there is room: in its inbox, and for replies.
    wait_for_inbox: Box<[AtomicU64]>,
    wait_for_not_sent: Box<[AtomicU64]>,
    workers: usize,
}

/// For the parcels from one worker to another, in the order in which they are sent.
type TakenAt = [AtomicU64; PARCELS_MAX as usize];

impl HubState {
    pub(super) fn new(workers: usize) -> HubState {
        let timed = if Histogram::EXISTS { workers * workers } else { 0 };
        HubState {
            present: AtomicU64::new(0),
            on_the_way: (0..workers * workers).map(|_| AtomicU32::new(0)).collect(),
            taken_at: (0..timed).map(|_| TakenAt::default()).collect(),
            not_sent: (0..workers).map(|_| ArrayQueue::new(NOT_SENT_MAX)).collect(),
            wait_for_inbox: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            wait_for_not_sent: (0..workers).map(|_| AtomicU64::new(0)).collect(),
            workers,
        }
    }
}

/// Enters a worker among those that wait until there is room. It then has to look again whether
/// there is: the worker that makes room looks at this set after that, so one of the two sees what
/// the other has done.
fn wait_for(room: &AtomicU64, worker: usize) {
    room.fetch_or(1 << worker, Ordering::SeqCst);
    fence(Ordering::SeqCst);
}

/// Why a frame cannot be staged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum NoRoom {
    /// The other worker has not caught up.
    Behind,
    /// There is no free buffer.
    NoBuffer,
}

/// The buffers staged for the other workers.
pub(super) struct Outbox {
    worker: usize,
    shared: Arc<HubState>,
    parcels: Parcels,
    pool: Pool,
    stages: Vec<StagedFrames>,
    /// How many parcels of each worker were unpacked.
    unpacked: Box<[u32]>,
    /// When the messages were taken that are staged now.
    pub(super) taken_at: Time,
    /// Workers that replies have been passed to, one bit each.
    notified: u64,
    /// A buffer was needed, and none was free.
    pub(super) starves: bool,
    /// Something was sent, or a buffer staged: there may be room for those that wait.
    pub(super) has_moved: bool,
    /// The other workers that had members when this worker last looked for those that wait.
    others_before: u64,
}

/// The frames that are staged for one worker.
#[derive(Default)]
struct StagedFrames {
    lease: Option<Lease>,
    /// The last run in the buffer, and the position of its head.
    run: Option<(Run, usize)>,
    unicasts: usize,
    /// When the first message was taken from its sender, if there is one.
    taken_at: Option<Time>,
    /// How many parcels were sent.
    sent: u32,
    /// Notices did not fit: the worker has to be told that some were lost.
    lost_notices: bool,
}

impl Outbox {
    /// Bytes of memory that an outbox uses.
    pub(super) fn bytes(workers: usize) -> usize {
        let not_sent = NOT_SENT_MAX * (size_of::<NotSent>() + size_of::<usize>());
        let times = if Histogram::EXISTS { size_of::<TakenAt>() } else { 0 };
        let waits = 2 * size_of::<AtomicU64>();
        let each =
            size_of::<StagedFrames>() + size_of::<AtomicU32>() + size_of::<u32>() + times + waits;
        workers * each + not_sent
    }

    pub(super) fn new(context: &WorkerContext, shared: Arc<HubState>) -> Outbox {
        Outbox {
            worker: context.worker(),
            shared,
            parcels: context.parcels(),
            pool: context.pool().clone(),
            stages: (0..context.workers()).map(|_| StagedFrames::default()).collect(),
            unpacked: vec![0; context.workers()].into(),
            taken_at: Time::ZERO,
            notified: 0,
            starves: false,
            has_moved: false,
            others_before: 0,
        }
    }

    /// Publishes whether this worker has members.
    pub(super) fn set_present(&self, present: bool) {
        let bit = 1 << self.worker;
        match present {
            true => self.shared.present.fetch_or(bit, Ordering::SeqCst),
            false => self.shared.present.fetch_and(!bit, Ordering::SeqCst),
        };
        // A new member is entered in the directory before the set of other workers is read. In
        // turn, a worker enters this set before it reads the directory. So if two members join at
        // the same time, at least one of them sees the other.
        fence(Ordering::SeqCst);
        if !present {
            // A broadcast that waits for buffers needs one less.
            self.others().for_each(|worker| self.parcels.wake(worker));
        }
    }

    /// Returns the other workers that have members.
    pub(super) fn others(&self) -> Workers {
        fence(Ordering::SeqCst);
        Workers(self.shared.present.load(Ordering::SeqCst) & !(1 << self.worker))
    }

    /// Whether another worker has members.
    pub(super) fn is_present(&self, worker: usize) -> bool {
        self.shared.present.load(Ordering::SeqCst) & (1 << worker) != 0
    }

    /// Whether a frame of `frame_bytes` bytes can be staged for a worker without another buffer.
    pub(super) fn has_room(&self, worker: usize, frame_bytes: usize) -> bool {
        let stage = &self.stages[worker];
        let room = |lease: &Lease| lease.room() >= RUN_HEAD_BYTES + frame_bytes;
        stage.unicasts < UNICASTS_MAX && stage.lease.as_ref().is_some_and(room)
    }

    /// Makes room to stage a frame of `frame_bytes` bytes for a worker.
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

    /// Stages a frame that is given in pieces.
    ///
    /// # Panics
    /// If no room was made for it.
    pub(super) fn stage<'a>(
        &mut self,
        worker: usize,
        kind: RunKind,
        to: u64,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) {
        let stage = &mut self.stages[worker];
        self.has_moved |= stage.run.is_none();
        let lease = stage.lease.as_mut().expect("room was made");
        stage.unicasts += usize::from(kind == RunKind::Unicast);
        if kind.has_messages() {
            stage.taken_at.get_or_insert(self.taken_at);
        }
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

    /// Stages a notice for each of the other workers. If it does not fit, a list will replace it.
    pub(super) fn notify(&mut self, frame: &[u8]) {
        for worker in self.others() {
            if self.stages[worker].lost_notices || self.make_room(worker, frame.len()).is_err() {
                self.stages[worker].lost_notices = true;
            } else {
                self.stage(worker, RunKind::Notices, 0, std::iter::once(frame));
            }
        }
    }

    /// Passes a reply on to its worker. Returns whether there was room for it; always true for a
    /// worker that has ended, where the reply has no recipient.
    pub(super) fn forward(&mut self, owed: NotSent) -> bool {
        let worker = owed.to.worker();
        let pushes = || self.shared.not_sent[worker].push(owed).is_ok();
        let waits = || wait_for(&self.shared.wait_for_not_sent[worker], self.worker);
        let forwards = self.parcels.has_ended(worker) || pushes() || {
            waits();
            pushes()
        };
        self.notified |= u64::from(forwards) << worker;
        forwards
    }

    /// Returns the next reply for a member of this worker.
    pub(super) fn next_not_sent(&self) -> Option<NotSent> {
        self.shared.not_sent[self.worker].pop()
    }

    /// Whether the other workers seem to have more replies for this worker than there is room for.
    pub(super) fn not_sent_is_full(&self) -> bool {
        self.shared.not_sent[self.worker].is_full()
    }

    /// Sends everything that is staged, as far as there is room. What is not sent is sent in a later
    /// turn: this worker is woken when there is room. Returns whether a buffer is needed that is
    /// not free.
    pub(super) fn turn(&mut self) -> bool {
        Workers(std::mem::take(&mut self.notified)).for_each(|worker| self.parcels.wake(worker));
        self.wake_those_that_wait();
        let mut wants_buffer = false;
        for worker in 0..self.stages.len() {
            if self.parcels.has_ended(worker) {
                // The clients of this worker are gone, and nothing will take the frames.
                self.has_moved |= self.stages[worker].lease.is_some();
                self.stages[worker] = StagedFrames::default();
                continue;
            }
            if self.stages[worker].lost_notices {
                match self.make_room(worker, 0) {
                    Ok(()) => {
                        self.stage(worker, RunKind::Refresh, 0, std::iter::empty());
                        self.stages[worker].lost_notices = false;
                    }
                    Err(why) => wants_buffer |= why == NoRoom::NoBuffer,
                }
            }
            if self.stages[worker].run.is_none() {
                // Room was made for a frame that is still held back.
                self.stages[worker].lease = None;
            }
            if self.stages[worker].lease.is_some() {
                self.dispatch(worker);
            }
        }
        wants_buffer
    }

    /// Wakes the workers that wait until this one has taken something out of its inbox, which it
    /// has before this turn, or out of the ring of replies.
    fn wake_those_that_wait(&self) {
        fence(Ordering::SeqCst);
        let wakes = |waiting: &AtomicU64| {
            if waiting.load(Ordering::Relaxed) != 0 {
                let workers = Workers(waiting.swap(0, Ordering::SeqCst));
                workers.for_each(|worker| self.parcels.wake(worker));
            }
        };
        wakes(&self.shared.wait_for_inbox[self.worker]);
        // If it could take none, those that wait could only wait again.
        if !self.not_sent_is_full() {
            wakes(&self.shared.wait_for_not_sent[self.worker]);
        }
    }

    /// Whether there may be room for members that wait, because something has moved since the last
    /// call, or because other workers have members now.
    pub(super) fn may_have_room(&mut self) -> bool {
        let Workers(others) = self.others();
        let changed = std::mem::replace(&mut self.others_before, others) != others;
        std::mem::take(&mut self.has_moved) | changed
    }

    /// A member is about to wait because of these workers. They may have changed since the last call
    /// of [`may_have_room`](Outbox::may_have_room), and then change back before the next one.
    pub(super) fn waits_for(&mut self, Workers(others): Workers) {
        self.has_moved |= std::mem::replace(&mut self.others_before, others) != others;
    }

    /// Sends the frames that are staged for a worker. If too many parcels are in transit to the
    /// worker, the frames stay staged. Returns whether they were sent.
    fn dispatch(&mut self, worker: usize) -> bool {
        let on_the_way = self.shared.on_the_way(self.worker, worker);
        if on_the_way.load(Ordering::Acquire) >= PARCELS_MAX {
            return false;
        }
        let stage = &mut self.stages[worker];
        let lease = stage.lease.take().expect("something is staged");
        on_the_way.fetch_add(1, Ordering::AcqRel);
        if Histogram::EXISTS {
            // The inbox orders it before the parcel.
            let at = stage.taken_at.unwrap_or(Time::MAX).as_nanos();
            self.shared.taken_at(self.worker, worker, stage.sent).store(at, Ordering::Relaxed);
        }
        let sent = self.parcels.send(worker, lease).or_else(|lease| {
            wait_for(&self.shared.wait_for_inbox[worker], self.worker);
            self.parcels.send(worker, lease)
        });
        match sent {
            Ok(()) => {
                self.has_moved = true;
                (stage.run, stage.unicasts, stage.taken_at) = (None, 0, None);
                stage.sent = stage.sent.wrapping_add(1);
                true
            }
            Err(lease) => {
                on_the_way.fetch_sub(1, Ordering::AcqRel);
                stage.lease = Some(lease);
                false
            }
        }
    }

    /// When the first message of the next parcel from worker `from` was taken from its sender.
    pub(super) fn next_taken_at(&self, from: usize) -> Time {
        if !Histogram::EXISTS {
            return Time::MAX;
        }
        let at = self.shared.taken_at(from, self.worker, self.unpacked[from]);
        Time::from_nanos(at.load(Ordering::Relaxed))
    }

    /// Records that a parcel from worker `from` is unpacked, so that worker may send another one.
    pub(super) fn unpacked(&mut self, from: usize) {
        self.unpacked[from] = self.unpacked[from].wrapping_add(1);
        let on_the_way = self.shared.on_the_way(from, self.worker);
        if on_the_way.fetch_sub(1, Ordering::AcqRel) == PARCELS_MAX {
            self.parcels.wake(from);
        }
    }
}

impl HubState {
    fn on_the_way(&self, from: usize, to: usize) -> &AtomicU32 {
        &self.on_the_way[from * self.workers + to]
    }

    /// The place for the `nth` parcel that one worker sends to another.
    fn taken_at(&self, from: usize, to: usize, nth: u32) -> &AtomicU64 {
        &self.taken_at[from * self.workers + to][(nth % PARCELS_MAX) as usize]
    }
}

/// The numbers of the workers whose bits are set in a word.
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
        for kind in [RunKind::Broadcast, RunKind::Unicast, RunKind::Notices, RunKind::Refresh] {
            let run = Run { kind, to: u64::MAX - 1, len: 70_000 };
            assert_eq!(Run::read(&run.head()), run);
        }
    }
}
