//! What is reported of a seed.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use super::marks::Marks;
use super::world::Shared;

/// What came of a seed.
#[derive(Debug)]
pub struct Report {
    /// What was wrong, if anything was.
    pub failure: Option<String>,
    /// Of everything that happened, in order: the same for the same seed.
    pub hash: u64,
    /// What happened how often.
    pub marks: Marks,
    /// How long it was in the world.
    pub simulated: Duration,
    /// The story, if it was asked for.
    pub story: Vec<String>,
}

/// Runs a world to its end, and reports what came of it.
pub(super) fn report_of(world: &Shared, run: impl FnOnce()) -> Report {
    let begun = world.borrow().now;
    let result = catch_unwind(AssertUnwindSafe(run));
    let failure = match result {
        Ok(()) => None,
        Err(panic) => Some(text_of(&*panic)),
    };
    let Ok(mut world) = world.try_borrow_mut() else {
        unreachable!("a borrow ends with the panic that it was held in")
    };
    let story = world.story.lines.take().unwrap_or_default();
    Report {
        failure,
        hash: world.story.hash(),
        marks: std::mem::take(&mut world.marks),
        simulated: world.now - begun,
        story,
    }
}

fn text_of(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_string()))
        .unwrap_or_else(|| "a panic without words".to_string())
}
