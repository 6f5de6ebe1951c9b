//! The types of values that only options of services have: byte orders, delimiters and times. The
//! declaration itself is in `base::option`.

use std::time::Duration;

pub(crate) use crate::base::option::*;
use crate::base::units;
use crate::protocol::framing::{ByteOrder, DELIMITER_MAX, Delimiter};

impl Word for ByteOrder {
    const VALUES: &'static [ByteOrder] = &[ByteOrder::Little, ByteOrder::Big];
}

/// The words of a byte order.
pub(crate) const ORDERS: &[&str] = &["little", "big"];

/// Maximum for each time. Longer ones look like time-outs, and sums of this are far from
/// overflowing.
const TIME_MAX: Duration = Duration::from_secs(3600);

/// A time from 0 to an hour.
pub(crate) fn time(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        time if time > TIME_MAX => Err(format!("{text} is more than an hour")),
        time => Ok(time),
    }
}

/// See [`time`].
impl Value for Duration {
    fn read(&self, _: &About, text: &[u8]) -> Result<Duration, String> {
        time(utf8(text)?)
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(time_text(*self).into())
    }
}

/// Bytes, with escapes.
impl Value for Delimiter {
    fn read(&self, _: &About, text: &[u8]) -> Result<Delimiter, String> {
        let bytes = unescape(text)?;
        Delimiter::new(&bytes).ok_or_else(|| {
            format!("a delimiter must have 1 to {DELIMITER_MAX} bytes, not {}", bytes.len())
        })
    }

    /// Escapes only backslashes. A URL percent-encodes bytes that are not letters.
    fn write(&self, _: &About) -> Option<Vec<u8>> {
        let double = |&byte: &u8| if byte == b'\\' { vec![byte; 2] } else { vec![byte] };
        Some(self.bytes().iter().flat_map(double).collect())
    }
}

/// Replaces `\n`, `\r`, `\t`, `\0`, `\\` and `\xNN` by the bytes that they stand for.
fn unescape(mut rest: &[u8]) -> Result<Vec<u8>, String> {
    let text = rest.escape_ascii();
    let unknown =
        || format!("'{text}': after a backslash, write n, r, t, 0, \\ or xNN (as in \\x1e)");
    let hex = |&digit: &u8| char::from(digit).to_digit(16).ok_or_else(unknown);
    let mut bytes = Vec::with_capacity(rest.len());
    while let [first, behind @ ..] = rest {
        let (byte, tail) = match rest {
            [b'\\', b'n', tail @ ..] => (b'\n', tail),
            [b'\\', b'r', tail @ ..] => (b'\r', tail),
            [b'\\', b't', tail @ ..] => (b'\t', tail),
            [b'\\', b'0', tail @ ..] => (0, tail),
            [b'\\', b'\\', tail @ ..] => (b'\\', tail),
            [b'\\', b'x', high, low, tail @ ..] => ((hex(high)? << 4 | hex(low)?) as u8, tail),
            [b'\\', ..] => return Err(unknown()),
            _ => (*first, behind),
        };
        bytes.push(byte);
        rest = tail;
    }
    Ok(bytes)
}
