//! Where the time of requests went, in the objects of a run and of several.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Distribution;
use crate::report::parts::SLOWEST;
use crate::stats::parts::{OfParts, Part, Parts, Row, slowest};

/// Where the time of the requests that had their reply went. For each request the parts add up to
/// its latency. Only the differences of the server's times are used, so the clocks need not agree.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "parts")]
pub struct PartsSummary {
    /// The request was due, its connection had room, and the generator was late. Zero in a closed
    /// loop.
    pub generator_lag: Distribution,
    /// The request was due, and no connection had room for it. Zero in a closed loop.
    pub connection_wait: Distribution,
    /// From the send to the server's loop, and from there to the generator's, without the other
    /// parts: the network and both kernels, there and back.
    pub network: Distribution,
    /// From when the server's loop was told of the request to when its service took it up.
    pub server_wait: Distribution,
    /// The service worked on the request.
    pub server_service: Distribution,
    /// From when the generator's loop was told of the reply, or could have been if its thread had had
    /// a processor, to when it read it.
    pub generator_read: Distribution,
    /// The parts of all requests as shares of their latencies.
    pub shares: PartShares,
    /// The same of the slowest requests: at least one in a hundred.
    pub shares_slowest: PartShares,
    /// The same requests, in order of their latencies, in groups in which these differ by at most 3
    /// %. Groups of several runs can be added.
    pub by_latency: Vec<PartsGroup>,
    /// Replies whose server's times were longer than the round trip, and were cut.
    pub times_cut: u64,
    /// How long each way took, if the server's times are from the clock of the generator's machine;
    /// null otherwise.
    pub one_way: Option<OneWaySummary>,
}

/// The parts of requests as shares of their latencies.
#[derive(Clone, Copy, Default, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PartShares {
    /// Requests.
    pub requests: u64,
    /// Share of generator_lag.
    #[schemars(range(max = 1))]
    pub generator_lag_ratio: f64,
    /// Share of connection_wait.
    #[schemars(range(max = 1))]
    pub connection_wait_ratio: f64,
    /// Share of network.
    #[schemars(range(max = 1))]
    pub network_ratio: f64,
    /// Share of server_wait.
    #[schemars(range(max = 1))]
    pub server_wait_ratio: f64,
    /// Share of server_service.
    #[schemars(range(max = 1))]
    pub server_service_ratio: f64,
    /// Share of generator_read.
    #[schemars(range(max = 1))]
    pub generator_read_ratio: f64,
}

/// Requests of about the same latency, with the sum of each part.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PartsGroup {
    /// The largest latency of the group.
    pub latency_max_ns: u64,
    /// Requests.
    pub requests: u64,
    /// Sum of generator_lag.
    pub generator_lag_ns: u64,
    /// Sum of connection_wait.
    pub connection_wait_ns: u64,
    /// Sum of network.
    pub network_ns: u64,
    /// Sum of server_wait.
    pub server_wait_ns: u64,
    /// Sum of server_service.
    pub server_service_ns: u64,
    /// Sum of generator_read.
    pub generator_read_ns: u64,
}

/// How long each way took.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "one_way")]
pub struct OneWaySummary {
    /// From the send to the server's loop.
    pub there: Distribution,
    /// From the server's send to the generator's loop.
    pub back: Distribution,
    /// Replies that contradict the clocks being one: taken up before they were sent, or arrived
    /// before they were sent back.
    pub contradictions: u64,
    /// By how much, at most.
    pub contradiction_max_ns: u64,
}

impl PartsSummary {
    /// Those of a run.
    pub fn new(parts: &Parts) -> PartsSummary {
        let [generator_lag, connection_wait, network, server_wait, server_service, generator_read] =
            parts.each.each_ref().map(Distribution::new);
        let by_latency = parts.rows().map(|(max, row)| PartsGroup::new(max, row)).collect();
        let one_way = &parts.one_way;
        let mut summary = PartsSummary {
            generator_lag,
            connection_wait,
            network,
            server_wait,
            server_service,
            generator_read,
            shares: PartShares::default(),
            shares_slowest: PartShares::default(),
            by_latency,
            times_cut: parts.cut,
            one_way: (!one_way.there.is_empty()).then(|| OneWaySummary {
                there: Distribution::new(&one_way.there),
                back: Distribution::new(&one_way.back),
                contradictions: one_way.contradictions,
                contradiction_max_ns: one_way.contradiction_max,
            }),
        };
        summary.set_shares();
        summary
    }

