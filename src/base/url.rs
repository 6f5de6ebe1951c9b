//! The parts of a URL: `[scheme://]address[?option=value[&option=value...]]`.
//!
//! This is the only parser of the grammar. The daemon, the load generator, `echopool connect` and
//! the library take a text apart here. `builtin::url` knows the services in a scheme,
//! `net::transport` the transports, and both know their options.
//!
//! Values are percent-decoded (RFC 3986), so they can contain `&` and any byte. A plus is a plus:
//! this is not an HTML form.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str};

/// The characters that are percent-encoded in a value: all except the unreserved characters of RFC
/// 3986 and those that values contain and that a query allows.
pub(crate) const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b',')
    .remove(b'/');

/// The parts of a URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Url<'a> {
    /// What stands before `://`, if anything does.
    pub(crate) scheme: Option<&'a str>,
    /// The address, as it was written.
    pub(crate) address: &'a str,
    /// The options, in the order in which they were written, each once, with their decoded values.
    pub(crate) options: Vec<(&'a str, Vec<u8>)>,
}

impl<'a> Url<'a> {
    /// Takes a text apart.
    ///
    /// # Errors
    /// An option has no value or is given twice, or a value is not percent-encoded correctly.
    pub(crate) fn split(text: &'a str) -> Result<Url<'a>, String> {
        let (scheme, rest) = match text.split_once("://") {
            Some((scheme, rest)) => (Some(scheme), rest),
            None => (None, text),
        };
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut options: Vec<(&str, Vec<u8>)> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("'{option}' has no value: write {option}=VALUE"))?;
            if options.iter().any(|(other, _)| *other == name) {
                return Err(format!("the option {name} is given twice"));
            }
            options.push((name, decode(value)?));
        }
        Ok(Url { scheme, address, options })
    }
}

/// Decodes a percent-encoded text.
///
/// # Errors
/// A percent sign is not followed by two hexadecimal digits.
pub(crate) fn decode(text: &str) -> Result<Vec<u8>, String> {
    for (at, _) in text.match_indices('%') {
        let digits = text.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(format!(
                "'{text}': two hexadecimal digits must follow a % (write %25 for a %)"
            ));
        }
    }
    Ok(percent_decode_str(text).collect())
}
