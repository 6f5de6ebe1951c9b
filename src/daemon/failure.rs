//! Why the daemon ended although nobody stopped it: the text and the exit code.

use std::fmt;

use super::settings::{Origin, Setting, Settings};
use super::{FAILED, USAGE, sandbox, user};
use crate::error::StartError;

/// Why the daemon ended without being told to.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) code: u8,
    pub(super) text: String,
}

impl Failure {
    pub(super) fn new(text: impl ToString) -> Failure {
        Failure { code: FAILED, text: text.to_string() }
    }

    /// The failure of a start. Names the settings as they were written.
    pub(super) fn of_start(error: &StartError, settings: &Settings) -> Failure {
        let code = match error {
            StartError::Address(_)
            | StartError::NothingToListenOn
            | StartError::ListenedTwice(_)
            | StartError::Covered { .. }
            | StartError::NoFile(_)
            | StartError::NoDatagrams(_)
            | StartError::Limit { .. }
            | StartError::Fixed { .. }
            | StartError::Service(_)
            | StartError::Timeout { .. } => USAGE,
            StartError::Tls { error, .. } if error.is_of_options() => USAGE,
            _ => FAILED,
        };
        let text = settings.in_their_words(&error.to_string());
        let listen = settings.get("listen").map_or(&Origin::Default, Setting::origin);
        let text = match (error, listen) {
            (
                StartError::ListenedTwice(_) | StartError::Covered { .. } | StartError::NoFile(_),
                Origin::File { .. } | Origin::Environment,
            ) => format!("{}: {text}", listen.names("listen")),
            _ => text,
        };
        Failure { code, text }
    }
}

/// What to do about this error, if it may be one because the process has given up rights. Follows the text
/// of the error.
pub(super) fn remedy(error: &str) -> String {
    let is_of_rights = ["(os error 1)", "(os error 13)"].iter().any(|code| error.contains(code));
    let reasons: Vec<String> =
        user::reason().into_iter().chain(sandbox::reason().map(str::to_owned)).collect();
    match is_of_rights && !reasons.is_empty() {
        true => format!("; {}: allow it what it needs, or restart it", reasons.join(" and ")),
        false => String::new(),
    }
}

/// The line for standard error.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "echopool: {}", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_has_given_up_nothing_names_no_rights() {
        assert_eq!(remedy("open: Permission denied (os error 13)"), "");
        assert_eq!(remedy("open: No such file or directory (os error 2)"), "");
    }
}
