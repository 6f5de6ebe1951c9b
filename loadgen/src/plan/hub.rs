//! The plan of a hub run: who sends, who never reads, and whether the flags go together.

use echopool::builtin::url::HubOptions;
use echopool::framing::ByteOrder;

use crate::cli::RunSpec;
use crate::error::Failure;
use crate::traffic::hub_frames::{PAYLOAD_MAX, STAMP_BYTES};
use crate::traffic::sizes::Sizes;

/// Message numbers kept to know what each client should receive from each sender, at most: 128 MiB.
const PAIRS_MAX: u64 = 16 << 20;

/// Send times kept in all rings together, and in one ring at most and at least. With messages of
/// 100 bytes this is more than the kernel's buffers and a hub's usual queue hold on the way to one
/// client.
const TIMES: usize = 1 << 22;
const TIMES_EACH_MAX: usize = 1 << 17;
const TIMES_EACH_MIN: usize = 1 << 10;

/// The part of a plan that only a hub run has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubPlan {
    pub order: ByteOrder,
    pub notices: bool,
    /// Connections of the run.
    pub connections: u64,
    /// Connections that send, and connections that never read.
    pub senders: u64,
    pub never_read: u64,
    pub allow_drops: bool,
}

impl HubPlan {
    /// Makes the plan.
    ///
    /// # Errors
    /// The flags contradict each other, or ask for something that a hub does not have.
    pub fn new(spec: &RunSpec, options: &HubOptions, connections: u64) -> Result<HubPlan, Failure> {
        check_load(spec, options)?;
        let plan = HubPlan {
            order: options.order,
            notices: options.notices,
            connections,
            senders: spec.hub.senders.unwrap_or(1),
            never_read: spec.hub.never_read.unwrap_or(0),
            allow_drops: spec.hub.allow_drops,
        };
        let (senders, never_read) = (plan.senders, plan.never_read);
        if senders + never_read > connections {
            return usage(format!(
                "--senders {senders} and --never-read {never_read} are more than -c \
                 {connections}: senders must also read"
            ));
        }
        if senders * connections > PAIRS_MAX {
            return usage(format!(
                "{senders} senders and {connections} connections are too many pairs: at most \
                 {PAIRS_MAX}, so --senders {} here",
                PAIRS_MAX / connections
            ));
        }
        Ok(plan)
    }

    /// Whether threads could have too few readers for their share of the senders.
    pub fn wants_one_thread(&self, threads: usize) -> bool {
        self.never_read > 0
            && self.senders + self.never_read + 2 * threads as u64 > self.connections
    }

    /// Whether a connection reads. Those that do not are evenly spread.
    pub fn reads(&self, connection: u64) -> bool {
        let before = |connection: u64| connection * self.never_read / self.connections;
        before(connection) == before(connection + 1)
    }

    /// The connections that send: in each thread the first ones that read. Threads have equal
    /// shares of them, up to a difference of one. `firsts`: the first connection of each thread.
    pub fn senders(&self, firsts: &[u64]) -> Vec<u64> {
        let threads = firsts.len() as u64;
        let of_thread = |(nth, first): (u64, &u64)| {
            let count = self.senders * (nth + 1) / threads - self.senders * nth / threads;
            (*first..self.connections).filter(|one| self.reads(*one)).take(count as usize)
        };
        (0..).zip(firsts).flat_map(of_thread).collect()
    }

    /// Memory for messages and clients of a run, in bytes.
    pub fn memory_bytes(&self) -> u64 {
        let numbers = self.senders * self.connections * size_of::<u64>() as u64;
        let times = self.senders * (times_each(self.senders as usize) * size_of::<u64>()) as u64;
        numbers + times
    }
}

/// Refuses the flags that are only for a hub.
///
/// # Errors
/// One of them was given.
pub fn refuse_flags(spec: &RunSpec) -> Result<(), Failure> {
    let hub = &spec.hub;
    let given = [
        (hub.senders.is_some(), "--senders"),
        (hub.never_read.is_some(), "--never-read"),
        (hub.allow_drops, "--allow-drops"),
    ];
    match given.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, flag)) => usage(format!("{flag} needs a hub: hub://host:port")),
    }
}

