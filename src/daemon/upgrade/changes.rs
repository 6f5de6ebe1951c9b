//! Changes of the running process, and an upgrade, which lets none begin: the new process begins with
//! what the settings and the stopped listeners were when it was started.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which of the two goes on.
#[derive(Default)]
pub(super) struct Changes {
    state: Mutex<State>,
    one_has_ended: Condvar,
}

#[derive(Default)]
struct State {
    under_way: usize,
    is_closed: bool,
}

/// A change that is under way, until this is dropped.
pub(super) struct Change<'a>(&'a Changes);

/// No change is under way, and none begins, until this is dropped.
pub(in crate::daemon) struct Closed<'a>(&'a Changes);

impl Changes {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change of it is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change. `None` if an upgrade is under way, or waits to begin.
    pub(super) fn begin(&self) -> Option<Change<'_>> {
        let mut state = self.lock();
        (!state.is_closed).then(|| {
            state.under_way += 1;
            Change(self)
        })
    }

    /// Lets no change begin any more, and waits for those that are under way, and before that for
    /// others who do this. After each `look` it asks whether to wait on.
    ///
    /// # Errors
    /// What `waits_on` returns.
    pub(super) fn close<E>(
        &self,
        look: Duration,
        mut waits_on: impl FnMut() -> Result<(), E>,
    ) -> Result<Closed<'_>, E> {
        let mut state = self.wait_while(look, |state| state.is_closed, &mut waits_on)?;
        state.is_closed = true;
        drop(state);
        let closed = Closed(self);
        drop(self.wait_while(look, |state| state.under_way > 0, &mut waits_on)?);
        Ok(closed)
    }

    fn wait_while<E>(
        &self,
        look: Duration,
        condition: impl Fn(&State) -> bool,
        waits_on: &mut impl FnMut() -> Result<(), E>,
    ) -> Result<MutexGuard<'_, State>, E> {
        loop {
            let holds = |state: &mut State| condition(state);
            let waited = self.one_has_ended.wait_timeout_while(self.lock(), look, holds);
            let (state, result) = waited.unwrap_or_else(PoisonError::into_inner);
            if !result.timed_out() {
                return Ok(state);
            }
            drop(state);
            waits_on()?;
        }
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.lock().under_way -= 1;
        self.0.one_has_ended.notify_all();
    }
}

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.lock().is_closed = false;
        self.0.one_has_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::*;

    const LOOK: Duration = Duration::from_millis(1);
    const GUARD: Duration = Duration::from_secs(60);

    #[test]
    fn changes_begin_beside_each_other_and_not_beside_an_upgrade() {
        let changes = Changes::default();
        let both = (changes.begin(), changes.begin());
        assert!(both.0.is_some() && both.1.is_some());
        drop(both);
        let closed = changes.close(LOOK, || Err("nothing is under way")).ok().unwrap();
        assert!(changes.begin().is_none());
        drop(closed);
        assert!(changes.begin().is_some());
    }

    #[test]
    fn an_upgrade_that_gives_up_its_wait_lets_changes_begin_again() {
        let changes = Changes::default();
        let hangs = changes.begin();
        let mut looks = 0;
        let gives_up = changes.close(LOOK, || {
            assert!(changes.begin().is_none(), "it would wait behind new ones for ever");
            looks += 1;
            if looks == 3 { Err(()) } else { Ok(()) }
        });
        assert!(gives_up.is_err() && looks == 3);
        assert!(changes.begin().is_some());
        drop(hangs);
        assert!(changes.close(LOOK, || Err(())).is_ok());
    }

    #[test]
    fn an_upgrade_begins_when_the_last_change_has_ended() {
        let changes = Changes::default();
        let (first, last) = (changes.begin(), changes.begin());
        thread::scope(|scope| {
            let upgrade = scope.spawn(|| drop(changes.close(LOOK, || Ok::<(), ()>(()))));
            let begun = Instant::now();
            while changes.begin().is_some() {
                assert!(begun.elapsed() < GUARD, "the upgrade does not even wait");
                thread::yield_now();
            }
            drop(first);
            assert!(!upgrade.is_finished(), "the last one is still under way");
            drop(last);
        });
    }

    #[test]
    fn an_upgrade_waits_for_another_who_lets_no_change_begin() {
        let changes = Changes::default();
        let closed = changes.close(LOOK, || Ok::<(), ()>(())).unwrap();
        let mut looks = 0;
        let gives_up = changes.close(LOOK, || {
            looks += 1;
            if looks == 3 { Err(()) } else { Ok(()) }
        });
        assert!(gives_up.is_err() && looks == 3);
        assert!(changes.begin().is_none(), "the other one still lets none begin");
        drop(closed);
        assert!(changes.begin().is_some());
    }
}
