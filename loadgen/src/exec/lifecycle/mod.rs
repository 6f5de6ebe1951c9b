//! The lifecycle of a run in one thread of clients, whatever its clients do: they connect, wait for
//! the other threads, are measured, and wait for outstanding replies.
//!
//! * here: the state of such a thread, its phases, and the time of its next call
//! * `connections`: connections are begun, established, and lost; `targets`: counts per target
//! * `looks`: up to which time everything that has arrived has been read, for time-outs
//! * `samples`: rate and processor use of the thread during the measured period
//! * `stalls`: times in which it should have worked and did not
//! * `leases`: the buffers on its outputs; `sweep`: passes over a table
//!
//! `client` and `hub` decide what is sent and how received bytes are processed.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use echopool::service::Turn;
use echopool::time::Time;

use crate::exec::control::Control;
use crate::plan::{Plan, Share};
use crate::stats::interval::Recorder;
use crate::stats::records::{GivenUp, Records};
use crate::stats::tally::Tally;
use crate::traffic::dispatch::Dispatch;

mod connections;
mod leases;
mod looks;
mod samples;
mod stalls;
mod sweep;
mod targets;

use connections::Attempt;
pub use connections::{CONNECTS_PER_TURN, ClientSession};
use leases::LeaseBudget;
use looks::Looks;
use samples::Samples;
use stalls::Stalls;
pub use sweep::{PER_TURN, Sweep};

/// Interval at which a thread checks the shared state when nothing else happens.
pub const TICK: Duration = Duration::from_millis(50);
/// The same while it waits for the other threads, or for a buffer.
pub const SHORT_TICK: Duration = Duration::from_millis(1);
/// How long an interrupted run waits for replies.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(1);

/// The lifecycle of one thread.
pub struct Lifecycle {
    pub plan: Arc<Plan>,
    pub control: Arc<Control>,
    pub share: Share,
    thread: usize,
    pub phase: Phase,
    pub period: Period,
    /// The schedule of an open loop.
    pub dispatch: Option<Dispatch>,
    /// The times in which this thread was late for its schedule.
    pub stalls: Stalls,
    /// When the first connection was begun.
    connect_began: Option<Time>,
    connects_begun: usize,
    /// Connects that are to be tried at another address of their target, and, for those under way
    /// for which there is another address, the end of their time-out.
    attempts: VecDeque<Attempt>,
    untils: BTreeMap<usize, Time>,
    /// Connections being established, and open connections.
    pub connecting: usize,
    pub open: usize,
    pub leases: LeaseBudget,
    /// The pass over all clients in this phase.
    pub sweep: Sweep,
    next_check: Time,
    looks: Looks,
    pub samples: Samples,
    pub records: Records,
    /// The part of the records of each second, during the run.
    pub intervals: Recorder,
}

/// The phase of a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Connecting,
    /// All connections are established or have failed. Other threads may not be ready yet.
    Ready,
    /// The [period](Period), warm-up included.
    Measuring,
    /// No request is begun any more. Each connection closes when it has received everything, at the
    /// latest at this time.
    Draining(Time),
}

/// The measured period.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Period {
    /// Requests with an earlier intended time belong to the warm-up.
    pub record_from: Time,
    pub end: Time,
    /// With a number of requests in an open loop: when the request after the last one would be due.
    /// The period does not end before, even if all requests have.
    pub until: Time,
}

impl Period {
    /// Not known yet.
    const UNKNOWN: Period = Period { record_from: Time::MAX, end: Time::MAX, until: Time::ZERO };

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
    /// The lifecycle of thread number `thread` before its first connection.
    pub fn new(plan: Arc<Plan>, control: Arc<Control>, thread: usize) -> Lifecycle {
        let share = plan.share(thread);
        let looks = Looks::new(share.connections, plan.size);
        let mut records = Records::of_targets(plan.targets.len());
        records.tls = plan.tls.as_ref().map(|_| Box::default());
        Lifecycle {
            intervals: Recorder::new(control.handover(thread).clone()),
            dispatch: plan.dispatch(thread),
            stalls: Stalls::NONE,
            leases: LeaseBudget::new(share.output_leases_max),
            share,
            plan,
            control,
            thread,
            phase: Phase::Connecting,
            period: Period::UNKNOWN,
            connect_began: None,
            connects_begun: 0,
            attempts: VecDeque::new(),
            untils: BTreeMap::new(),
            connecting: 0,
            open: 0,
            sweep: Sweep::default(),
            next_check: Time::ZERO,
            looks,
            samples: Samples::default(),
            records,
        }
    }

    #[inline]
    pub fn tally(&self) -> &Tally {
        self.control.tally(self.thread)
    }

    /// All connections of this thread are established or have failed. Returns the time of the next
    /// call.
    pub fn become_ready(&mut self, now: Time) -> Time {
        self.control.ready(now);
        self.phase = Phase::Ready;
        now + SHORT_TICK
    }

    /// Begins the period when all threads are ready and its time has come. Returns its start.
    ///
    /// # Errors
    /// It is too early: the time of the next attempt.
    pub fn begin_period(&mut self, now: Time) -> Result<Time, Time> {
        let start = self.control.start_at().ok_or(now + SHORT_TICK)?;
        if now < start {
            return Err(start);
        }
        let record_from = start + self.plan.warmup;
        let end = self.plan.duration.map_or(Time::MAX, |duration| record_from + duration);
        if let Some(dispatch) = &mut self.dispatch {
            dispatch.begin(start);
        }
        let schedule = self.plan.open_loop.as_ref().and_then(|one| one.profile.end_ns());
        let until = schedule.map_or(Time::ZERO, |nanos| start + Duration::from_nanos(nanos));
        self.period = Period { record_from, end, until };
        self.phase = Phase::Measuring;
        self.stalls.idle_until(start, start);
        self.records.began = record_from;
        self.intervals.begin(record_from);
        Ok(start)
    }

