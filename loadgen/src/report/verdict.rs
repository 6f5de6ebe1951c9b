//! The verdict with its reason, and the exit code. `crate::report::validity` finds whether the
//! generator kept up.

use std::fmt::Write as _;
use std::time::Duration;

use echopool::builtin::url::ServiceOptions;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ending::{EndState, Ending, Objectives};
use super::{Abort, Report, datagram, hub, load_text};
use crate::error::Exit;
use crate::report::validity;
use crate::stats::cpu::SATURATED;
use crate::stats::slo::{Decision, Observed, Outcome};
use crate::units::{counted, counted_of, time_text, was};

/// From this share of the period, the report mentions that the generator waited for processors,
/// which the server or other programs used.
const SHORT_OF_PROCESSORS: f64 = 0.05;

/// Whether the figures are what was asked for, the worst last.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// The figures are what was asked for.
    Valid,
    /// The generator did not keep its schedule, so the figures are at least partly its own.
    GeneratorLimited,
    /// A hub dropped messages, or clients did not receive them.
    NotDelivered,
    /// There were fewer connections than asked for, at first or in place of others that had ended.
    UnderConnected,
    /// Connections ended early, or replies were missing at the end.
    ConnectionsLost,
    /// No connection had a reply.
    NothingServed,
    /// A byte differed from what was sent.
    #[serde(rename = "echo-differed")]
    Differed,
}

impl Verdict {
    /// Every verdict, the worst last.
    pub const ALL: [Verdict; 7] = [
        Verdict::Valid,
        Verdict::GeneratorLimited,
        Verdict::NotDelivered,
        Verdict::UnderConnected,
        Verdict::ConnectionsLost,
        Verdict::NothingServed,
        Verdict::Differed,
    ];

    /// The word for it in JSON and in text.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Valid => "valid",
            Verdict::Differed => "echo-differed",
            Verdict::UnderConnected => "under-connected",
            Verdict::NothingServed => "nothing-served",
            Verdict::ConnectionsLost => "connections-lost",
            Verdict::NotDelivered => "not-delivered",
            Verdict::GeneratorLimited => "generator-limited",
        }
    }
}

impl Report {
    /// The worst that applies to the run.
    pub fn verdict(&self) -> Verdict {
        let worst = Verdict::ALL.into_iter().rev().find(|verdict| self.applies(*verdict));
        worst.unwrap_or(Verdict::Valid)
    }

    fn applies(&self, verdict: Verdict) -> bool {
        let Report { plan, records, .. } = self;
        match verdict {
            Verdict::Differed => records.mismatches > 0,
            Verdict::NothingServed => records.served() == 0,
            Verdict::ConnectionsLost => records.losses.total() > 0 || self.has_unanswered(),
            Verdict::UnderConnected => {
                // If the machine cannot make the default number, the run says so but does not fail.
                let wanted = match plan.connections_explicit {
                    true => plan.connections_asked,
                    false => plan.connections,
                };
                records.established < wanted || records.reconnects_failed > 0
            }
            Verdict::NotDelivered => hub::not_delivered(self),
            Verdict::GeneratorLimited => validity::generator_limit(plan, records).is_some(),
            Verdict::Valid => true,
        }
    }

    /// Whether requests that were sent had no reply. A run that ends early does not wait for its
    /// last ones. Reported drops of a hub are checked separately. That datagrams are lost is what a
    /// run over UDP measures.
    fn has_unanswered(&self) -> bool {
        let records = &self.records;
        if records.datagrams.is_some() {
            return false;
        }
        let dropped = records.hub.map_or(0, |hub| hub.own_dropped);
        records.timed_out + records.unanswered > dropped && !self.ended_early()
    }

    /// What the exit code depends on.
    pub fn state(&self) -> EndState {
        let ending = match self {
            _ if self.interrupted => Ending::Interrupted,
            _ if self.aborted.is_some() => Ending::Aborted,
            _ => Ending::Whole,
        };
        EndState { verdict: self.verdict(), ending, objectives: self.objectives_state() }
    }

    /// The exit code, from the table in `ending`.
    pub fn exit(&self) -> Exit {
        self.state().exit()
    }

    /// The result of each objective.
    pub fn objectives(&self) -> Vec<Outcome> {
        let records = &self.records;
        let long_enough = !records.elapsed().is_zero();
        let observed = Observed {
            latency: &records.latency,
            unfinished: &records.unfinished,
            generator_late: validity::generator_limit(&self.plan, records).is_some(),
            rate: long_enough.then(|| self.requests_per_second()),
            errors: records.connect_failed() + records.losses.total() + records.mismatches,
        };
        self.plan.slos.iter().map(|slo| slo.judge(&observed)).collect()
    }

