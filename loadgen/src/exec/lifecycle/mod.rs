//! The lifecycle of a run, as one thread of clients goes through it, whatever its clients do: they
//! are connected, wait for the other threads, are measured, and wait for what is under way.
//!
//! * here: what such a thread has, its phases, and when it is to be called again
//! * `connections`: they are begun, established, and lost; `targets`: what became of those to each
//!   target
//! * `samples`: its rate and its use of the processor while it measures
//! * `pauses`: the times that it was to work and did not
//! * `leases`: the buffers that it may have on outputs; `sweep`: passes over a table
//!
//! What is sent and received on the way is the clients' own: `client`, `hub`.

use std::sync::Arc;
use std::time::Duration;

use echopool::service::Turn;
use echopool::time::Time;

use crate::exec::control::Control;
use crate::plan::{Plan, Share};
use crate::stats::counts::TargetCount;
use crate::stats::interval::Recorder;
use crate::stats::records::Records;
use crate::stats::tally::Tally;
use crate::traffic::dispatch::Dispatch;

mod connections;
mod leases;
mod samples;
mod stalls;
mod sweep;
mod targets;

pub use connections::{CONNECTS_PER_TURN, ClientSession};
use leases::LeaseBudget;
use samples::Samples;
use stalls::Stalls;
pub use sweep::{PER_TURN, Sweep};

/// How often a thread looks at the common state when nothing else happens.
pub const TICK: Duration = Duration::from_millis(50);
/// The same while it waits for the other threads, or for a buffer.
pub const SHORT_TICK: Duration = Duration::from_millis(1);
/// How long replies are waited for when the run was interrupted.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(1);

/// One thread's lifecycle.
pub struct Lifecycle {
    pub plan: Arc<Plan>,
    pub control: Arc<Control>,
    pub share: Share,
    thread: usize,
    pub phase: Phase,
    pub period: Period,
    /// The schedule of an open loop.
    pub dispatch: Option<Dispatch>,
    /// When it was late, whose schedule that is.
    pub stalls: Stalls,
    /// The first connection is begun then.
    connect_began: Option<Time>,
    connects_begun: usize,
    /// Connections that are being established, and those that are open.
    pub connecting: usize,
    pub open: usize,
    pub leases: LeaseBudget,
    /// The pass over all clients of this phase.
    pub sweep: Sweep,
    next_check: Time,
    pub samples: Samples,
    pub records: Records,
    /// Each second's part of them, while the run goes on.
    pub intervals: Recorder,
}

/// How far the thread has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Connecting,
    /// All connections are established or have failed; other threads may not be so far.
    Ready,
    /// The [period](Period), warm-up included.
    Measuring,
    /// No request is begun any more; each connection closes when it has all that it is to get,
    /// until then.
    Draining(Time),
}

/// When the run measures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period {
    /// Requests intended before are those of the warm-up.
    pub record_from: Time,
    pub end: Time,
}

impl Period {
    /// Not known yet.
    const UNKNOWN: Period = Period { record_from: Time::MAX, end: Time::MAX };

    #[inline]
    pub fn contains(self, now: Time) -> bool {
        (self.record_from..self.end).contains(&now)
    }

    /// The last time within it.
    #[inline]
    pub fn last(self) -> Time {
        self.end.saturating_sub(Duration::from_nanos(1))
    }
}