    /// The distributions, in the order of [`Part::ALL`].
    pub fn each(&self) -> OfParts<&Distribution> {
        [
            &self.generator_lag,
            &self.connection_wait,
            &self.network,
            &self.server_wait,
            &self.server_service,
            &self.generator_read,
        ]
    }

    /// The distributions, each with its key.
    pub fn by_name(&self) -> impl Iterator<Item = (&'static str, &Distribution)> {
        Part::ALL.into_iter().map(Part::key).zip(self.each())
    }

    /// The groups as rows.
    pub fn rows(&self) -> impl DoubleEndedIterator<Item = (u64, Row)> + Clone {
        self.by_latency.iter().map(|group| (group.latency_max_ns, group.row()))
    }

    fn set_shares(&mut self) {
        self.shares = PartShares::new(slowest(self.rows(), 1.0).0);
        self.shares_slowest = PartShares::new(slowest(self.rows(), SLOWEST).0);
    }

    /// Both together.
    ///
    /// # Errors
    /// A histogram is missing or malformed.
    pub fn plus(&self, other: &PartsSummary) -> Result<PartsSummary, String> {
        let mut groups = std::collections::BTreeMap::<u64, Row>::new();
        for (max, row) in self.rows().chain(other.rows()) {
            groups.entry(max).or_default().add(&row);
        }
        let one_way = match (&self.one_way, &other.one_way) {
            (Some(one), Some(other)) => Some(OneWaySummary {
                there: one.there.plus(&other.there)?,
                back: one.back.plus(&other.back)?,
                contradictions: one.contradictions + other.contradictions,
                contradiction_max_ns: one.contradiction_max_ns.max(other.contradiction_max_ns),
            }),
            _ => None,
        };
        let mut sum = PartsSummary {
            generator_lag: self.generator_lag.plus(&other.generator_lag)?,
            connection_wait: self.connection_wait.plus(&other.connection_wait)?,
            network: self.network.plus(&other.network)?,
            server_wait: self.server_wait.plus(&other.server_wait)?,
            server_service: self.server_service.plus(&other.server_service)?,
            generator_read: self.generator_read.plus(&other.generator_read)?,
            by_latency: groups.into_iter().map(|(max, row)| PartsGroup::new(max, row)).collect(),
            times_cut: self.times_cut + other.times_cut,
            one_way,
            ..self.clone()
        };
        sum.set_shares();
        Ok(sum)
    }
}

impl PartShares {
    fn new(row: Row) -> PartShares {
        let shares = row.shares();
        let of = |part: Part| shares[part as usize];
        PartShares {
            requests: row.count,
            generator_lag_ratio: of(Part::Generator),
            connection_wait_ratio: of(Part::Connection),
            network_ratio: of(Part::Network),
            server_wait_ratio: of(Part::Waiting),
            server_service_ratio: of(Part::Service),
            generator_read_ratio: of(Part::Reading),
        }
    }

    /// The shares, in the order of [`Part::ALL`].
    pub fn each(&self) -> OfParts<f64> {
        [
            self.generator_lag_ratio,
            self.connection_wait_ratio,
            self.network_ratio,
            self.server_wait_ratio,
            self.server_service_ratio,
            self.generator_read_ratio,
        ]
    }
}

impl PartsGroup {
    fn new(latency_max_ns: u64, row: Row) -> PartsGroup {
        let of = |part: Part| row.sums[part as usize];
        PartsGroup {
            latency_max_ns,
            requests: row.count,
            generator_lag_ns: of(Part::Generator),
            connection_wait_ns: of(Part::Connection),
            network_ns: of(Part::Network),
            server_wait_ns: of(Part::Waiting),
            server_service_ns: of(Part::Service),
            generator_read_ns: of(Part::Reading),
        }
    }