    /// Of the whole run, or of the second that ended it.
    fn objectives_state(&self) -> Objectives {
        let outcomes = self.objectives();
        let each = outcomes.iter().map(|outcome| match outcome.decision {
            Decision::Met => Objectives::Met,
            Decision::Unfinished | Decision::GeneratorLate => Objectives::Undecided,
            Decision::Missed => Objectives::Missed,
        });
        match self.aborted {
            Some(Abort::Missed(..)) => Objectives::Missed,
            _ => Objectives::of_all(each),
        }
    }

    fn ended_early(&self) -> bool {
        self.interrupted || self.aborted.is_some()
    }

    /// The verdict with what it rests on, in one line.
    pub fn verdict_text(&self) -> String {
        let notes = [self.early_end(), self.notes()].concat();
        format!("{} ({})", self.verdict().word(), notes.join("; "))
    }

    /// The verdict in one plain sentence: what the figures are worth.
    pub fn verdict_sentence(&self) -> String {
        let notes = match self.verdict() {
            Verdict::Valid => self.worth(),
            _ => self.notes(),
        };
        let notes = [self.early_end(), notes].concat();
        format!("{}: {}", self.verdict().word(), notes.join("; "))
    }

    /// The verdict on a run that goes on, in the words of its end. The records have the send lag in
    /// the place of the own lag, of which it is an upper bound: if even that does not limit the run,
    /// the own lag does not. Requests without a reply are known at the end only.
    pub fn verdict_so_far(&self) -> String {
        let Report { plan, records, .. } = self;
        let verdict = self.verdict();
        // From outside of a thread it is not known when it polls in vain.
        let use_known = !records.thread_uses.is_empty() && !plan.busy_poll;
        let (word, notes) = match verdict {
            Verdict::GeneratorLimited => match validity::processor_limit(records) {
                Some(limit) => (verdict.word(), vec![limit]),
                None => ("undecided", vec![self.sent_late()]),
            },
            Verdict::ConnectionsLost => (verdict.word(), vec![self.lost()]),
            Verdict::Valid if use_known => (verdict.word(), self.worth_so_far()),
            Verdict::Valid => (verdict.word(), Vec::new()),
            _ => (verdict.word(), self.notes()),
        };
        let mut text = [&[word.to_string()], &notes[..1.min(notes.len())]].concat().join(": ");
        // Whether the generator is late is not known either.
        let is_known =
            |one: &Outcome| one.decision != Decision::GeneratorLate || word != "undecided";
        let unmet = self.objectives().into_iter().filter(|one| !one.is_met() && is_known(one));
        let more = notes.into_iter().skip(1).chain(unmet.map(|outcome| outcome.to_string()));
        more.for_each(|note| write!(text, "; {note}").expect("writing to a string"));
        text
    }

    fn sent_late(&self) -> String {
        let lag = Duration::from_nanos(self.records.send_lag.value_at_quantile(0.99));
        let lag = time_text(lag);
        format!("requests are sent late (send lag p99 {lag}); the report tells by whose fault")
    }

    fn lost(&self) -> String {
        let Report { records, .. } = self;
        let (lost, all) = (records.losses.total(), records.established + records.reconnects);
        format!("{} lost", counted_of(lost, all, "connection"))
    }

    fn early_end(&self) -> Vec<String> {
        let aborted = self.aborted.as_ref().map(|abort| format!("aborted: {abort}"));
        let interrupted =
            self.interrupted.then(|| "interrupted: a shorter run than asked for".to_string());
        aborted.into_iter().chain(interrupted).collect()
    }

    /// What the figures of a valid run are worth.
    fn worth(&self) -> Vec<String> {
        let Report { plan, records, .. } = self;
        let mut notes = self.worth_so_far();
        if plan.open_loop.is_some() {
            notes.extend(load_text::not_sent(plan, records, self.ended_early()));
        }
        notes.extend(datagram::note(records));
        notes
    }

    /// The same without what only the end shows.
    fn worth_so_far(&self) -> Vec<String> {
        let Report { plan, records, .. } = self;
        let mut notes: Vec<_> = self.as_many_as_possible().into_iter().collect();
        let waiting = records.waiting_share_max().unwrap_or_default();
        notes.push(match (self.generator_busy() >= SATURATED, waiting) {
            (true, _) => "the generator was busy all the time, so the rate is at least partly its \
                          own limit, and latencies include its queueing"
                .into(),
            (false, waiting) if waiting >= SHORT_OF_PROCESSORS => format!(
                "the generator waited for a processor {:.0} % of the time, which is part of the \
                 latencies",
                waiting * 100.0
            ),
            (false, _) if records.thread_uses.iter().any(|used| used.waiting_unknown) => {
                "how long the generator waited for a processor is unknown".into()
            }
            (false, _) => "the generator had time to spare".into(),
        });
        if plan.open_loop.is_some() {
            notes.extend(load_text::own_part(records));
        }
        notes
    }

