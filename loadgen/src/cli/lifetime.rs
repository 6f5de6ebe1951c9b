//! The grammar of `--lifetime`.

use std::str::FromStr;
use std::time::Duration;

use crate::units;

/// The lifetime of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lifetime {
    Requests(u64),
    Time(Duration),
}

impl FromStr for Lifetime {
    type Err = String;

    fn from_str(text: &str) -> Result<Lifetime, String> {
        // `m` means a million requests, and a minute. A million requests must be written in digits.
        match units::positive(text) {
            Ok(count) if !text.ends_with(['m', 'M']) => Ok(Lifetime::Requests(count)),
            _ => units::duration(text).map(Lifetime::Time).map_err(|error| {
                format!("{error}; or a number of requests, with k (1,000): 500, 10k")
            }),
        }
    }
}
