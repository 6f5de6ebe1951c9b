//! The URL of a service: which service, where, and with which options.
//!
//! ```text
//! [service://]address[?option=value[&option=value...]]
//! ```
//!
//! The daemon, the load generator and `echopool connect` accept this format, and the daemon's ready
//! lines use it. The program that listens or connects interprets the address. The options of a
//! service and their values are declared beside the service.
//!
//! Values are percent-decoded (RFC 3986), so they can contain `&` and any byte.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

pub use super::{After, DelayOptions, FramedOptions, HubOptions, MessageOptions};
pub use super::{ServiceOptions, Slow};

/// The characters that are percent-encoded in a value: all except the unreserved characters of RFC
/// 3986 and those that values contain and that a query allows.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b',')
    .remove(b'/');

/// A service at an address.
///
/// ```
/// use echopool::framing::{ByteOrder, Framing};
/// use echopool::builtin::url::{ServiceOptions, Spec};
///
/// let spec: Spec = "framed://[::1]:7777?order=big&max-frame=64k".parse()?;
/// assert_eq!((spec.service.name(), &spec.address[..]), ("framed", "[::1]:7777"));
/// let framing = Framing::Length { order: ByteOrder::Big, max: 65536 };
/// assert_eq!(spec.service.framing(), Some(framing));
///
/// let spec: Spec = "localhost:7777".parse()?;
/// assert_eq!(spec.service, ServiceOptions::Echo);
/// assert_eq!(spec.to_string(), "tcp://localhost:7777");
/// # Ok::<(), echopool::builtin::url::SpecError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The service, with its options.
    pub service: ServiceOptions,
    /// The address, as it was written.
    pub address: String,
}

/// A text that is not the URL of a service. The message says what is allowed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SpecError(String);

impl fmt::Display for SpecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SpecError {}

impl From<String> for SpecError {
    fn from(text: String) -> SpecError {
        SpecError(text)
    }
}

/// Values for options that a URL does not set, for all services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defaults(Vec<(String, Vec<u8>, String)>);

impl Defaults {
    /// Sets the default of an option for every service that has it. A value may be in the range of
    /// one service and out of the range of another. [`Spec::parse`] then returns the error for the
    /// latter. `source` names the default in that error, for example `--max-message`.
    ///
    /// # Errors
    /// No service has the option, or none accepts the value.
    pub fn set(&mut self, option: &str, value: &[u8], source: &str) -> Result<(), SpecError> {
        let takes = |mut service: ServiceOptions| service.set_default(option, value);
        match ServiceOptions::all().into_iter().filter_map(takes).min_by_key(Result::is_err) {
            None => return Err(format!("'{option}' is not an option with a default").into()),
            Some(done) => done?,
        }
        self.0.push((option.to_owned(), value.to_owned(), source.to_owned()));
        Ok(())
    }

    /// Sets the options of a service that are not in `given`.
    fn apply(&self, service: &mut ServiceOptions, given: &[&str]) -> Result<(), SpecError> {
        for (option, value, source) in &self.0 {
            if !given.contains(&&option[..])
                && let Some(Err(error)) = service.set_default(option, value)
            {
                return Err(format!("{source}: {error}").into());
            }
        }
        Ok(())
    }
}

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Spec, SpecError> {
        Spec::parse(text, &Defaults::default())
    }
}

impl Spec {
    /// Parses a text. Options that it does not set are taken from `defaults`.
    ///
    /// # Errors
    /// An unknown service or option, an option of another service, a value out of its range.
    pub fn parse(text: &str, defaults: &Defaults) -> Result<Spec, SpecError> {
        // A transport would go here, after a plus in the scheme (`framed+tls`).
        let (scheme, rest) = text.split_once("://").unwrap_or(("echo", text));
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut service = ServiceOptions::named(scheme)?;
        let mut given: Vec<&str> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("'{option}' has no value: write {option}=VALUE"))?;
            if given.contains(&name) {
                return Err(format!("the option {name} is given twice").into());
            }
            given.push(name);
            let done = service.set(name, &decode(value)?).ok_or_else(|| service.has_no(name))?;
            done.map_err(|error| format!("{name}: {error}"))?;
        }
        defaults.apply(&mut service, &given)?;
        service.options().checked(&given)?;
        Ok(Spec { service, address: address.to_owned() })
    }
}

/// Writes the canonical form: only options that differ from their defaults, in the order of their
/// declaration.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.service.name() {
            "echo" => "tcp",
            name => name,
        };
        write!(f, "{scheme}://{}", self.address)?;
        for (at, (name, value)) in self.service.options().written().iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", percent_encode(value, ENCODED))?;
        }
        Ok(())
    }
}

impl ServiceOptions {
    fn named(name: &str) -> Result<ServiceOptions, SpecError> {
        let name = if name == "tcp" { "echo" } else { name };
        let all = ServiceOptions::all();
        all.iter().find(|service| service.name() == name).copied().ok_or_else(|| {
            let names = all.iter().map(ServiceOptions::name).collect::<Vec<_>>().join(", ");
            SpecError(format!("'{name}' is not a service; the services are {names} (tcp is echo)"))
        })
    }

    /// As [`set`](ServiceOptions::set), for services whose defaults can be set with flags.
    fn set_default(&mut self, option: &str, value: &[u8]) -> Option<Result<(), String>> {
        if self.options().has_flags() { self.set(option, value) } else { None }
    }

    /// The error for an option that the service does not have. The text says which services have
    /// it, and which options this service has.
    fn has_no(&self, option: &str) -> SpecError {
        let (all, service) = (ServiceOptions::all(), self.name());
        let has = |other: &&ServiceOptions| {
            other.options().about().iter().any(|about| about.name == option)
        };
        let owners: Vec<&str> = all.iter().filter(has).map(ServiceOptions::name).collect();
        let what = match &owners.join(", ")[..] {
            "" => format!("'{option}' is not an option"),
            owners => format!("'{option}' is an option of {owners}, not of {service}"),
        };
        let own: Vec<&str> = self.options().about().iter().map(|about| about.name).collect();
        let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
        SpecError(format!("{what}; {service} takes {own}"))
    }
}

/// Decodes a percent-encoded value.
fn decode(value: &str) -> Result<Vec<u8>, SpecError> {
    for (at, _) in value.match_indices('%') {
        let digits = value.as_bytes().get(at + 1..at + 3);
        if !digits.is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit)) {
            return Err(SpecError(format!(
                "'{value}': two hexadecimal digits must follow a % (write %25 for a %)"
            )));
        }
    }
    Ok(percent_decode_str(value).collect())
}

#[cfg(test)]
mod tests;