    fn as_many_as_possible(&self) -> Option<String> {
        let (established, asked) = (self.records.established, self.plan.connections_asked);
        (established < asked).then(|| {
            let of_asked = counted_of(established, asked, "connection");
            format!("{of_asked}, as many as the machine allows")
        })
    }

    /// The verdict, and the objectives that are not met, in one line.
    pub fn result_text(&self) -> String {
        let mut text = self.verdict_text();
        for outcome in self.objectives().iter().filter(|outcome| !outcome.is_met()) {
            write!(text, "; {outcome}").expect("writing to a string");
        }
        text
    }

    fn notes(&self) -> Vec<String> {
        let Report { plan, records, .. } = self;
        let (established, asked) = (records.established, plan.connections_asked);
        let of_asked = counted_of(established, asked, "connection");
        match self.verdict() {
            Verdict::Valid => {
                let mut notes: Vec<_> = self.as_many_as_possible().into_iter().collect();
                match plan.open_loop {
                    None => notes.push("closed loop".to_string()),
                    Some(_) => {
                        notes.extend(load_text::open_loop_notes(plan, records, self.ended_early()))
                    }
                }
                notes.extend(datagram::note(records));
                notes.push(self.busy_note());
                notes
            }
            Verdict::Differed if plan.over_udp || records.datagrams.is_some() => {
                vec![counted(records.mismatches, "reply")]
            }
            Verdict::Differed => {
                vec![format!("on {}", counted_of(records.mismatches, established, "connection"))]
            }
            Verdict::UnderConnected => {
                let mut notes = vec![of_asked];
                if records.reconnects_failed > 0 {
                    let failed = records.reconnects_failed;
                    notes.push(format!(
                        "{} failed in place of connections that had ended",
                        counted(failed, "connect")
                    ));
                }
                if records.never_sent > 0 {
                    let (never, offered) = (records.never_sent, records.offered);
                    let of_offered = counted_of(never, offered, "request");
                    notes.push(format!("{of_offered} {} never sent", was(never)));
                }
                notes
            }
            Verdict::NotDelivered => vec![hub::losses(records)],
            Verdict::GeneratorLimited => {
                let limit = validity::generator_limit(plan, records);
                let mut notes = vec![limit.unwrap_or_default(), self.busy_note()];
                if self.state().objectives == Objectives::Met {
                    notes.push(
                        "every objective is met nevertheless, because the lag is part of each \
                         latency; how much faster the server is, is unknown"
                            .into(),
                    );
                }
                notes
            }
            Verdict::NothingServed => {
                let what = match records.requests + records.warmup_requests {
                    0 => "they or the run ended before anything was sent",
                    _ => "none had a complete reply",
                };
                let mut text = format!("{}, {what}", counted(established, "connection"));
                if !self.interrupted && established > 0 {
                    let name = plan.service.name();
                    write!(text, "; check that the server's service is {name}").expect("a string");
                }
                vec![text]
            }
            Verdict::ConnectionsLost => {
                let unanswered = records.timed_out + records.unanswered;
                let unanswered = counted(unanswered, "request");
                let lost = format!("{}, {unanswered} without a reply", self.lost());
                std::iter::once(lost).chain(self.other_after().map(str::to_string)).collect()
            }
        }
    }

    /// The remedy if connections behave like those of a server with the other `after`.
    fn other_after(&self) -> Option<&'static str> {
        let Report { plan, records, .. } = self;
        let closes = match plan.service {
            ServiceOptions::Message(_) => plan.server_closes,
            _ => return None,
        };
        let losses = records.losses;
        match closes {
            true if losses.timed_out > 0 && records.timed_out == 0 => {
                Some("the server did not close them: if that is intended, use after=keep")
            }
            false if losses.closed_by_peer > 0 => {
                Some("the server closed them: if that is intended, use after=close")
            }
            _ => None,
        }
    }

    fn busy_note(&self) -> String {
        let percent = |share: f64| (share * 100.0).round();
        let (busy, waiting) = (self.generator_busy(), self.generator_waiting());
        let mut note = format!("generator threads {} % busy", percent(busy));
        if waiting >= SHORT_OF_PROCESSORS {
            write!(note, ", of that {} % waiting for a processor", percent(waiting / busy))
                .expect("writing to a string");
        }
        if busy >= SATURATED && self.plan.open_loop.is_none() {
            note += ": the rate is at least partly the generator's, \
                     and latencies include its own queueing";
        }
        note
    }
}
