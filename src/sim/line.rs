//! The channel through which a worker's connections move to the process that has replaced its own.
//! It stands in for the Unix sockets of `daemon/upgrade/connections.rs`, and may break at each
//! message.

use std::sync::{Arc, Mutex, MutexGuard};

use super::marks::Mark;
use crate::shared::mailbox::Mailboxes;
use crate::shared::moved::{self, Facts, Moved, Passed, Passing, Successor};
use crate::shared::permits::{Permit, Permits};

/// Both ends of a line.
#[derive(Clone)]
pub(super) struct Line(Arc<Mutex<LineState>>);

/// How often a line fails, in offers (of `refuses`: connections) per million.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Failures {
    /// The new process has no place for a connection, for example no service that is the same.
    pub(super) refuses: u32,
    /// Not all descriptors come.
    pub(super) short: u32,
    /// The new process does not hear that it is to go on.
    pub(super) breaks: u32,
}

struct LineState {
    rng: fastrand::Rng,
    failures: Failures,
    /// `None` once the line is closed.
    heir: Option<(Arc<Mailboxes>, Arc<Permits>)>,
    /// Connections of the new process that it has not passed to a worker yet.
    moved: Vec<Moved>,
    marks: Vec<Mark>,
}

impl Line {
    pub(super) fn to(
        mailboxes: &Arc<Mailboxes>,
        permits: &Arc<Permits>,
        failures: Failures,
        rng: fastrand::Rng,
    ) -> Line {
        let heir = Some((mailboxes.clone(), permits.clone()));
        Line(Arc::new(Mutex::new(LineState {
            rng,
            failures,
            heir,
            moved: Vec::new(),
            marks: Vec::new(),
        })))
    }

    fn state(&self) -> MutexGuard<'_, LineState> {
        self.0.lock().expect("nobody panics with it")
    }

    pub(super) fn close(&self) {
        self.state().heir = None;
    }

    pub(super) fn is_open(&self) -> bool {
        self.state().heir.is_some()
    }

    /// What has come through since the last call, and what happened meanwhile.
    pub(super) fn take(&self) -> (Vec<Moved>, Vec<Mark>) {
        let mut state = self.state();
        (std::mem::take(&mut state.moved), std::mem::take(&mut state.marks))
    }
}

impl Successor for Line {
    fn take(&mut self, connections: &[(Facts, Passing<'_>)]) -> Result<Vec<bool>, String> {
        self.state().take(connections)
    }
}

impl LineState {
    fn take(&mut self, connections: &[(Facts, Passing<'_>)]) -> Result<Vec<bool>, String> {
        let Some((mailboxes, permits)) = self.heir.clone() else {
            return Err(self.fail(Mark::LineClosed));
        };
        if self.chance(self.failures.short) {
            return Err(self.fail(Mark::BatchShort));
        }
        let ends = mailboxes.ordered_end(0).is_some() || mailboxes.retires();
        if ends {
            self.marks.push(Mark::OfferedToEnding);
        }
        let mut place = |facts: &Facts| -> Option<Permit> {
            if self.chance(self.failures.refuses) {
                return None;
            }
            moved::place(&mailboxes, &permits, facts.peer)
        };
        let places: Vec<_> = connections.iter().map(|(facts, _)| place(facts)).collect();
        let taken: Vec<bool> = places.iter().map(Option::is_some).collect();
        if !ends && taken.contains(&false) {
            self.marks.push(Mark::MoveRefused);
        }
        if self.chance(self.failures.breaks) {
            return Err(self.fail(Mark::LineBroken));
        }
        for ((facts, socket), place) in connections.iter().zip(places) {
            let (Some(permit), Passing::Simulated(token)) = (place, socket) else { continue };
            let socket = Passed::Simulated(token.clone());
            self.moved.push(Moved { facts: *facts, socket, permit });
        }
        Ok(taken)
    }

    fn chance(&mut self, rate: u32) -> bool {
        rate > 0 && self.rng.u32(0..1_000_000) < rate
    }

    /// The line breaks.
    fn fail(&mut self, mark: Mark) -> String {
        self.marks.push(mark);
        self.heir = None;
        format!("{mark:?}")
    }
}