fn check_load(spec: &RunSpec, options: &HubOptions) -> Result<(), Failure> {
    let load = &spec.load;
    let max = options.max_message.map_or(PAYLOAD_MAX, u64::from);
    match &load.size {
        Sizes::Fixed(size) if *size < STAMP_BYTES as u64 => usage(format!(
            "-l {size}: a hub's messages carry their sender and number, so they have at least \
             {STAMP_BYTES} bytes"
        )),
        Sizes::Fixed(size) if *size > max => {
            usage(format!("-l {size}: the hub's messages have at most {max} bytes (max-message)"))
        }
        Sizes::Fixed(_) => Ok(()),
        _ => usage("a hub's messages have one size: use -l 100, for example".into()),
    }?;
    let unsuited = [
        (load.lifetime.is_some(), "--lifetime"),
        (load.warmup.is_some(), "--warmup"),
        (load.reconnect, "--reconnect"),
        (load.rude.is_some(), "--with"),
    ];
    match unsuited.into_iter().find(|(given, _)| *given) {
        None => Ok(()),
        Some((_, "--with")) => usage("--with does not work with a hub: use --never-read N".into()),
        Some((_, flag)) => {
            usage(format!("{flag} does not work with a hub, whose clients stay for the run"))
        }
    }
}

fn usage<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Usage(text))
}

/// Number of send times kept for each sender. A power of two.
pub fn times_each(senders: usize) -> usize {
    (TIMES / senders.max(1)).clamp(TIMES_EACH_MIN, TIMES_EACH_MAX).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hub(connections: u64, senders: u64, never_read: u64) -> HubPlan {
        let (order, notices, allow_drops) = (ByteOrder::Little, true, false);
        HubPlan { order, notices, connections, senders, never_read, allow_drops }
    }

    #[test]
    fn those_that_never_read_are_spread_and_as_many_as_asked_for() {
        for (connections, never_read) in [(10, 0), (10, 1), (10, 9), (1_000, 10), (7, 3)] {
            let plan = hub(connections, 1, never_read);
            let silent: Vec<_> = (0..connections).filter(|one| !plan.reads(*one)).collect();
            assert_eq!(silent.len() as u64, never_read, "{silent:?}");
        }
    }

    #[test]
    fn each_thread_has_its_part_of_the_senders() {
        assert_eq!(hub(10, 1, 0).senders(&[0]), [0]);
        assert_eq!(hub(10, 10, 0).senders(&[0, 3, 6]), (0..10).collect::<Vec<_>>());
        assert_eq!(hub(10, 5, 0).senders(&[0, 5]), [0, 1, 5, 6, 7]);
        let plan = hub(1_000, 3, 10);
        let senders = plan.senders(&[0, 500]);
        assert_eq!(senders, [0, 500, 501]);
        assert!(senders.iter().all(|one| plan.reads(*one)));
    }

    #[test]
    fn threads_have_the_readers_for_their_senders() {
        for connections in 1..40u64 {
            for never_read in 0..connections {
                for senders in 1..=connections - never_read {
                    for threads in 1..=4usize.min(connections as usize) {
                        let plan = hub(connections, senders, never_read);
                        let threads = if plan.wants_one_thread(threads) { 1 } else { threads };
                        let first = |nth: usize| connections * nth as u64 / threads as u64;
                        let firsts: Vec<_> = (0..threads).map(first).collect();
                        let mut found = plan.senders(&firsts);
                        for (nth, begin) in firsts.iter().enumerate() {
                            let end = first(nth + 1);
                            let here = found.iter().filter(|one| (*begin..end).contains(one));
                            let due = senders * (nth as u64 + 1) / threads as u64
                                - senders * nth as u64 / threads as u64;
                            assert_eq!(here.count() as u64, due, "{plan:?}, {threads} threads");
                        }
                        found.dedup();
                        assert_eq!(found.len() as u64, senders);
                    }
                }
            }
        }
    }

    #[test]
    fn memory_is_bounded_however_many_send() {
        for senders in [1, 10, 100, 1_000, 4_000] {
            assert!(
                hub(senders, senders, 0).memory_bytes() - senders * senders * 8 <= 64 << 20,
                "{senders}"
            );
        }
    }
}
