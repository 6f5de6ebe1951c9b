//! The kinds of rude clients, and the grammar of `--with`.

use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units;

/// What a rude client does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RudeKind {
    /// Connects, and does nothing else.
    Idle,
    /// Sends as fast as the server accepts it, and reads little.
    SlowReader,
    /// Sends a request and closes its sending side at once, reads the reply to its end, and starts
    /// again.
    HalfClose,
    /// Sends a request, resets the connection, and starts again.
    Reset,
    /// Sends one byte at a time.
    Trickle,
}

/// The number of clients of each kind: the grammar of `--with`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RudeClients(pub Vec<(RudeKind, u64)>);

impl RudeKind {
    const ALL: [RudeKind; 5] = [
        RudeKind::Idle,
        RudeKind::SlowReader,
        RudeKind::HalfClose,
        RudeKind::Reset,
        RudeKind::Trickle,
    ];

    /// The name on the command line and in reports.
    pub fn word(self) -> &'static str {
        match self {
            RudeKind::Idle => "idle",
            RudeKind::SlowReader => "slow-reader",
            RudeKind::HalfClose => "half-close",
            RudeKind::Reset => "reset",
            RudeKind::Trickle => "trickle",
        }
    }
}

impl RudeClients {
    /// The sum over all kinds.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|(_, count)| count).sum()
    }
}

impl FromStr for RudeClients {
    type Err = String;

    fn from_str(text: &str) -> Result<RudeClients, String> {
        let mut clients: Vec<(RudeKind, u64)> = Vec::new();
        for part in text.split(',') {
            let (word, count) = part.split_once(':').unwrap_or((part, "1"));
            let Some(kind) = RudeKind::ALL.into_iter().find(|kind| kind.word() == word) else {
                let words: Vec<_> = RudeKind::ALL.iter().map(|kind| kind.word()).collect();
                return Err(format!(
                    "'{word}' is not a kind of rude client: use {}, with a number: idle:100",
                    words.join(", ")
                ));
            };
            match units::positive(count)? {
                _ if clients.iter().any(|(other, _)| *other == kind) => {
                    return Err(format!("{word} is given twice"));
                }
                // At least as many as there can be connections to one address and port.
                count @ ..=1_000_000 => clients.push((kind, count)),
                count => return Err(format!("{count} of {word}: at most 1000000")),
            }
        }
        Ok(RudeClients(clients))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar() {
        let parsed: RudeClients = "idle:5k,slow-reader:50,reset".parse().unwrap();
        let expected = [(RudeKind::Idle, 5_000), (RudeKind::SlowReader, 50), (RudeKind::Reset, 1)];
        assert_eq!((parsed.0.as_slice(), parsed.total()), (&expected[..], 5_051));
        for (text, reason) in [
            ("sleepy:5", "idle, slow-reader, half-close, reset, trickle"),
            ("idle:0", "at least 1"),
            ("idle:1,idle:2", "twice"),
            ("idle:2m", "at most"),
            ("", "not a kind"),
        ] {
            let error = text.parse::<RudeClients>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
