//! One allocation cut into buffers of equal size, addressed by number.
//!
//! The arena does not know which buffers are free or who uses them. `pool` and `lease` keep track
//! of that, and make the access here sound: each number is in one place only, a free list or a
//! lease.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::io;
use std::ops::Range;
use std::ptr::NonNull;

/// Buffers start at multiples of the page size, so that a buffer that was never used takes no
/// memory.
const ALIGNMENT: usize = 4096;

/// `count` buffers of `buffer_size` bytes. The system zeroes a page when it is first touched, so
/// memory that is never used is never resident.
pub(super) struct Arena {
    allocation: NonNull<u8>,
    layout: Layout,
    /// Bytes from the start of the allocation to the first buffer.
    offset: usize,
    buffer_size: usize,
    count: u32,
}

// SAFETY: the arena is plain memory with a fixed address. Shared access hands out disjoint buffers
// only, under the contract of `bytes_mut`, so threads do not reach the same bytes.
unsafe impl Send for Arena {}
// SAFETY: as for Send.
unsafe impl Sync for Arena {}

impl Arena {
    /// Allocates `count` buffers of `buffer_size` bytes.
    ///
    /// # Errors
    /// Out of memory, or a size that no address space can hold.
    pub(super) fn new(buffer_size: usize, count: u32) -> io::Result<Arena> {
        assert!(buffer_size > 0 && count > 0, "an arena without bytes");
        let no_memory = || io::Error::from(io::ErrorKind::OutOfMemory);
        let bytes = buffer_size.checked_mul(count as usize).ok_or_else(no_memory)?;
        let with_room = bytes.checked_add(ALIGNMENT).ok_or_else(no_memory)?;
        let layout = Layout::from_size_align(with_room, 1).map_err(|_| no_memory())?;
        // SAFETY: the layout's size is not zero: both factors were checked.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(no_memory)?;
        let offset = allocation.addr().get().next_multiple_of(ALIGNMENT) - allocation.addr().get();
        Ok(Arena { allocation, layout, offset, buffer_size, count })
    }

    pub(super) fn buffer_size(&self) -> usize {
        self.buffer_size
    }

    pub(super) fn count(&self) -> u32 {
        self.count
    }

    /// The bytes of a buffer, for reading.
    ///
    /// # Safety
    /// The caller owns the number `id`, and nobody writes to the buffer while the result is in use.
    #[inline]
    pub(super) unsafe fn bytes(&self, id: u32) -> &[u8] {
        assert!(id < self.count, "no buffer has this number");
        // SAFETY: the number is in range, so the bytes lie within the one allocation, which was
        // zeroed and lives as long as `self`; the caller ensures that nobody writes to them.
        unsafe {
            let at = self.offset + id as usize * self.buffer_size;
            std::slice::from_raw_parts(self.allocation.as_ptr().add(at), self.buffer_size)
        }
    }

    /// A range of the bytes of a buffer, for reading. Other bytes of the buffer may be written
    /// meanwhile, with [`write`](Arena::write).
    ///
    /// # Safety
    /// Nobody writes to the range while the result is in use.
    #[inline]
    pub(super) unsafe fn range(&self, id: u32, range: Range<usize>) -> &[u8] {
        assert!(id < self.count, "no buffer has this number");
        assert!(range.start <= range.end && range.end <= self.buffer_size, "beyond the buffer");
        // SAFETY: as in `bytes`, for a part of the buffer.
        unsafe {
            let at = self.offset + id as usize * self.buffer_size + range.start;
            std::slice::from_raw_parts(self.allocation.as_ptr().add(at), range.len())
        }
    }

    /// Writes into a buffer while other parts of it are being read.
    ///
    /// # Safety
    /// Nobody else writes to the buffer, and nobody reads the part that is written to.
    pub(super) unsafe fn write(&self, id: u32, at: usize, bytes: &[u8]) {
        assert!(id < self.count, "no buffer has this number");
        assert!(at <= self.buffer_size && bytes.len() <= self.buffer_size - at, "no room");
        // SAFETY: source and destination are valid for the length and do not overlap. Nobody reads
        // the destination, and no reference to it is made.
        unsafe {
            let to = self.offset + id as usize * self.buffer_size + at;
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.allocation.as_ptr().add(to),
                bytes.len(),
            );
        }
    }

    // Here the result has the arena's lifetime; `lease` narrows it to the borrow of the lease,
    // which makes it unique.
    /// The bytes of a buffer, for writing.
    ///
    /// # Safety
    /// The caller owns the number `id` exclusively, and neither passes it on nor calls this again
    /// for it while the result is in use.
    #[allow(clippy::mut_from_ref)]
    #[inline]
    pub(super) unsafe fn bytes_mut(&self, id: u32) -> &mut [u8] {
        assert!(id < self.count, "no buffer has this number");
        // SAFETY: the number is in range, so the bytes lie within the one allocation, which was
        // zeroed and lives as long as `self`; the caller owns the number, so no other reference to
        // these bytes exists.
        unsafe {
            let start = self.allocation.as_ptr().add(self.offset + id as usize * self.buffer_size);
            std::slice::from_raw_parts_mut(start, self.buffer_size)
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with this layout. Every lease holds a reference to the arena,
        // so none is left.
        unsafe { dealloc(self.allocation.as_ptr(), self.layout) }
    }
}

#[cfg(test)]
mod tests {
    /// Memory that is never touched takes only addresses. The arenas are large enough to stand out
    /// from what other tests do at the same time.
    #[cfg(target_os = "linux")]
    #[test]
    fn an_arena_that_is_dropped_gives_its_memory_back() {
        let address_space = || {
            let status = std::fs::read_to_string("/proc/self/status").unwrap();
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
            size.trim().strip_suffix(" kB").unwrap().parse::<usize>().unwrap() * 1024
        };
        const ARENA: u32 = 1 << 28;
        let before = address_space();
        for _ in 0..256 {
            drop(super::Arena::new(4096, ARENA / 4096).unwrap());
        }
        let grown = address_space().saturating_sub(before);
        assert!(grown < 128 * ARENA as usize, "{grown} bytes left of 256 arenas");
    }
}
