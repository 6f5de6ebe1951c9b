//! Whether the generator kept its schedule: the criteria for calling an open-loop run
//! generator-limited. `docs/measuring.md` describes them.

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::plan::Plan;
use crate::stats::cpu::SATURATED;
use crate::stats::records::{Backlog, Records};
use crate::stats::tally::BEHIND;
use crate::traffic::rate::Rate;
use crate::units::{counted, counted_of, time_text, was};

/// At the 99th percentile, the generator's own lag may be 1/4 of the latency.
pub const OWN_LAG_PART: u64 = 4;

/// An own lag up to this is always accepted. It is the time that a timer and a turn of the loop
/// take on a machine with a spare processor.
pub const OWN_LAG_FREE: Duration = Duration::from_micros(100);

/// A thread that waits for a processor for this share of the time is kept from running: this share
/// of the replies arrives meanwhile and is not read.
pub const KEPT_FROM_RUNNING: f64 = 0.1;

/// Why the generator could not keep its schedule. `None` if it could, and in a closed loop.
pub fn generator_limit(plan: &Plan, records: &Records) -> Option<String> {
    plan.open_loop.as_ref()?;
    lag_limit(records).or_else(|| processor_limit(records))
}

/// The same without the own lag, which is not known while the run goes on.
pub fn processor_limit(records: &Records) -> Option<String> {
    saturation_limit(records).or_else(|| waiting_limit(records))
}

/// The own lag is part of each latency. If it is a large part, the run measured the generator,
/// whatever the reason: its own work, too few processors, or a noisy machine.
fn lag_limit(records: &Records) -> Option<String> {
    let own = records.own_lag.value_at_quantile(0.99);
    let latency = records.latency.value_at_quantile(0.99);
    let bound = lag_bound(latency);
    (own > bound).then(|| {
        format!(
            "it sent late on its own account: lag p99 {}, more than the {} allowed of a latency \
             p99 of {}",
            time(own),
            time(bound),
            time(latency)
        )
    })
}

/// Whether the own lag is a large part of the latency at this quantile.
pub fn lags_at(records: &Records, quantile: f64) -> bool {
    let at = |values: &Histogram<u64>| values.value_at_quantile(quantile);
    at(&records.own_lag) > lag_bound(at(&records.latency))
}

/// Why more was offered at a constant rate than was answered in time, for as long as it was offered.
/// `None` if the server took what was offered.
///
/// Requests that are outstanding at the end are no sign of it: with a constant latency there are
/// equally many in the middle. So the two are compared.
pub fn beyond_capacity(plan: &Plan, records: &Records) -> Option<String> {
    let rate = plan.rate?;
    if records.never_sent > tolerance(records.offered, 100) {
        return Some(format!(
            "beyond capacity: {} {} answered in time; {} {} never sent, because no connection had room",
            counted(records.replies, "request"),
            was(records.replies),
            counted_of(records.never_sent, records.offered, "request"),
            was(records.never_sent)
        ));
    }
    let Some(Backlog { middle, end }) = records.backlog else {
        return outlasts(records, rate);
    };
    (end > middle + tolerance(records.offered, 1_000)).then(|| {
        format!(
            "beyond capacity: {} {} outstanding at the end, and {middle} in the middle",
            counted(end, "request"),
            was(end)
        )
    })
}

/// A part of the requests that chance explains, and at least two.
fn tolerance(offered: u64, part: u64) -> u64 {
    (offered / part).max(2)
}

/// For a run that ends with its last reply: it took longer than its requests were due in.
fn outlasts(records: &Records, rate: Rate) -> Option<String> {
    const AT_LEAST: Duration = Duration::from_millis(50);
    let due =
        Duration::from_secs_f64(records.offered.saturating_sub(1) as f64 / rate.as_per_second());
    // That of the early ones, if they queue.
    let latency = Duration::from_nanos(records.latency.value_at_quantile(0.1));
    let longer = records.elapsed().saturating_sub(due + latency);
    (longer > AT_LEAST.max(due / 20)).then(|| {
        let [took, due] = [records.elapsed(), due].map(time_text);
        format!("beyond capacity: the replies took {took}, and the requests were due within {due}")
    })
}

fn lag_bound(latency_ns: u64) -> u64 {
    (latency_ns / OWN_LAG_PART).max(OWN_LAG_FREE.as_nanos() as u64)
}

