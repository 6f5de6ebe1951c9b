//! The command line of `echopool connect` is consistent and documented.

use clap::CommandFactory;

use super::*;
use crate::daemon::cli::tables::assert_flags_are_documented;

#[test]
fn the_command_line_is_consistent() {
    Args::command().debug_assert();
}

#[test]
fn control_characters_are_escaped_and_lines_are_kept_where_there_may_be_some() {
    let bytes = b"a\\b\n\tc\x1b\x00\xff\xc3\xa9";
    let text = |lines| String::from_utf8(show::escaped(bytes, lines)).unwrap();
    assert_eq!(text(false), r"a\\b\n\tc\u{1b}\u{0}\xffé");
    assert_eq!(text(true), "a\\b\n\tc\\u{1b}\\u{0}\\xffé");
}

#[test]
fn the_manual_has_every_flag() {
    assert_flags_are_documented(&Args::command(), "client.md");
}
