//! The command line is consistent.

use super::*;
use clap::CommandFactory;

#[test]
fn the_definition_is_consistent() {
    RunArgs::command().debug_assert();
}