impl Lifecycle {
    /// The lifecycle of thread number `thread`, before the first connection.
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, thread: usize) -> Lifecycle {
        let share = plan.share(thread);
        let targets = vec![TargetCount::default(); plan.targets.len()];
        Lifecycle {
            intervals: Recorder::new(control.handover(thread).clone()),
            dispatch: plan.dispatch(thread),
            stalls: Stalls::NONE,
            leases: LeaseBudget::new(share.output_leases_max()),
            share,
            plan,
            control,
            thread,
            phase: Phase::Connecting,
            period: Period::UNKNOWN,
            connect_began: None,
            connects_begun: 0,
            connecting: 0,
            open: 0,
            sweep: Sweep::default(),
            next_check: Time::ZERO,
            samples: Samples::default(),
            records: Records { targets, ..Records::default() },
        }
    }

    #[inline]
    pub fn tally(&self) -> &Tally {
        self.control.tally(self.thread)
    }

    /// All connections of this thread are there, or have failed. Answers when to go on.
    pub fn become_ready(&mut self, now: Time) -> Time {
        self.control.ready(now);
        self.phase = Phase::Ready;
        now + SHORT_TICK
    }

    /// Begins the period when all threads are ready and it is time. Answers its start.
    ///
    /// # Errors
    /// It is not: when to ask again.
    pub fn begin_period(&mut self, now: Time) -> Result<Time, Time> {
        let start = self.control.start_at().ok_or(now + SHORT_TICK)?;
        if now < start {
            return Err(start);
        }
        let record_from = start + self.plan.warmup;
        let end = self.plan.duration.map_or(Time::MAX, |duration| record_from + duration);
        self.period = Period { record_from, end };
        self.phase = Phase::Measuring;
        self.stalls.idle_until(start);
        self.records.began = record_from;
        self.intervals.begin(record_from);
        if let Some(dispatch) = &mut self.dispatch {
            dispatch.begin(start);
        }
        Ok(start)
    }

    /// The thread is at work on what the period asks for.
    #[inline]
    pub fn at_work(&mut self, now: Time) {
        let dispatch = self.dispatch.as_ref();
        self.stalls.at_work(now, || dispatch.map_or(Time::MAX, Dispatch::oldest));
    }

    /// When to go on measuring at the latest. `soon`: something is waited for.
    #[inline]
    pub fn next_measure(&self, now: Time, soon: bool) -> Time {
        let next = self.next_look(now, soon).min(self.period.end);
        let next = next.min(self.samples.next().unwrap_or(self.period.record_from));
        let due = self.dispatch.as_ref().and_then(|dispatch| dispatch.next());
        due.filter(|due| *due < self.period.end).map_or(next, |due| next.min(due))
    }

    /// When to look at the common state again, and at the clients.
    #[inline]
    pub fn next_look(&self, now: Time, soon: bool) -> Time {
        let tick = if soon { SHORT_TICK } else { TICK };
        (now + tick).min(self.next_check)
    }

    /// Whether it is time to look for clients that wait for too long: one pass over all of them for
    /// each eighth of the time that they may is cheaper than a timer for each request, and late by
    /// an eighth at most.
    #[inline]
    pub fn check_is_due(&mut self, now: Time, patience: Duration) -> bool {
        let due = now >= self.next_check;
        if due {
            let interval = patience / 8;
            self.next_check =
                now + interval.clamp(Duration::from_millis(10), Duration::from_millis(250));
        }
        due
    }

    /// The run is to end early: anything before the period is dropped, and what is drained is not
    /// waited for long. Answers whether a period that has begun is to be ended.
    pub fn ends_early(&mut self, turn: &mut Turn<'_>) -> bool {
        match self.phase {
            Phase::Connecting | Phase::Ready => turn.stop(),
            Phase::Measuring => return true,
            Phase::Draining(give_up) => {
                let soon = turn.now() + self.plan.timeout.min(INTERRUPTED_WAIT);
                self.phase = Phase::Draining(give_up.min(soon));
            }
        }
        false
    }

    /// The period has ended then: what comes from now on is late.
    pub fn end_period(&mut self, ended: Time) {
        // A reply may have been read after the begin of this turn, and a thread may have had none.
        self.records.ended = ended.max(self.records.began);
        self.records.longest_stall = self.stalls.take_longest();
        self.intervals.end(self.records.ended);
        self.end_samples();
    }

    /// All that was to be sent is sent, or given up: what is under way is waited for.
    pub fn drain(&mut self, now: Time) {
        self.control.measured();
        self.sweep.restart();
        // Later than any reply is waited for, and any peer that does not close.
        let give_up = now + self.plan.timeout + self.share.limits.linger + Duration::from_secs(1);
        self.phase = Phase::Draining(give_up);
    }
}
