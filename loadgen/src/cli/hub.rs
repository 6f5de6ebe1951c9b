//! The flags for a hub: who sends, who reads, and what the hub may do.

use clap::Args;

use crate::units;

/// What the clients of a hub do.
#[derive(Args, Debug, Clone)]
#[command(next_help_heading = "Hub")]
pub struct HubArgs {
    /// hub: clients that send; each message goes to all clients [default: 1]
    #[arg(long, value_name = "N", value_parser = units::positive)]
    pub senders: Option<u64>,

    /// hub: clients that never read; nothing is asked of them, so that their effect on the others
    /// can be seen [default: 0]
    #[arg(long, value_name = "N", value_parser = units::positive)]
    pub never_read: Option<u64>,

    /// hub: a run is valid although the hub dropped messages and said so
    #[arg(long)]
    pub allow_drops: bool,
}
