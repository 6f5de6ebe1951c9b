//! An allocator that counts the allocations of marked threads, for tests that allow none.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};

/// Whether allocations of marked threads are counted now.
pub static COUNTING: AtomicBool = AtomicBool::new(false);
/// Number of counted allocations.
pub static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes that marked threads have allocated and not freed while they were counted.
pub static LIVE_BYTES: AtomicI64 = AtomicI64::new(0);

thread_local! {
    /// Whether this thread is marked.
    pub static IS_MARKED: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

fn counts() -> bool {
    COUNTING.load(Ordering::Relaxed) && IS_MARKED.get()
}

fn note(bytes: usize) {
    if counts() {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        LIVE_BYTES.fetch_add(bytes as i64, Ordering::Relaxed);
    }
}

fn note_free(bytes: usize) {
    if counts() {
        LIVE_BYTES.fetch_sub(bytes as i64, Ordering::Relaxed);
    }
}

// SAFETY: all calls are forwarded to the system allocator, and counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller upholds the same contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        note(new_size);
        note_free(layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, new_size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note_free(layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;
