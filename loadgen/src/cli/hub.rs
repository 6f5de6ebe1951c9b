//! The flags for a hub: who sends, who reads, and whether drops are allowed.

use clap::Args;

use crate::units;

/// What the clients of a hub do.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Hub")]
pub struct HubArgs {
    /// hub: clients that send; each message goes to all clients [default: 1]
    #[arg(long, value_name = "N", value_parser = units::positive)]
    pub senders: Option<u64>,

    /// hub: clients that never read; they are not checked, and show how the hub treats the others
    /// [default: 0]
    #[arg(long, value_name = "N", value_parser = units::positive)]
    pub never_read: Option<u64>,

    /// hub: a run is valid although the hub reported dropped messages
    #[arg(long)]
    pub allow_drops: bool,
}
