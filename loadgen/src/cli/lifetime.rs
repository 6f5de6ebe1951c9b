//! The grammar of `--lifetime`.

use std::str::FromStr;
use std::time::Duration;

use crate::units;

/// How long a connection lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    Requests(u64),
    Time(Duration),
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Lifetime, String> {
        // `m` is a million of requests, and a minute: the former without a unit of time is said in
        // digits.
        match units::positive(text) {
            Ok(count) if !text.ends_with(['m', 'M']) => Ok(Lifetime::Requests(count)),
            _ => units::duration(text).map(Lifetime::Time).map_err(|error| {
                format!("{error}; or a number of requests, with k (1,000): 500, 10k")
            }),
        }
    }
}
