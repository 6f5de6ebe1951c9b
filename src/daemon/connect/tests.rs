//! The command line of `echopool connect` is consistent and documented.

use clap::CommandFactory;

use super::*;
use crate::daemon::cli::tables::assert_flags_are_documented;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn the_manual_has_every_flag() {
    assert_flags_are_documented(&Args::command(), "client.md");
}