/// If a thread is never idle, connections look busy because their replies are not read.
fn saturation_limit(records: &Records) -> Option<String> {
    if records.saturated_seconds > 0 {
        let seconds = records.elapsed().as_secs_f64().ceil() as u64;
        return Some(format!(
            "a thread was behind its schedule and at least {:.0} % busy in {}",
            SATURATED * 100.0,
            // The last one may be shorter than the others.
            counted_of(records.saturated_seconds.min(seconds), seconds, "second"),
        ));
    }
    let shares = records.thread_uses.iter().map(|used| records.share(used, used.busy()));
    let busiest = shares.reduce(f64::max)?;
    (busiest >= SATURATED).then(|| format!("a thread was {:.0} % busy", busiest.min(1.0) * 100.0))
}

/// A thread that cannot run does not read replies, so connections look busy and requests wait. The
/// own lag does not show that, and the thread is not saturated either.
fn waiting_limit(records: &Records) -> Option<String> {
    let sent_late = records.send_lag.value_at_quantile(0.99) > BEHIND.as_nanos() as u64;
    let behind = sent_late || records.never_sent * 100 > records.offered;
    let waited = records.waiting_share_max()?;
    (behind && waited >= KEPT_FROM_RUNNING).then(|| {
        format!(
            "requests were late while a thread waited for a processor {:.0} % of the time",
            waited * 100.0
        )
    })
}

