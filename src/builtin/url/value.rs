//! A single value of an option: what a text stands for, and how a value is written. The daemon's
//! flags read theirs with the same functions. Which option has which is in `../spec.rs`.

use percent_encoding::percent_decode_str;

use super::SpecError;
use crate::base::units;
use crate::config::{FRAME_BYTES_MAX, HUB_QUEUE_BYTES_MAX, SHOW_BYTES_MAX};
use crate::protocol::framing::{ByteOrder, DELIMITER_MAX, Delimiter};

pub(super) fn order_word(order: ByteOrder) -> &'static str {
    match order {
        ByteOrder::Little => "little",
        ByteOrder::Big => "big",
    }
}

/// `little` or `big`.
pub(crate) fn order(text: &str) -> Result<ByteOrder, String> {
    match text {
        "little" => Ok(ByteOrder::Little),
        "big" => Ok(ByteOrder::Big),
        _ => Err(format!("'{text}' must be little or big")),
    }
}

/// `on` or `off`.
pub(crate) fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("'{text}' must be on or off")),
    }
}

/// The length of a frame.
pub(crate) fn max_frame(text: &str) -> Result<u32, String> {
    size(text, 1, FRAME_BYTES_MAX)
}

/// The length of a message, whatever service it is for.
pub(crate) fn max_message(text: &str) -> Result<u32, String> {
    size(text, 1, FRAME_BYTES_MAX)
}

/// How much of a message is logged.
pub(crate) fn show(text: &str) -> Result<u32, String> {
    size(text, 0, SHOW_BYTES_MAX)
}

/// How much may wait for one client.
pub(crate) fn queue(text: &str) -> Result<u32, String> {
    size(text, 1, HUB_QUEUE_BYTES_MAX)
}

pub(super) fn size(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let bytes = units::parse_size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(format!("{text} is {bytes} bytes, but it must be from {min} to {max}")),
    }
}

/// As [`units::parse_size`] reads it.
pub(super) fn size_word(bytes: u32) -> Vec<u8> {
    match bytes {
        1.. if bytes.is_multiple_of(1 << 20) => format!("{}Mi", bytes >> 20),
        1.. if bytes.is_multiple_of(1 << 10) => format!("{}Ki", bytes >> 10),
        _ => bytes.to_string(),
    }
    .into_bytes()
}

/// The bytes that a percent-encoded value stands for.
pub(super) fn decode(value: &str) -> Result<Vec<u8>, SpecError> {
    for (at, _) in value.match_indices('%') {
        let digits = value.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(SpecError(format!(
                "'{value}': two hexadecimal digits must follow a % (%25 stands for it)"
            )));
        }
    }
    Ok(percent_decode_str(value).collect())
}

/// A delimiter with its escapes.
pub(crate) fn delimiter(text: &[u8]) -> Result<Delimiter, String> {
    let bytes = unescape(text)?;
    Delimiter::new(&bytes).ok_or_else(|| {
        format!("a delimiter has 1 to {DELIMITER_MAX} bytes, and this has {}", bytes.len())
    })
}

/// `\n`, `\r`, `\t`, `\0`, `\\` and `\xNN` become the bytes that they stand for.
fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let unknown = || {
        let text = text.escape_ascii();
        format!("'{text}': a backslash is followed by n, r, t, 0, \\ or xNN (\\x1e, say)")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().ok_or_else(unknown)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit(), digit());
                (high.ok_or_else(unknown)? << 4 | low.ok_or_else(unknown)?) as u8
            }
            _ => return Err(unknown()),
        });
    }
    Ok(bytes)
}

/// The reverse of [`unescape`]: what is no letter is percent-encoded after this anyway.
pub(super) fn escaped(bytes: &[u8]) -> Vec<u8> {
    let double = |&byte: &u8| if byte == b'\\' { vec![byte; 2] } else { vec![byte] };
    bytes.iter().flat_map(double).collect()
}
