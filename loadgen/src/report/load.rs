//! What the reports say of the load: how each request ended, and how well the schedule was kept.

use serde::Serialize;

use super::distribution::Distribution;
use crate::stats::cpu::ThreadUse;
use crate::stats::records::Records;
use crate::stats::timeseries::Second;

/// The part of a report for machines.
#[derive(Serialize)]
pub struct Form {
    requests_offered: u64,
    requests_completed: u64,
    requests_timed_out: u64,
    requests_never_sent: u64,
    requests_warmup: u64,
    service_time: Distribution,
    send_lag: Distribution,
    own_lag: Distribution,
    connect_latency: Distribution,
    fairness_jain: f64,
    reconnects: u64,
    generator_threads: Vec<Thread>,
    seconds_step_ns: u64,
    seconds: Vec<Step>,
    saturated_seconds: u64,
    longest_pause_ns: u64,
    rude_clients: Vec<Rude>,
}

#[derive(Serialize)]
struct Thread {
    running_ns: u64,
    waiting_ns: u64,
    polling_ns: u64,
    switches_voluntary: u64,
    switches_involuntary: u64,
}

#[derive(Serialize)]
struct Step {
    length_ns: u64,
    sent: u64,
    replies: u64,
    outstanding_mean: f64,
    outstanding_expected: f64,
    running_ns: u64,
    waiting_ns: u64,
    polling_ns: u64,
}

#[derive(Serialize)]
struct Rude {
    kind: &'static str,
    asked: u64,
    established: u64,
    connect_failed: u64,
    finished: u64,
    closed_by_server: u64,
    reset_by_server: u64,
    bytes_sent: u64,
    bytes_received: u64,
}

impl Form {
    pub fn new(records: &Records) -> Form {
        Form {
            requests_offered: records.offered,
            requests_completed: records.completed(),
            requests_timed_out: records.timed_out,
            requests_never_sent: records.never_sent,
            requests_warmup: records.warmup_requests,
            service_time: Distribution::new(&records.service_time),
            send_lag: Distribution::new(&records.send_lag),
            own_lag: Distribution::new(&records.own_lag),
            connect_latency: Distribution::new(&records.connect),
            fairness_jain: records.fairness(),
            reconnects: records.reconnects,
            generator_threads: threads(records),
            seconds_step_ns: records.seconds.step().as_nanos() as u64,
            seconds: records.seconds.steps().iter().map(step).collect(),
            saturated_seconds: records.saturated_seconds,
            longest_pause_ns: records.longest_pause.as_nanos() as u64,
            rude_clients: rude(records),
        }
    }
}

fn threads(records: &Records) -> Vec<Thread> {
    let thread = |used: &ThreadUse| Thread {
        running_ns: used.running.as_nanos() as u64,
        waiting_ns: used.waiting.as_nanos() as u64,
        polling_ns: used.polling.as_nanos() as u64,
        switches_voluntary: used.switches_voluntary,
        switches_involuntary: used.switches_involuntary,
    };
    records.thread_uses.iter().map(thread).collect()
}

fn step(second: &Second) -> Step {
    Step {
        length_ns: second.length().as_nanos() as u64,
        sent: second.sent,
        replies: second.replies,
        outstanding_mean: second.outstanding_mean(),
        outstanding_expected: second.outstanding_expected(),
        running_ns: second.running_ns,
        waiting_ns: second.waiting_ns,
        polling_ns: second.polling_ns,
    }
}

fn rude(records: &Records) -> Vec<Rude> {
    let rude = |count: &crate::stats::counts::RudeCount| Rude {
        kind: count.kind.word(),
        asked: count.asked,
        established: count.established,
        connect_failed: count.connect_failed,
        finished: count.finished,
        closed_by_server: count.closed_by_server,
        reset_by_server: count.reset_by_server,
        bytes_sent: count.bytes_sent,
        bytes_received: count.bytes_received,
    };
    records.rude.iter().map(rude).collect()
}
