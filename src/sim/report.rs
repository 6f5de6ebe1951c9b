//! The result of a seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::marks::Marks;
use super::world::{SharedWorld, Trace};

/// The result of a seed.
#[derive(Debug)]
pub struct Report {
    /// What failed, or `None` if the seed passed.
    pub failure: Option<String>,
    /// Hash of all events in order. It is the same for the same seed.
    pub hash: u64,
    /// How often each mark was hit.
    pub marks: Marks,
    /// Simulated time that passed.
    pub simulated: Duration,
    /// The trace, one event per line. Empty unless requested.
    pub trace: Vec<String>,
}

/// Runs a world to its end and reports the result.
pub(super) fn report_of(world: &SharedWorld, run: impl FnOnce()) -> Report {
    let begun = world.borrow().now;
    let failure = failure_of(run);
    let Ok(mut world) = world.try_borrow_mut() else { unreachable!("unwinding ends all borrows") };
    let simulated = world.now - begun;
    let marks = std::mem::take(&mut world.marks);
    Report::new(failure, &mut world.trace, marks, simulated)
}

/// Runs something, and returns what its panic says.
pub(super) fn failure_of(run: impl FnOnce()) -> Option<String> {
    catch_unwind(AssertUnwindSafe(run)).err().map(|panic| text_of(&*panic))
}

impl Report {
    pub(super) fn new(
        failure: Option<String>,
        trace: &mut Trace,
        marks: Marks,
        simulated: Duration,
    ) -> Report {
        let (hash, lines) = (trace.hash(), trace.lines.take());
        Report { failure, hash, marks, simulated, trace: lines.unwrap_or_default() }
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
        .unwrap_or_else(|| "a panic without a message".to_string())
}
