//! A service and where it is, as both are written on a command line:
//!
//! ```text
//! [service://]address[?option=value[&option=value...]]
//! ```
//!
//! The same text is given to the daemon, to the load generator and to `echopool connect`, and a
//! ready line of the daemon is such a text. What an address may look like is the business of who
//! listens or connects; what a service does with its options is in the service's own file. Here is
//! the grammar; what options there are is in `options` and `delay`, what a value may be in `value`.
//!
//! Values are percent-decoded (RFC 3986), so that `&` and any byte can stand in them.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

use crate::config::HUB_MESSAGE_BYTES_MAX;
use crate::protocol::framing::Framing;

mod delay;
mod options;
mod value;

pub use delay::DelayOptions;
pub use options::{After, Defaults, FramedOptions, HubOptions, MessageOptions, Slow};
use value::{decode, escaped, order_word, size_word};
pub(crate) use value::{delimiter, max_frame, max_message, on_or_off, order, queue, show};

/// What stands for itself in a value: RFC 3986's unreserved characters, and those of the others
/// that a query may have and that are written in values here.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~')
    .remove(b':')
    .remove(b',')
    .remove(b'/');

/// The services by name, with the options that each takes.
const SERVICES: [(&str, &[&str]); 7] = [
    ("echo", &[]),
    ("discard", &[]),
    ("chargen", &[]),
    ("framed", &["order", "max-frame"]),
    ("message", &["delimiter", "after", "max-message", "show"]),
    ("hub", &["order", "max-message", "queue", "slow", "notices"]),
    ("delay", delay::NAMES),
];

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

/// A service, with its options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum ServiceOptions {
    /// `echo://`, `tcp://`, or nothing.
    Echo,
    /// `discard://`
    Discard,
    /// `chargen://`
    Chargen,
    /// `framed://`
    Framed(FramedOptions),
    /// `message://`
    Message(MessageOptions),
    /// `hub://`
    Hub(HubOptions),
    /// `delay://`
    Delay(DelayOptions),
}

/// A text that is not understood. It says what would have been.
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

impl FromStr for Spec {
    type Err = SpecError;

    fn from_str(text: &str) -> Result<Spec, SpecError> {
        Spec::parse(text, &Defaults::default())
    }
}

impl Spec {
    /// Understands a text. Options that it does not have are those of `defaults`.
    ///
    /// # Errors
    /// An unknown service or option, an option of another service, a value out of its range.
    pub fn parse(text: &str, defaults: &Defaults) -> Result<Spec, SpecError> {
        let (name, rest) = text.split_once("://").unwrap_or(("echo", text));
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut service = ServiceOptions::named(name, defaults)?;
        let mut given: Vec<&str> = Vec::new();
        for option in query.split('&').filter(|option| !option.is_empty()) {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("'{option}' has no value: write {option}=VALUE"))?;
            if given.contains(&name) {
                return Err(format!("the option {name} is given twice").into());
            }
            given.push(name);
            service.set(name, &decode(value)?)?;
        }
        service.check()?;
        if let ServiceOptions::Delay(_) = service {
            delay::check_given(&given)?;
        }
        Ok(Spec { service, address: address.to_owned() })
    }
}

/// As it is parsed: the options that are not the default ones are written.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.service.name() {
            "echo" => "tcp",
            name => name,
        };
        write!(f, "{scheme}://{}", self.address)?;
        let options = self.service.written();
        for (at, (name, value)) in options.iter().enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", percent_encode(value, ENCODED))?;
        }
        Ok(())
    }
}

