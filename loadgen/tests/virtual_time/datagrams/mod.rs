//! Runs over UDP and against STAMP reflectors in a simulated network (`network`). From its log alone
//! follows what became of each datagram (`truth`), and the generator's own account must be the same:
//! its counts, its latencies bucket for bucket, and the losses by direction.
//!
//! A seed draws the flags and the faults (`draw`), and each fault must have happened in some of them
//! (`marks`). `DATAGRAM_SEED` runs one seed.

use std::sync::Arc;

use echopool::time::Time;
use loadgen::exec::control::Control;
use loadgen::exec::datagram::run_over;
use loadgen::plan::Plan;
use loadgen::stats::interval::Collector;
use loadgen::stats::records::Records;
use loadgen::traffic::schedule::Lane;

use crate::world::{assert_intervals, plan_for};
use draw::Drawn;
use marks::{Mark, Marks};
use network::{Event, Network};
use truth::Truth;

mod draw;
mod marks;
mod network;
mod truth;

/// The intended times of an open loop's requests before the end, from the schedule alone: of all
/// sockets together, or of each one. Empty in a closed loop.
fn schedules(plan: &Plan, start: Time, end: Time) -> Vec<Vec<u64>> {
    let Some(open_loop) = &plan.open_loop else { return Vec::new() };
    let lane = Lane::of_thread(0, 1, plan.connections, plan.connections);
    let all = open_loop.arrivals(lane, 0, plan.connections as usize, plan.seed);
    let times = all.into_iter().map(|mut arrivals| {
        let due = || {
            let at = arrivals.next_ns();
            (at < (end - start).as_nanos() as u64).then(|| {
                arrivals.advance(&open_loop.profile);
                start.as_nanos() + at
            })
        };
        std::iter::from_fn(due).collect()
    });
    times.collect()
}

/// Runs a seed and compares.
fn run(seed: u64) -> Marks {
    let drawn = Drawn::new(seed);
    let plan = Arc::new(plan_for(&drawn.flags, drawn.targets));
    let control = Arc::new(Control::new(1, 0, plan.own_requests()));
    let mut network = Network::new(drawn, seed);
    let collector = Collector::new(control.handovers(), control.tallies().clone());
    let records = run_over(&mut network, plan.clone(), control, 0).expect("no system call");
    assert!(!network.has_unread(), "everything that came was read");
    assert_intervals(collector, &records);
    assert_seconds(&network, &plan, &records);
    let start = records.began.saturating_sub(plan.warmup);
    let schedules = schedules(&plan, start, records.ended);
    let mut truth = Truth::new(&network, &plan, records.began, &schedules);
    truth.compare(&records, &schedules);
    truth.marks
}

/// The series of seconds has each reply of the period once. What is read at its last instant, or after
/// a pause at its end, is in the last second too.
fn assert_seconds(network: &Network, plan: &Plan, records: &Records) {
    if !plan.warmup.is_zero() || network.has_paused() {
        return;
    }
    let seen: u64 = records.seconds.steps().iter().map(|second| second.replies).sum();
    let end = records.ended.as_nanos();
    let is_at_end = |event: &&Event| matches!(event, Event::Read { at, .. } if *at == end);
    let at_end = network.log.iter().filter(is_at_end).count() as u64;
    assert!((records.replies..=records.replies + at_end).contains(&seen), "{seen} replies");
}

/// Runs these seeds. Panics with the first one that fails, and if a mark is missing.
fn run_all(seeds: std::ops::Range<u64>) {
    let only = std::env::var("DATAGRAM_SEED").ok().map(|text| text.parse().expect("a seed"));
    let mut marks = Marks::default();
    for seed in only.map_or(seeds, |seed| seed..seed + 1) {
        let ran = std::panic::catch_unwind(|| run(seed));
        let of_seed = ran.unwrap_or_else(|_| panic!("seed {seed}: {}", Drawn::new(seed).flags));
        marks.plus(&of_seed);
    }
    println!("{marks:#?}");
    if only.is_none() {
        let missing: Vec<Mark> = marks.missing().collect();
        assert!(missing.is_empty(), "never happened: {missing:?}");
    }
}

#[test]
fn each_datagram_has_the_fate_that_the_network_gave_it() {
    run_all(0..150);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "5,000 runs: run with --release")]
fn each_datagram_has_its_fate_in_full() {
    run_all(0..5_000);
}

#[test]
#[cfg_attr(debug_assertions, ignore = "5,000 runs: run with --release")]
fn each_datagram_has_its_fate_in_full_with_other_seeds() {
    run_all(5_000..10_000);
}