    fn row(&self) -> Row {
        let sums = [
            self.generator_lag_ns,
            self.connection_wait_ns,
            self.network_ns,
            self.server_wait_ns,
            self.server_service_ns,
            self.generator_read_ns,
        ];
        Row { count: self.requests, sums }
    }
}

#[cfg(test)]
pub mod tests {
    use std::time::Duration;

    use echopool::builtin::timed::Times;
    use echopool::time::Time;

    use super::*;
    use crate::stats::parts::RoundTrip;

    #[test]
    fn replies_that_were_cut_or_contradict_the_clock_are_added_up() {
        let of = |cut, contradictions, contradiction_max| {
            let mut parts = Parts::default();
            crate::report::parts::tests::record(&mut parts, [1, 0, 40, 2, 50, 7], 0);
            parts.cut = cut;
            parts.one_way.contradictions = contradictions;
            parts.one_way.contradiction_max = contradiction_max;
            PartsSummary::new(&parts)
        };
        let sum = of(2, 3, 5).plus(&of(7, 11, 4)).expect("their histograms are right");
        let one_way = sum.one_way.expect("both have one clock");
        assert_eq!((sum.times_cut, one_way.contradictions), (9, 14));
        assert_eq!(one_way.contradiction_max_ns, 5);
    }

    /// Requests whose parts all differ.
    pub fn distinct_parts(unit: u64) -> Parts {
        let mut parts = Parts::default();
        for nth in 1..=100 {
            let at = |units: u64| Time::from_nanos(units * unit * nth);
            let trip = RoundTrip {
                intended: at(100),
                own_lag: Duration::from_nanos(unit * nth),
                sent: at(103),
                told: at(130),
                arrived: at(135),
            };
            let times = Times { clock: 1, received: at(107), taken_up: at(113), sent: at(122) };
            parts.record(&trip, &times, true);
        }
        parts
    }

    #[test]
    fn each_part_is_under_its_own_key() {
        let value =
            serde_json::to_value(PartsSummary::new(&distinct_parts(1_000))).expect("a JSON form");
        let keys = [
            ("generator_lag", 1),
            ("connection_wait", 2),
            ("network", 12),
            ("server_wait", 6),
            ("server_service", 9),
            ("generator_read", 5),
        ];
        for (key, units) in keys {
            let min = value[key]["min_ns"].as_u64().expect("a value");
            assert!(min.abs_diff(units * 1_000) <= units, "{key}: {min}");
            assert_eq!(value[key]["count"], 100);
            let ratio = value["shares"][format!("{key}_ratio")].as_f64().expect("a ratio");
            assert!((ratio - units as f64 / 35.0).abs() < 1e-9, "{key}: {ratio}");
            let sums = value["by_latency"].as_array().expect("rows").iter();
            let sum: u64 = sums.map(|row| row[format!("{key}_ns")].as_u64().expect("a sum")).sum();
            assert_eq!(sum, units * 1_000 * 5_050, "{key}");
        }
        assert_eq!(value["one_way"]["there"]["min_ns"], 4_000);
        assert_eq!(value["one_way"]["back"]["min_ns"], 8_000);
        assert!(value["shares_slowest"]["requests"].as_u64().expect("a count") < 10);
    }

    #[test]
    fn the_sum_of_two_runs_is_that_of_their_requests() {
        let (one, other) = (distinct_parts(1_000), distinct_parts(700));
        let sum = PartsSummary::new(&one).plus(&PartsSummary::new(&other)).expect("well-formed");
        let mut both = one.clone();
        both.merge(&other);
        assert_eq!(sum, PartsSummary::new(&both));
        let without = PartsSummary { one_way: None, ..PartsSummary::new(&other) };
        let sum = PartsSummary::new(&one).plus(&without).expect("well-formed");
        assert!(sum.one_way.is_none(), "not all clocks are known");
    }
}