impl ServiceOptions {
    /// The service's name.
    pub fn name(&self) -> &'static str {
        match self {
            ServiceOptions::Echo => "echo",
            ServiceOptions::Discard => "discard",
            ServiceOptions::Chargen => "chargen",
            ServiceOptions::Framed(_) => "framed",
            ServiceOptions::Message(_) => "message",
            ServiceOptions::Hub(_) => "hub",
            ServiceOptions::Delay(_) => "delay",
        }
    }

    /// How the stream is cut into messages: for framed and message. `None` for services of plain
    /// bytes; and for the hub, whose frames carry a protocol of their own.
    pub fn framing(&self) -> Option<Framing> {
        match self {
            ServiceOptions::Framed(options) => Some(options.framing()),
            ServiceOptions::Message(options) => Some(options.framing()),
            _ => None,
        }
    }

    fn named(name: &str, defaults: &Defaults) -> Result<ServiceOptions, SpecError> {
        Ok(match name {
            "echo" | "tcp" => ServiceOptions::Echo,
            "discard" => ServiceOptions::Discard,
            "chargen" => ServiceOptions::Chargen,
            "framed" => ServiceOptions::Framed(defaults.framed),
            "message" => ServiceOptions::Message(defaults.message),
            "hub" => ServiceOptions::Hub(defaults.hub),
            "delay" => ServiceOptions::Delay(DelayOptions::default()),
            _ => {
                let names = SERVICES.map(|(name, _)| name).join(", ");
                return Err(
                    format!("'{name}' is no service; there are {names} (tcp is echo)").into()
                );
            }
        })
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Result<(), SpecError> {
        match self.try_set(name, value) {
            Some(done) => done.map_err(|error| SpecError(format!("{name}: {error}"))),
            None => Err(self.has_no(name)),
        }
    }

    /// `None` if the service has no such option.
    fn try_set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
        let text = || std::str::from_utf8(value).map_err(|_| "this is no text".to_owned());
        let done = match (self, name) {
            (ServiceOptions::Framed(framed), "order") => {
                text().and_then(order).map(|order| framed.order = order)
            }
            (ServiceOptions::Framed(framed), "max-frame") => {
                text().and_then(max_frame).map(|max| framed.max_frame = max)
            }
            (ServiceOptions::Message(message), "delimiter") => {
                delimiter(value).map(|delimiter| message.delimiter = delimiter)
            }
            (ServiceOptions::Message(message), "after") => {
                text().and_then(str::parse).map(|after| message.after = after)
            }
            (ServiceOptions::Message(message), "max-message") => {
                text().and_then(max_message).map(|max| message.max_message = max)
            }
            (ServiceOptions::Message(message), "show") => {
                text().and_then(show).map(|show| message.show = show)
            }
            (ServiceOptions::Hub(hub), "order") => {
                text().and_then(order).map(|order| hub.order = order)
            }
            (ServiceOptions::Hub(hub), "max-message") => {
                text().and_then(max_message).map(|max| hub.max_message = Some(max))
            }
            (ServiceOptions::Hub(hub), "queue") => {
                text().and_then(queue).map(|queue| hub.queue = queue)
            }
            (ServiceOptions::Hub(hub), "slow") => {
                text().and_then(str::parse).map(|slow| hub.slow = slow)
            }
            (ServiceOptions::Hub(hub), "notices") => {
                text().and_then(on_or_off).map(|notices| hub.notices = notices)
            }
            (ServiceOptions::Delay(delay), _) => match text() {
                Ok(text) => return delay.try_set(name, text),
                Err(error) => Err(error),
            },
            _ => return None,
        };
        Some(done)
    }

    fn has_no(&self, option: &str) -> SpecError {
        let service = self.name();
        let owners: Vec<&str> = SERVICES
            .iter()
            .filter(|(_, options)| options.contains(&option))
            .map(|(name, _)| *name)
            .collect();
        let what = match owners.is_empty() {
            true => format!("'{option}' is no option"),
            false => format!("'{option}' is an option of {}, not of {service}", owners.join(", ")),
        };
        let own = SERVICES.iter().find(|(name, _)| *name == service).map_or(&[][..], |(_, o)| *o);
        match own {
            [] => SpecError(format!("{what}; {service} takes none")),
            _ => SpecError(format!("{what}; {service} takes {}", own.join(", "))),
        }
    }

    /// What goes together: the options may come from flags and from the text.
    fn check(&self) -> Result<(), SpecError> {
        match self {
            ServiceOptions::Message(message) => {
                let (max, end) = (message.max_message, message.delimiter.bytes());
                if (max as usize) < end.len() {
                    let (end, len) = (end.escape_ascii(), end.len());
                    return Err(SpecError(format!(
                        "max-message is {max}, but the delimiter '{end}' alone has {len} bytes"
                    )));
                }
            }
            ServiceOptions::Hub(HubOptions { max_message: Some(max), .. })
                if *max > HUB_MESSAGE_BYTES_MAX =>
            {
                return Err(SpecError(format!(
                    "max-message is {max}, but a hub's messages have at most \
                     {HUB_MESSAGE_BYTES_MAX} bytes"
                )));
            }
            ServiceOptions::Delay(delay) => delay.check()?,
            _ => {}
        }
        Ok(())
    }

    /// The options that are not the default ones, with their values before percent-encoding.
    fn written(&self) -> Vec<(&'static str, Vec<u8>)> {
        let standard = Defaults::default();
        let mut options = Vec::new();
        let mut put = |differs: bool, name: &'static str, value: &dyn Fn() -> Vec<u8>| {
            if differs {
                options.push((name, value()));
            }
        };
        match self {
            ServiceOptions::Echo | ServiceOptions::Discard | ServiceOptions::Chargen => {}
            ServiceOptions::Framed(framed) => {
                let usual = standard.framed;
                put(framed.order != usual.order, "order", &|| order_word(framed.order).into());
                put(framed.max_frame != usual.max_frame, "max-frame", &|| {
                    size_word(framed.max_frame)
                });
            }
            ServiceOptions::Message(message) => {
                let usual = standard.message;
                put(message.delimiter != usual.delimiter, "delimiter", &|| {
                    escaped(message.delimiter.bytes())
                });
                put(message.after != usual.after, "after", &|| message.after.word().into());
                put(message.max_message != usual.max_message, "max-message", &|| {
                    size_word(message.max_message)
                });
                put(message.show != usual.show, "show", &|| size_word(message.show));
            }
            ServiceOptions::Hub(hub) => {
                let usual = standard.hub;
                put(hub.order != usual.order, "order", &|| order_word(hub.order).into());
                let max_message = hub.max_message;
                put(max_message.is_some(), "max-message", &|| {
                    size_word(max_message.unwrap_or_default())
                });
                put(hub.queue != usual.queue, "queue", &|| size_word(hub.queue));
                put(hub.slow != usual.slow, "slow", &|| hub.slow.word().into());
                put(hub.notices != usual.notices, "notices", &|| {
                    if hub.notices { "on" } else { "off" }.into()
                });
            }
            ServiceOptions::Delay(delay) => {
                let bytes = |(name, word): (_, String)| (name, word.into_bytes());
                return delay.written().into_iter().map(bytes).collect();
            }
        }
        options
    }
}

#[cfg(test)]
mod tests;
