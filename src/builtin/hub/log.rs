//! A worker's log: the buffer into which each frame is written once, one after the other, for all
//! clients of the worker that get it. When the buffer is full, another one becomes the log. The
//! full one remains in the queues that refer to it.

use std::ops::Range;

use crate::buffer::{Chain, Pool, Shared};

/// The log of a worker.
pub(super) struct Log {
    pool: Pool,
    current: Option<Shared>,
    /// The last broadcast of the server itself, as its number and range. Its frame is put into the
    /// queues of one client after the other. `log_of_cast` is the log that contains it, if that is
    /// no longer the current one.
    cast: Option<(u64, Range<usize>)>,
    log_of_cast: Option<Shared>,
    /// A buffer was needed, and none was free.
    pub(super) starves: bool,
    /// The log is another buffer than before, which may have room for those that wait.
    pub(super) is_new: bool,
}

impl Log {
    pub(super) fn new(pool: &Pool) -> Log {
        let (current, cast, log_of_cast) = (None, None, None);
        Log { pool: pool.clone(), current, cast, log_of_cast, starves: false, is_new: false }
    }

    /// Whether `bytes` bytes fit behind the frames in the buffer.
    pub(super) fn has_room(&self, bytes: usize) -> bool {
        self.current.as_ref().is_some_and(|log| log.room() >= bytes)
    }

    /// Whether the buffer can be written from its start again, because no queue refers to it.
    pub(super) fn is_alone(&self) -> bool {
        self.cast.is_none() && self.current.as_ref().is_some_and(Shared::is_alone)
    }

    /// Makes room for `bytes` contiguous bytes, at most a buffer. Returns whether there is room:
    /// there may be no free buffer.
    pub(super) fn make_room(&mut self, bytes: usize) -> bool {
        if self.has_room(bytes) {
            return true;
        }
        self.release();
        match self.pool.lease() {
            Some(lease) => self.replace(Shared::from(lease)),
            None => self.starves = true,
        }
        self.current.is_some() && self.has_room(bytes)
    }

    /// Makes `buffer`, which arrived with frames in it, the log while these frames are put into
    /// queues. Returns the previous log.
    pub(super) fn lay_aside_for(&mut self, buffer: Shared) -> Option<Shared> {
        self.current.replace(buffer)
    }

    /// Restores the previous log. Returns the buffer that replaced it.
    pub(super) fn take_up_again(&mut self, log: Option<Shared>) -> Shared {
        std::mem::replace(&mut self.current, log).expect("a buffer was put in its place")
    }

    /// Restores the previous log if it has at least as much room as the current one.
    pub(super) fn keep_roomier(&mut self, log: Option<Shared>) {
        let buffer = self.take_up_again(log);
        if !self.has_room(buffer.room()) {
            self.replace(buffer);
            self.is_new = true;
        }
    }

    fn replace(&mut self, log: Shared) {
        let old = self.current.replace(log);
        if self.cast.is_some() && self.log_of_cast.is_none() {
            self.log_of_cast = old;
        }
    }

