//! The flags that say what is sent, when, and over which connections.

use std::time::Duration;

use clap::Args;
use echopool::internals::ProxyVersion;

use super::{Lifetime, Objective};
use crate::cli::source_ip::Source;
use crate::traffic::rate::{self, Rate};
use crate::traffic::rude::RudeClients;
use crate::traffic::schedule::{Spacing, Stages};
use crate::traffic::sizes::Sizes;
use crate::units;

/// What is sent, when, and over which connections.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Open loop: requests per second (0.2, 10k), or per minute or hour (6/m, 90/h), over all
    /// connections together, sent on schedule whether or not earlier ones have their replies;
    /// latency counts from the scheduled time [default: closed loop, each connection sends its next
    /// request when it has its reply]
    #[arg(
        short = 'R',
        visible_short_alias = 'q',
        long,
        value_name = "RATE",
        value_parser = rate::positive
    )]
    pub rate: Option<Rate>,

    /// Open loop with changing rates: TIME:RATE or TIME:FROM-TO for each stage, as in
    /// 10s:1k,20s:1k-5k; the run lasts for all stages unless -d is given
    #[arg(long, value_name = "STAGES", conflicts_with = "rate")]
    pub stages: Option<Stages>,

    /// Find the highest rate whose latency stays below a limit, as in p99:1ms; starts at -R
    /// [default: 1k] and tries each rate for -d [default: 3s] after a warm-up of -w [default:
    /// 500ms]
    #[arg(long, value_name = "OBJECTIVE", conflicts_with = "stages")]
    pub search: Option<Objective>,

    /// Spacing of the requests of an open loop: equal intervals, or like those of many independent
    /// users [default: const]
    #[arg(long, value_name = "SPACING", value_enum)]
    pub arrivals: Option<Spacing>,

    /// Open loop with a schedule per connection: a request waits for its own connection instead of
    /// using any that has room
    #[arg(long)]
    pub strict: bool,

    /// Bytes in a request; the reply has the same size: 512, uniform:1k-4k, or list:64:9,4k:1
    /// (sizes with weights)
    #[arg(short = 'l', long, value_name = "SIZE", default_value = "64")]
    pub size: Sizes,

    /// Outstanding requests per connection, at most
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::positive)]
    pub pipeline: u64,

    /// Send for this long before recording begins [default: no warm-up]
    #[arg(short, long, value_name = "TIME", value_parser = units::duration)]
    pub warmup: Option<Duration>,

    /// Connections to start per second, over all threads [default: as fast as possible]
    #[arg(long, value_name = "RATE", value_parser = units::positive)]
    pub connect_rate: Option<u64>,

    /// Close each connection after this many requests, or after this time, and replace it: 1000 or
    /// 5s [default: a connection lasts for the run]
    #[arg(long, value_name = "N|TIME")]
    pub lifetime: Option<Lifetime>,

    /// Reopen a connection that the server has closed; it counts as lost only if a reply was
    /// outstanding [default: it is lost, and the run continues without it]
    #[arg(long)]
    pub reconnect: bool,

    /// Never sleep: each thread polls for events all the time and uses a whole processor, so that
    /// wake-up latency does not affect the measurement; a server that loadgen starts does the same
    #[arg(long)]
    pub busy_poll: bool,

    /// Local address or network to connect from: 10.0.0.2 or 10.0.1.0/24; repeat it for more ports
    /// [default: the system's choice; as many addresses of 127.0.0.0/8 as needed if the target is
    /// one of them]
    #[arg(long, value_name = "IP|CIDR")]
    pub source_ip: Vec<Source>,

    /// Begin each connection with a header of the PROXY protocol, version v1 or v2, as a proxy does:
    /// each connection appears to be a different client
    #[arg(long, value_name = "VERSION", value_parser = proxy_version)]
    pub proxy_protocol: Option<ProxyVersion>,

    /// Addresses of the clients in these headers, one for each connection, in order [default:
    /// 198.18.0.0/15, or 2001:db8::/32 if the target is an IPv6 address]
    #[arg(long, value_name = "IP|CIDR", requires = "proxy_protocol")]
    pub proxy_source: Option<Source>,

    /// Rude clients in addition to the measured ones, KIND:NUMBER for each kind: idle, slow-reader,
    /// half-close, reset, trickle, as in idle:5000,reset:10
    #[arg(long = "with", value_name = "CLIENTS")]
    pub rude: Option<RudeClients>,
}

fn proxy_version(text: &str) -> Result<ProxyVersion, String> {
    match text {
        "v1" => Ok(ProxyVersion::V1),
        "v2" => Ok(ProxyVersion::V2),
        _ => Err("use v1 or v2".into()),
    }
}