fn time(nanos: u64) -> String {
    crate::units::time_us(nanos as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::plan;
    use crate::stats::cpu::ThreadUse;
    use echopool::time::Time;

    /// An open loop of one second in which own lag and latency are constant.
    fn records(own_us: u64, latency_us: u64, busy_ms: u64) -> Records {
        let (began, ended) = (Time::from_nanos(5), Time::from_nanos(1_000_000_005));
        let mut records = Records { began, ended, ..Records::default() };
        for _ in 0..1000 {
            records.own_lag.record(own_us * 1000).unwrap();
            records.latency.record(latency_us * 1000).unwrap();
        }
        let running = Duration::from_millis(busy_ms);
        records.thread_uses = vec![ThreadUse { running, ..ThreadUse::default() }];
        records
    }

    fn limit(records: &Records) -> Option<String> {
        generator_limit(&plan("127.0.0.1:7 -R 1k"), records)
    }

    #[test]
    fn a_generator_that_keeps_its_schedule_is_no_limit() {
        assert_eq!(limit(&records(30, 60, 500)), None, "small lags are free");
        assert_eq!(limit(&records(900, 4_000, 500)), None, "a fifth of the latency");
    }

    #[test]
    fn a_lag_that_is_a_large_part_of_the_latency_is_a_limit() {
        let reason = limit(&records(900, 2_000, 500)).expect("nearly half of it");
        assert!(reason.contains("900.10us") && reason.contains("500.22us allowed"), "{reason}");
    }

    #[test]
    fn a_thread_that_is_never_idle_is_a_limit() {
        let reason = limit(&records(30, 60, 960)).expect("96 %");
        assert!(reason.contains("96 % busy"), "{reason}");
        let mut records = records(30, 60, 500);
        records.saturated_seconds = 2;
        records.ended = records.ended + Duration::from_millis(1_500);
        assert!(limit(&records).expect("two such seconds").contains("in 2 of 3 seconds"));
    }

    #[test]
    fn requests_that_pile_up_are_beyond_the_capacity_and_constantly_many_are_not() {
        let plan = plan("127.0.0.1:7 -R 10k");
        let beyond = |middle, end, never_sent| {
            let mut records = records(0, 1, 1);
            (records.offered, records.replies, records.never_sent) = (10_000, 9_000, never_sent);
            records.backlog = Some(Backlog { middle, end });
            beyond_capacity(&plan, &records)
        };
        assert_eq!(
            [beyond(500, 500, 0), beyond(500, 510, 0), beyond(500, 1, 100)],
            [None, None, None]
        );
        let text = beyond(500, 511, 0).expect("eleven in five thousand");
        assert!(
            text.ends_with(": 511 requests were outstanding at the end, and 500 in the middle")
        );
        let text = beyond(500, 500, 101).expect("one in a hundred");
        assert!(
            text.contains(": 9000 requests were answered in time; 101 of 10000 requests"),
            "{text}"
        );
        let mut records = records(0, 1, 1);
        (records.offered, records.never_sent) = (0, 3);
        let changing = crate::report::tests::plan("127.0.0.1:7 --stages 1s:1");
        assert_eq!(beyond_capacity(&changing, &records), None, "no rate to compare with");
        assert!(beyond_capacity(&plan, &records).is_some(), "three of few");
    }

    #[test]
    fn a_number_of_requests_that_takes_longer_than_it_is_due_is_beyond_the_capacity() {
        let plan = plan("127.0.0.1:7 -R 1k -n 1001");
        let beyond = |elapsed_ms, latency_us| {
            let mut records = records(0, latency_us, 1);
            records.ended = records.began + Duration::from_millis(elapsed_ms);
            records.offered = 1_001;
            beyond_capacity(&plan, &records)
        };
        assert_eq!([beyond(1_040, 1), beyond(1_900, 900_000)], [None, None]);
        let text = beyond(1_060, 1).expect("a twentieth longer");
        assert!(
            text.ends_with("the replies took 1.06s, and the requests were due within 1.00s"),
            "{text}"
        );
    }

    #[test]
    fn a_thread_that_is_kept_from_running_while_requests_are_late_is_a_limit() {
        let with = |waiting_ms, late_ms: u64, never_sent| {
            let mut records = records(0, 200_000, 250);
            records.thread_uses[0].waiting = Duration::from_millis(waiting_ms);
            records.send_lag.record_n(late_ms * 1_000_000, 1_000).unwrap();
            (records.offered, records.never_sent) = (1_000 + never_sent, never_sent);
            limit(&records)
        };
        assert!(with(150, 20, 0).expect("late").contains("waited for a processor 15 % of"));
        assert!(with(150, 0, 500).is_some(), "what is never sent is late");
        assert_eq!(with(150, 1, 5), None, "in time");
        assert_eq!(with(50, 20, 500), None, "it ran when it wanted to: the server is slow");
    }

    #[test]
    fn a_closed_loop_has_no_schedule_to_keep() {
        let plan = plan("127.0.0.1:7");
        assert_eq!(generator_limit(&plan, &records(900, 1_000, 1_000)), None);
    }

    /// The values are those that the histograms keep exactly, or the upper ends of their steps.
    #[test]
    fn a_limit_that_is_just_reached_is_kept() {
        let kept = |own: u64, latency: u64| {
            let mut records = records(0, 0, 500);
            records.own_lag.reset();
            records.latency.reset();
            records.own_lag.record_n(own, 1_000).unwrap();
            records.latency.record_n(latency, 1_000).unwrap();
            assert_eq!(lags_at(&records, 0.999), limit(&records).is_some());
            !lags_at(&records, 0.999)
        };
        // 1_048_063 is the largest value that the histogram does not distinguish from it; a quarter
        // of it is 262_015, which is such a value too.
        let mut values = records(0, 0, 1).latency;
        values.record(1_048_063).unwrap();
        let quarter = values.highest_equivalent(1_048_063) / OWN_LAG_PART;
        assert_eq!(values.highest_equivalent(quarter), quarter);
        assert!(kept(quarter, 1_048_063));
        assert!(!kept(quarter + 1, 1_048_063));
    }

    #[test]
    fn requests_that_are_just_not_late_are_in_time() {
        let plan = plan("127.0.0.1:7 -R 1k -n 1001");
        let mut short = records(0, 1, 1);
        (short.offered, short.ended) = (1_001, short.began);
        // The first tenth of the latencies is subtracted as the histogram keeps it.
        let latency = Duration::from_nanos(short.latency.value_at_quantile(0.1));
        let due = Duration::from_secs(1);
        short.ended = short.began + due + latency + Duration::from_millis(50);
        assert_eq!(beyond_capacity(&plan, &short), None, "exactly a twentieth");
        short.ended = short.ended + Duration::from_nanos(1);
        assert!(beyond_capacity(&plan, &short).is_some());

        let waited = |never_sent| {
            let mut records = records(0, 200_000, 250);
            records.thread_uses[0].waiting = Duration::from_millis(150);
            (records.offered, records.never_sent) = (1_000, never_sent);
            limit(&records).is_some()
        };
        assert_eq!((waited(10), waited(11)), (false, true), "one in a hundred");
    }
}
