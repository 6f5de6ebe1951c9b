//! The atomics and the queue by which threads pass on commands, permits and buffers. In the tests
//! of `scripts/loom` they are loom's, which tries every interleaving and every value that a load
//! may return.
//!
//! loom knows SeqCst for fences only. So an argument that needs it uses a fence.

#[cfg(not(all(test, loom)))]
pub(crate) use crossbeam_queue::ArrayQueue;
#[cfg(not(all(test, loom)))]
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

#[cfg(all(test, loom))]
pub(crate) use in_model::ArrayQueue;
#[cfg(all(test, loom))]
pub(crate) use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

/// What the tests with loom use.
#[cfg(all(test, loom))]
pub(crate) mod in_model {
    use std::sync::{Arc, Mutex};
    use std::task::{Wake, Waker};

    use super::{AtomicBool, AtomicU32, Ordering};

    /// Runs a test in every interleaving in which threads that could continue are interrupted at
    /// most three times.
    pub(crate) fn check(test: impl Fn() + Sync + Send + 'static) {
        let mut model = loom::model::Builder::new();
        model.preemption_bound = model.preemption_bound.or(Some(3));
        model.check(test);
    }

    /// Stands for crossbeam's queue. It is weaker: it keeps no order, and synchronises only a push
    /// with the pop that takes its value. A push or pop under way may make a place look taken or
    /// empty.
    pub(crate) struct ArrayQueue<T>(Box<[Place<T>]>);

    struct Place<T> {
        state: AtomicU32,
        value: Mutex<Option<T>>,
    }

    const EMPTY: u32 = 0;
    const BUSY: u32 = 1;
    const FULL: u32 = 2;

    impl<T> Place<T> {
        /// Changes the state, if it is the expected one.
        fn becomes(&self, from: u32, to: u32) -> bool {
            self.state.load(Ordering::Relaxed) == from
                && self
                    .state
                    .compare_exchange(from, to, Ordering::Acquire, Ordering::Relaxed)
                    .is_ok()
        }
    }

    impl<T> ArrayQueue<T> {
        /// The model has few threads, which never need more than four places.
        pub(crate) fn new(room: usize) -> ArrayQueue<T> {
            let place = |_| Place { state: AtomicU32::new(EMPTY), value: Mutex::new(None) };
            ArrayQueue((0..room.min(4)).map(place).collect())
        }

        pub(crate) fn push(&self, value: T) -> Result<(), T> {
            let Some(place) = self.0.iter().find(|place| place.becomes(EMPTY, BUSY)) else {
                return Err(value);
            };
            *place.value.lock().unwrap() = Some(value);
            place.state.store(FULL, Ordering::Release);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            let place = self.0.iter().find(|place| place.becomes(FULL, BUSY))?;
            let value = place.value.lock().unwrap().take();
            place.state.store(EMPTY, Ordering::Release);
            value
        }

        pub(crate) fn len(&self) -> usize {
            let is_full = |place: &&Place<T>| place.state.load(Ordering::Relaxed) == FULL;
            self.0.iter().filter(is_full).count()
        }

        #[allow(dead_code)]
        pub(crate) fn is_full(&self) -> bool {
            self.len() == self.0.len()
        }
    }

    /// Whether a worker was woken. Stands for the engine's waker.
    pub(crate) struct Bell(AtomicBool);

    impl Bell {
        pub(crate) fn new() -> Arc<Bell> {
            Arc::new(Bell(AtomicBool::new(false)))
        }

        pub(crate) fn waker(self: &Arc<Bell>) -> Waker {
            Waker::from(self.clone())
        }

        /// Whether it was rung since the last call.
        pub(crate) fn take(&self) -> bool {
            self.0.swap(false, Ordering::AcqRel)
        }
    }

    impl Wake for Bell {
        fn wake(self: Arc<Self>) {
            // An eventfd counts under a lock.
            self.0.swap(true, Ordering::AcqRel);
        }
    }
}
