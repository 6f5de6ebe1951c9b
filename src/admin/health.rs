//! Whether the server is healthy (each worker's loop turns) and ready (new clients are welcome).
//!
//! A worker that waits is woken, and a worker that works looks at its inbox at the end of its turn.
//! Either counts as a turn. So the workers record nothing for this while nobody asks.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

use super::AdminState;

/// How long a worker's turn may take. No turn of a service that does not block takes as long, even
/// on a busy machine.
pub(super) const TURN_TIME: Duration = Duration::from_secs(2);

/// The result of a look is used again for this time, so that many requests do not wake the workers
/// more often.
const LOOK_GAP: Duration = Duration::from_millis(100);

/// When the workers were looked at last, and those whose loop did not turn.
pub(super) type LastLook = Mutex<Option<(Instant, Vec<usize>)>>;

/// Asks each worker to turn. Returns those that have not done so in [`TURN_TIME`].
pub(super) async fn stalled_workers(state: &AdminState) -> Vec<usize> {
    // Requests that come meanwhile wait here, and then get the same result.
    let mut last = state.last_look.lock().await;
    if let Some((at, stalled)) = &*last
        && at.elapsed() < LOOK_GAP
    {
        return stalled.clone();
    }
    let server = &state.server;
    let asked: Vec<u64> = (0..server.workers()).map(|worker| server.ask_to_turn(worker)).collect();
    let stalled = || {
        let workers = asked.iter().enumerate();
        workers.filter(|(worker, asked)| !server.has_turned(*worker, **asked)).map(|(w, _)| w)
    };
    let (mut waited, mut pause) = (Duration::ZERO, Duration::from_millis(1));
    // Not by the clock: a process that was suspended has not had this time.
    while waited < TURN_TIME && stalled().next().is_some() {
        sleep(pause).await;
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
    let stalled: Vec<usize> = stalled().collect();
    *last = Some((Instant::now(), stalled.clone()));
    stalled
}

/// Why the server is not ready for new clients, if it is not.
pub(super) fn not_ready(state: &AdminState) -> Option<&'static str> {
    if state.is_withdrawn.load(Ordering::Relaxed) {
        return Some("it is about to drain");
    }
    if state.server.is_ending() {
        return Some("it drains or stops");
    }
    if state.server.any_stopped() {
        return Some("accepting is stopped at a listener");
    }
    let paused = state.server.stats().total().listeners_paused > 0;
    paused.then_some("accepting is paused: open files, memory or another resource ran out")
}
