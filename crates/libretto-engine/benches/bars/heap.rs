//! Counts what is taken from the heap; SQLite's own memory is not in it.

#![allow(unsafe_code)] // an allocator is unsafe by its trait; every call goes on to the system's unchanged

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// What a request really takes of glibc's heap: a word of its own, sixteen at a time, thirty-two at least.
fn size(layout: Layout) -> usize {
    (layout.size() + 8).next_multiple_of(16).max(32)
}

// SAFETY: the system's allocator does everything; counting touches none of its memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(size(layout), Relaxed);
        TAKEN.fetch_add(1, Relaxed);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        LIVE.fetch_sub(size(layout), Relaxed);
        // SAFETY: the caller's promises are the system's.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// Bytes in use.
pub(crate) fn live() -> usize {
    LIVE.load(Relaxed)
}

/// Allocations so far.
pub(crate) fn taken() -> usize {
    TAKEN.load(Relaxed)
}
