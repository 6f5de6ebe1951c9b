//! Tells a service manager what the daemon does (the protocol of `sd_notify`): ready, reloading,
//! stopping, and that its workers' loops turn. Without `NOTIFY_SOCKET` this does nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

use super::ending::Ending;
use super::failure::Failure;
use super::spawn;
use crate::base::words::counted;
use crate::server::view::View;

/// The shortest time between two looks at the workers.
const WATCH_GAP_MIN: Duration = Duration::from_millis(1);

/// The daemon serves on this many addresses.
pub(super) fn ready(addresses: usize) {
    notify(&[
        NotifyState::Ready,
        NotifyState::Status(&format!("serving on {}", counted(addresses as u64, "address"))),
    ]);
}

/// A reload begins. [`reloaded`] must follow.
pub(super) fn reloading() {
    let is_stopping = is_stopping();
    if *is_stopping {
        return;
    }
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("cannot read the clock for the service manager: {error}"),
    }
}

/// A reload has ended: what came of it.
pub(super) fn reloaded(status: &str) {
    let is_stopping = is_stopping();
    if *is_stopping {
        return;
    }
    notify(&[NotifyState::Ready, NotifyState::Status(&status.replace('\n', " "))]);
}

/// What comes of an upgrade.
pub(super) fn upgrading(status: &str) {
    let is_stopping = is_stopping();
    if !*is_stopping {
        notify(&[NotifyState::Status(&status.replace('\n', " "))]);
    }
}

/// The daemon ends. A reload may be under way, of which nothing more is said: it would look as if the
/// daemon went on.
pub(super) fn stopping(status: &str) {
    *is_stopping() = true;
    notify(&[NotifyState::Stopping, NotifyState::Status(status)]);
}

/// Whether it was told that the daemon ends. Locked while a reload or an upgrade is told of.
fn is_stopping() -> MutexGuard<'static, bool> {
    static IS_STOPPING: Mutex<bool> = Mutex::new(false);
    IS_STOPPING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// This process is the one that the service manager is to watch.
pub(super) fn main_process(id: u32) {
    notify(&[NotifyState::MainPid(id)]);
}

/// From now on nothing is said: another process has taken over.
pub(super) fn be_silent() {
    IS_SILENT.store(true, Ordering::Relaxed);
}

static IS_SILENT: AtomicBool = AtomicBool::new(false);

fn notify(states: &[NotifyState<'_>]) {
    if IS_SILENT.load(Ordering::Relaxed) {
        return;
    }
    static HAS_FAILED: AtomicBool = AtomicBool::new(false);
    if let Err(error) = sd_notify::notify(states)
        && !HAS_FAILED.swap(true, Ordering::Relaxed)
    {
        log::warn!("cannot notify the service manager (NOTIFY_SOCKET): {error}");
    }
}

/// Starts to feed the watchdog, if the service manager wants that.
///
/// # Errors
/// The system refuses the thread.
pub(super) fn start_watchdog(ending: &Arc<Ending>) -> Result<(), Failure> {
    let Some(limit) = sd_notify::watchdog_enabled() else { return Ok(()) };
    // Half of the time, as systemd recommends.
    let period = (limit / 2).max(WATCH_GAP_MIN);
    let server = ending.server.view();
    spawn("watchdog", move || {
        loop {
            let begun = Instant::now();
            match stalled_worker(&server, period) {
                None => notify(&[NotifyState::Watchdog]),
                Some(worker) => log::error!(
                    "the loop of worker {worker} has not turned for {period:?}: the watchdog is not \
                     fed"
                ),
            }
            thread::sleep(period.saturating_sub(begun.elapsed()));
        }
    })
}

/// Asks each worker to turn. Returns one that has not done so after this time.
fn stalled_worker(server: &View, limit: Duration) -> Option<usize> {
    let asked: Vec<u64> = (0..server.workers()).map(|worker| server.ask_to_turn(worker)).collect();
    let stalled = || {
        let mut workers = asked.iter().enumerate();
        workers
            .find(|(worker, asked)| !server.has_turned(*worker, **asked))
            .map(|(worker, _)| worker)
    };
    // Not by the clock: a process that was suspended has not had this time.
    let (mut waited, mut pause) = (Duration::ZERO, WATCH_GAP_MIN);
    while waited < limit && stalled().is_some() {
        thread::sleep(pause);
        waited += pause;
        pause = (pause * 2).min(Duration::from_millis(50)).min(limit);
    }
    stalled()
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::{SocketAddr, TcpStream};
    use std::sync::Barrier;

    use super::*;
    use crate::config::Config;
    use crate::server::Server;
    use crate::service::{Answer, Connection, Service};

    /// Blocks its worker's loop when data arrives, until it is let go.
    struct Blocks(Arc<Barrier>);

    impl Service for Blocks {
        type Session = ();

        fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
            connection.input.consume(connection.input.len());
            self.0.wait();
            self.0.wait();
            Answer::Continue
        }
    }

    #[test]
    fn a_worker_whose_loop_does_not_turn_is_found() {
        let barrier = Arc::new(Barrier::new(2));
        let service = barrier.clone();
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = Config::new().listen(anywhere).workers(2).max_connections(4);
        let server = Server::start(config, move || Blocks(service.clone())).unwrap();
        let (view, long) = (server.view(), Duration::from_secs(60));
        assert_eq!(stalled_worker(&view, long), None);
        let address = server.local_endpoints()[0].socket_addr().unwrap();
        TcpStream::connect(address).unwrap().write_all(b"x").unwrap();
        barrier.wait();
        assert!(stalled_worker(&view, Duration::from_millis(50)).is_some());
        barrier.wait();
        assert_eq!(stalled_worker(&view, long), None);
        server.stop();
        assert_eq!(stalled_worker(&view, long), None, "it has ended");
    }
}