    /// Records that the thread is working.
    #[inline]
    pub fn at_work(&mut self, now: Time) {
        let dispatch = self.dispatch.as_ref();
        self.stalls.at_work(now, || dispatch.map_or(Time::MAX, Dispatch::oldest));
    }

    /// The latest time of the next call while measuring. `soon`: something is waiting.
    #[inline]
    pub fn next_measure(&self, now: Time, soon: bool) -> Time {
        self.next_look(now, soon).min(self.next_due(now))
    }

    /// The same without looks at the clients and the shared state.
    #[inline]
    pub fn next_due(&self, now: Time) -> Time {
        let next = self.period.end;
        let next = next.min(self.samples.next().unwrap_or(self.period.record_from));
        let next = if now < self.period.until { next.min(self.period.until) } else { next };
        let due = self.dispatch.as_ref().and_then(|dispatch| dispatch.next());
        due.filter(|due| *due < self.period.end).map_or(next, |due| next.min(due))
    }

    /// When to check the shared state and the clients again.
    #[inline]
    pub fn next_look(&self, now: Time, soon: bool) -> Time {
        let tick = if soon { SHORT_TICK } else { TICK };
        (now + tick).min(self.next_check)
    }

    /// The same while draining. A thread whose connections are closed waits for those of others.
    #[inline]
    pub fn next_drain(&self, now: Time, soon: bool) -> Time {
        self.next_look(now, soon || self.open == 0)
    }

    /// Whether no thread waits for a reply any more, and this one for no connection that it began;
    /// or this one has waited until `give_up`.
    pub fn all_is_over(&self, give_up: Time) -> bool {
        let control = &self.control;
        let all_closed = || control.all_measured() && control.tallies().snapshot().open == 0;
        let is_over = control.stopped() || (self.connecting == 0 && all_closed());
        self.open == 0 && is_over || self.looked_at() >= give_up
    }

    /// Whether a number of requests was given, and each of this thread's was begun or can no longer
    /// be. `is_gone`: whether a connection of the thread has ended for good.
    pub fn all_is_begun(&self, now: Time, is_gone: impl Fn(usize) -> bool) -> bool {
        if self.plan.open_loop.is_none() {
            return self.control.requests_used_up();
        }
        // A thread without a sender of a hub has no schedule.
        let is_exhausted = |dispatch: &Dispatch| dispatch.is_exhausted(&is_gone);
        self.schedule_is_over(now) && self.dispatch.as_ref().is_none_or(is_exhausted)
    }

    /// Whether an open loop has a number of requests, and all of them are due.
    pub fn schedule_is_over(&self, now: Time) -> bool {
        let is_limited = self.plan.requests.is_some() && self.plan.open_loop.is_some();
        is_limited && now >= self.period.until
    }

    /// Called at the start of each turn.
    #[inline]
    pub fn begin_turn(&mut self, now: Time) {
        self.looks.turn(now);
    }

    /// Everything that had arrived by this time has been read. What is overdue is found by this
    /// time and not by the present: after a pause of the thread, replies may lie in their sockets.
    #[inline]
    pub fn looked_at(&self) -> Time {
        self.looks.looked_at()
    }

    /// Whether it is time to look for clients that have waited too long. One pass over all clients
    /// per eighth of their patience is cheaper than a timer per request, and late by an eighth at
    /// most. While it is due, turns follow each other until all sockets have been read.
    #[inline]
    pub fn check_is_due(&mut self, now: Time, patience: Duration) -> bool {
        let due = self.looked_at() >= self.next_check;
        if due {
            let interval = patience / 8;
            self.next_check =
                now + interval.clamp(Duration::from_millis(10), Duration::from_millis(250));
        }
        due
    }

    /// Ends the run early: before the period everything is dropped, and draining is shortened.
    /// Returns whether a period that has begun must be ended.
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

    /// Ends the period at this time: what arrives from now on is late.
    pub fn end_period(&mut self, ended: Time) {
        // A reply may have been read after the start of this turn, and a thread may have had none.
        self.records.ended = ended.max(self.records.began);
        self.records.longest_stall = self.stalls.take_longest();
        self.intervals.end(self.records.ended);
        self.end_samples();
    }

    /// Open loop: gives up the requests that were due before the end and for which there was no
    /// room. There may be millions of them, so this is done when no thread waits for a reply any
    /// more.
    pub fn abandon(&mut self) {
        let Lifecycle { dispatch, records, intervals, period, .. } = self;
        let Some(dispatch) = dispatch else { return };
        let ended = records.ended;
        dispatch.abandon(ended, |intended| {
            if intended >= period.record_from {
                records.offered += 1;
                records.give_up(ended, None, intended, GivenUp::NeverSent);
                intervals.give_up(ended, ended - intended);
            }
        });
    }

    /// Everything was sent or given up: waits for outstanding replies.
    pub fn drain(&mut self, now: Time) {
        self.control.measured();
        self.sweep.restart();
        // Later than any time-out of a reply, and than the linger of a peer that does not close.
        let give_up = now + self.plan.timeout + self.share.limits.linger + Duration::from_secs(1);
        self.phase = Phase::Draining(give_up);
    }
}
