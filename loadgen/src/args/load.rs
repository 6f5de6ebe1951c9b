//! The flags that say what is sent, when, and over which connections.

use clap::Args;

use crate::units;

/// What is sent, when, and over which connections.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Load")]
pub struct LoadArgs {
    /// Bytes in a request; the reply is as long
    #[arg(short = 'l', long, value_name = "SIZE", default_value = "64", value_parser = units::size)]
    pub size: u64,

    /// Requests that each connection has under way at once
    #[arg(short, long, value_name = "N", default_value = "1", value_parser = units::positive)]
    pub pipeline: u64,

    /// Connections to begin in a second, all threads together [default: as fast as possible]
    #[arg(long, value_name = "RATE", value_parser = units::positive)]
    pub connect_rate: Option<u64>,
}