    /// Writes a frame that is given in pieces. Returns its range.
    ///
    /// # Panics
    /// If no room was made for it.
    pub(super) fn append<'a>(&mut self, pieces: impl Iterator<Item = &'a [u8]>) -> Range<usize> {
        let log = self.current.as_mut().expect("room was made");
        let start = log.range().end;
        // Not before: a buffer that nothing is written to goes back.
        self.is_new |= log.range().is_empty();
        for piece in pieces {
            log.append(piece).expect("room was made");
        }
        start..log.range().end
    }

    /// Returns the bytes in a range of the log.
    pub(super) fn bytes(&self, range: Range<usize>) -> &[u8] {
        let log = self.current.as_ref().expect("something was written");
        let start = log.range().start;
        &log.filled()[range.start - start..range.end - start]
    }

    /// Appends a part of the log to a queue: by reference if the queue has fewer than `parts`
    /// parts, otherwise as a copy behind the last copy. Returns whether it did: there may be
    /// neither a reference nor a buffer.
    pub(super) fn put(&mut self, queue: &mut Chain, range: Range<usize>, parts: usize) -> bool {
        let log = self.current.as_ref().expect("something was written");
        if queue.leases() < parts && queue.push_shared(log, range.clone()) {
            return true;
        }
        if queue.extend_last(self.bytes(range.clone())) {
            return true;
        }
        let Some(mut lease) = self.pool.lease() else {
            self.starves = true;
            return false;
        };
        lease.extend_from_slice(self.bytes(range));
        queue.push_back(lease);
        true
    }

    /// Remembers the range of the broadcast with this number.
    pub(super) fn remember_cast(&mut self, number: u64, range: Range<usize>) {
        self.log_of_cast = None;
        self.cast = Some((number, range));
    }

    /// Appends the broadcast with this number to a queue, if it is in the log already. Returns
    /// `None` if it is not, and otherwise the same as [`put`](Log::put).
    pub(super) fn put_cast(
        &mut self,
        queue: &mut Chain,
        number: u64,
        parts: usize,
    ) -> Option<bool> {
        let (_, range) = self.cast.as_ref().filter(|(of, _)| *of == number)?;
        let range = range.clone();
        match self.log_of_cast.take() {
            None => Some(self.put(queue, range, parts)),
            Some(log) => {
                // The old log replaces the current one during this call only.
                let current = self.current.replace(log);
                let done = self.put(queue, range, parts);
                self.log_of_cast = std::mem::replace(&mut self.current, current);
                Some(done)
            }
        }
    }

    /// Ends a turn: no broadcast of the server is in progress, and a buffer that no queue refers to
    /// is given back.
    pub(super) fn turn(&mut self) {
        (self.cast, self.log_of_cast) = (None, None);
        self.release();
    }

    /// Gives the log's buffer back if no queue refers to it. The next buffer is usually the same
    /// one, still in the cache, and is written from its start again.
    fn release(&mut self) {
        if self.is_alone() {
            self.current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffer::Reserve;

    fn pool(buffers: u32, references: usize) -> Pool {
        Pool::with_references(Reserve::new(16, buffers).unwrap(), 0, references)
    }

    fn write(log: &mut Log, frame: &[u8]) -> Range<usize> {
        assert!(log.make_room(frame.len()));
        log.append([frame].into_iter())
    }

    fn bytes_of(chain: &Chain) -> Vec<u8> {
        chain.slices().flatten().copied().collect()
    }

    #[test]
    fn a_full_log_is_replaced_and_goes_back_when_the_queues_are_through_with_it() {
        let pool = pool(2, 8);
        let (mut log, mut queue) = (Log::new(&pool), Chain::new(&pool));
        for frame in [&b"0123456789"[..], b"abcdef", b"ghi"] {
            let range = write(&mut log, frame);
            assert!(log.put(&mut queue, range, 8));
        }
        assert_eq!((queue.leases(), pool.held()), (2, 2), "two in one buffer; one in another");
        assert!(!log.make_room(14) && log.starves);
        queue.consume(16);
        assert_eq!(pool.held(), 1);
        queue.consume(3);
        log.turn();
        assert_eq!(pool.held(), 0, "nobody waits for anything");
    }

    #[test]
    fn a_queue_with_many_parts_gets_copies_in_few_buffers() {
        let pool = pool(2, 8);
        let (mut log, mut queue) = (Log::new(&pool), Chain::new(&pool));
        for frame in [b"a", b"-", b"b", b"-", b"c", b"-", b"d"] {
            let range = write(&mut log, frame);
            if frame != b"-" {
                assert!(log.put(&mut queue, range, 2));
            }
        }
        assert_eq!(bytes_of(&queue), b"abcd");
        assert_eq!((queue.leases(), pool.held()), (3, 2), "c and d are copied");
    }

    #[test]
    fn a_broadcast_of_the_server_is_written_once_also_across_a_full_log() {
        let pool = pool(2, 8);
        let (mut log, mut one, mut two) = (Log::new(&pool), Chain::new(&pool), Chain::new(&pool));
        assert_eq!(log.put_cast(&mut one, 7, 8), None);
        let range = write(&mut log, b"hello");
        log.remember_cast(7, range);
        assert_eq!(log.put_cast(&mut one, 7, 8), Some(true));
        write(&mut log, b"another log");
        let range = write(&mut log, b"another log");
        assert_eq!(log.put_cast(&mut two, 7, 8), Some(true));
        assert!(log.put(&mut two, range, 8));
        assert_eq!(log.put_cast(&mut two, 8, 8), None);
        assert_eq!((bytes_of(&one), bytes_of(&two)), (b"hello".into(), b"helloanother log".into()));
        log.turn();
        assert_eq!(log.put_cast(&mut one, 7, 8), None);
        drop((one, two));
        log.turn();
        assert_eq!(pool.held(), 0);
    }

    #[test]
    fn a_buffer_that_has_come_with_frames_becomes_the_log_if_it_has_more_room() {
        let pool = pool(3, 8);
        let (mut log, mut queue) = (Log::new(&pool), Chain::new(&pool));
        for (frames, parts) in [(&b"xhello"[..], 1), (b"xhello again", 2)] {
            let mut lease = pool.lease().unwrap();
            lease.extend_from_slice(frames);
            lease.consume(1);
            let buffer = Shared::from(lease);
            let range = buffer.range();
            let before = log.lay_aside_for(buffer);
            assert_eq!(log.bytes(range.clone()), &frames[1..]);
            assert!(log.put(&mut queue, range, 8));
            log.keep_roomier(before);
            assert_eq!(queue.leases(), parts);
        }
        let range = write(&mut log, b"!");
        assert_eq!(range, 6..7, "behind the first");
        assert!(log.put(&mut queue, range, 8));
        assert_eq!(bytes_of(&queue), b"hellohello again!");
        drop(queue);
        log.turn();
        assert_eq!(pool.held(), 0);
    }
}
