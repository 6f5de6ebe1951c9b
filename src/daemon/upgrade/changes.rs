//! Keeps changes of the running process apart from upgrades. During an upgrade no change starts,
//! because the new process starts with the settings and the stopped listeners of that moment. In
//! the new process, no change starts before it has taken over.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Which of the two goes on.
#[derive(Default)]
pub(super) struct Changes {
    state: Mutex<ChangeGate>,
    one_has_ended: Condvar,
}

#[derive(Default)]
struct ChangeGate {
    under_way: usize,
    /// What lets no change begin.
    closed: Option<Obstacle>,
}

/// What something has to wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Obstacle {
    /// Changes that are under way.
    Changes,
    /// This process is being replaced, or is about to be.
    Upgrade,
    /// This process has not taken over yet.
    Takeover,
}

/// A change that is under way, until this is dropped.
pub(super) struct Change<'a>(&'a Changes);

/// No change is under way, and none begins, until this is dropped.
pub(in crate::daemon) struct Closed<'a>(&'a Changes);

impl Changes {
    fn lock(&self) -> MutexGuard<'_, ChangeGate> {
        // Each change of it is a single assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a change.
    ///
    /// # Errors
    /// What lets none begin.
    pub(super) fn begin(&self) -> Result<Change<'_>, Obstacle> {
        let mut state = self.lock();
        match state.closed {
            Some(obstacle) => Err(obstacle),
            None => {
                state.under_way += 1;
                Ok(Change(self))
            }
        }
    }

    /// Lets no change begin any more because of `why`, and waits for those that are under way, and
    /// before that for others who do this. After each `look` it asks whether to wait on for what is in
    /// the way.
    ///
    /// # Errors
    /// What `waits_on` returns.
    pub(super) fn close<E>(
        &self,
        why: Obstacle,
        look: Duration,
        mut waits_on: impl FnMut(Obstacle) -> Result<(), E>,
    ) -> Result<Closed<'_>, E> {
        let mut state = self.wait_while(look, |state| state.closed, &mut waits_on)?;
        state.closed = Some(why);
        drop(state);
        let closed = Closed(self);
        let under_way = |state: &ChangeGate| (state.under_way > 0).then_some(Obstacle::Changes);
        drop(self.wait_while(look, under_way, &mut waits_on)?);
        Ok(closed)
    }

    fn wait_while<E>(
        &self,
        look: Duration,
        in_the_way: impl Fn(&ChangeGate) -> Option<Obstacle>,
        waits_on: &mut impl FnMut(Obstacle) -> Result<(), E>,
    ) -> Result<MutexGuard<'_, ChangeGate>, E> {
        loop {
            let holds = |state: &mut ChangeGate| in_the_way(state).is_some();
            let waited = self.one_has_ended.wait_timeout_while(self.lock(), look, holds);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            let Some(obstacle) = in_the_way(&state) else { return Ok(state) };
            drop(state);
            waits_on(obstacle)?;
        }
    }

    /// Waits until this process has taken over from another, if it is about to.
    pub(super) fn wait_for_takeover(&self) {
        let holds = |state: &mut ChangeGate| state.closed == Some(Obstacle::Takeover);
        drop(self.one_has_ended.wait_while(self.lock(), holds));
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
        self.0.lock().closed = None;
        self.0.one_has_ended.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Instant;

    use super::Obstacle::{Takeover, Upgrade};
    use super::*;

    const LOOK: Duration = Duration::from_millis(1);
    const GUARD: Duration = Duration::from_secs(60);

    #[test]
    fn changes_begin_beside_each_other_and_not_beside_an_upgrade() {
        let changes = Changes::default();
        let both = (changes.begin(), changes.begin());
        assert!(both.0.is_ok() && both.1.is_ok());
        drop(both);
        for obstacle in [Upgrade, Takeover] {
            let closed =
                changes.close(obstacle, LOOK, |_| Err("nothing is under way")).ok().unwrap();
            assert_eq!(changes.begin().err(), Some(obstacle));
            drop(closed);
            assert!(changes.begin().is_ok());
        }
    }

    #[test]
    fn an_upgrade_that_gives_up_its_wait_lets_changes_begin_again() {
        let changes = Changes::default();
        let hangs = changes.begin();
        let mut looks = 0;
        let gives_up = changes.close(Upgrade, LOOK, |obstacle| {
            assert!(changes.begin().is_err(), "it would wait behind new ones for ever");
            assert_eq!(obstacle, Obstacle::Changes);
            looks += 1;
            if looks == 3 { Err(()) } else { Ok(()) }
        });
        assert!(gives_up.is_err() && looks == 3);
        assert!(changes.begin().is_ok());
        drop(hangs);
        assert!(changes.close(Upgrade, LOOK, |_| Err(())).is_ok());
    }

    #[test]
    fn an_upgrade_begins_when_the_last_change_has_ended() {
        let changes = Changes::default();
        let (first, last) = (changes.begin(), changes.begin());
        thread::scope(|scope| {
            let upgrade = scope.spawn(|| drop(changes.close(Upgrade, LOOK, |_| Ok::<(), ()>(()))));
            let begun = Instant::now();
            while changes.begin().is_ok() {
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
        let closed = changes.close(Takeover, LOOK, |_| Ok::<(), ()>(())).unwrap();
        let mut looks = 0;
        let gives_up = changes.close(Upgrade, LOOK, |obstacle| {
            assert_eq!(obstacle, Takeover);
            looks += 1;
            if looks == 3 { Err(()) } else { Ok(()) }
        });
        assert!(gives_up.is_err() && looks == 3);
        assert!(changes.begin().is_err(), "the other one still lets none begin");
        drop(closed);
        assert!(changes.begin().is_ok());
    }
}
