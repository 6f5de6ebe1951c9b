//! A service and where it is, as both are written on a command line:
//!
//! ```text
//! [service://]address[?option=value[&option=value...]]
//! ```
//!
//! The same text is given to the daemon, to the load generator and to `echopool connect`, and a
//! ready line of the daemon is such a text. What an address may look like is the business of who
//! listens or connects; what a service does with its options is in the service's own file.
//!
//! Values are percent-decoded (RFC 3986), so that `&` and any byte can stand in them.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode};

use crate::config::{
    FRAME_BYTES, FRAME_BYTES_MAX, HUB_MESSAGE_BYTES_MAX, HUB_QUEUE_BYTES, HUB_QUEUE_BYTES_MAX,
    MESSAGE_BYTES, SHOW_BYTES, SHOW_BYTES_MAX,
};
use crate::framing::{ByteOrder, DELIMITER_MAX, Delimiter, Framing};
use crate::units;

mod delay;

pub use delay::DelayOptions;

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
/// use echopool::spec::{ServiceOptions, Spec};
///
/// let spec: Spec = "framed://[::1]:7777?order=big&max-frame=64k".parse()?;
/// assert_eq!((spec.service.name(), &spec.address[..]), ("framed", "[::1]:7777"));
/// let framing = Framing::Length { order: ByteOrder::Big, max: 65536 };
/// assert_eq!(spec.service.framing(), Some(framing));
///
/// let spec: Spec = "localhost:7777".parse()?;
/// assert_eq!(spec.service, ServiceOptions::Echo);
/// assert_eq!(spec.to_string(), "tcp://localhost:7777");
/// # Ok::<(), echopool::spec::SpecError>(())
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

/// Options of the length-prefixed echo.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramedOptions {
    /// `order=little|big`: how the length is written. Default: little.
    pub order: ByteOrder,
    /// `max-frame=SIZE`: the longest frame, without its length, in bytes; 1 to 2,147,483,647.
    /// Default: 1 MiB.
    pub max_frame: u32,
}

/// Options of the delimited messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MessageOptions {
    /// `delimiter=BYTES`: what ends a message, 1 to 16 bytes. Default: `<EOF>`.
    pub delimiter: Delimiter,
    /// `after=close|keep`: what becomes of the connection after a message. Default: close.
    pub after: After,
    /// `max-message=SIZE`: the longest message, with its delimiter, in bytes; from the length of
    /// the delimiter to 2,147,483,647. Default: 64 KiB.
    pub max_message: u32,
    /// `show=SIZE`: how many bytes of a message are logged, at most 64 KiB; 0: messages are not
    /// logged. Default: 200.
    pub show: u32,
}

/// Options of the hub.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HubOptions {
    /// `order=little|big`: how numbers are written. Default: little.
    pub order: ByteOrder,
    /// `max-message=SIZE`: the longest payload of a message in bytes, 1 to 16,384. `None`, the
    /// default: what fits into a buffer with its header, and not more than that.
    pub max_message: Option<u32>,
    /// `queue=SIZE`: bytes that may wait for one client, 1 to 1 GiB. Default: 256 KiB.
    pub queue: u32,
    /// `slow=drop|close`: what happens when more would wait. Default: drop.
    pub slow: Slow,
    /// `notices=on|off`: whether clients are told who comes and goes. Default: on.
    pub notices: bool,
}

/// What becomes of a connection after its message was answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum After {
    /// It is closed.
    #[default]
    Close,
    /// It is kept for the next message.
    Keep,
}

/// What happens to a client that reads too slowly.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Slow {
    /// Messages for it are dropped, and counted.
    #[default]
    Drop,
    /// It is closed.
    Close,
}

/// The options of each service where they are not written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Defaults {
    /// Those of framed.
    pub framed: FramedOptions,
    /// Those of message.
    pub message: MessageOptions,
    /// Those of the hub.
    pub hub: HubOptions,
}

impl Default for FramedOptions {
    fn default() -> FramedOptions {
        FramedOptions { order: ByteOrder::default(), max_frame: FRAME_BYTES }
    }
}

impl Default for MessageOptions {
    fn default() -> MessageOptions {
        MessageOptions {
            delimiter: Delimiter::new(b"<EOF>").expect("1 to 16 bytes"),
            after: After::default(),
            max_message: MESSAGE_BYTES,
            show: SHOW_BYTES,
        }
    }
}

impl Default for HubOptions {
    fn default() -> HubOptions {
        HubOptions {
            order: ByteOrder::default(),
            max_message: None,
            queue: HUB_QUEUE_BYTES,
            slow: Slow::default(),
            notices: true,
        }
    }
}

impl FramedOptions {
    /// How the stream is cut.
    pub fn framing(&self) -> Framing {
        Framing::Length { order: self.order, max: self.max_frame }
    }
}

impl MessageOptions {
    /// How the stream is cut.
    pub fn framing(&self) -> Framing {
        Framing::Delimiter { delimiter: self.delimiter, max: self.max_message }
    }
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

impl After {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            After::Close => "close",
            After::Keep => "keep",
        }
    }
}

impl FromStr for After {
    type Err = String;

    fn from_str(text: &str) -> Result<After, String> {
        match text {
            "close" => Ok(After::Close),
            "keep" => Ok(After::Keep),
            _ => Err(format!("'{text}' must be close or keep")),
        }
    }
}

impl Slow {
    /// As it is written.
    pub fn word(self) -> &'static str {
        match self {
            Slow::Drop => "drop",
            Slow::Close => "close",
        }
    }
}

impl FromStr for Slow {
    type Err = String;

    fn from_str(text: &str) -> Result<Slow, String> {
        match text {
            "drop" => Ok(Slow::Drop),
            "close" => Ok(Slow::Close),
            _ => Err(format!("'{text}' must be drop or close")),
        }
    }
}

fn order_word(order: ByteOrder) -> &'static str {
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

fn size(text: &str, min: u32, max: u32) -> Result<u32, String> {
    let bytes = units::parse_size(text)?;
    match u32::try_from(bytes) {
        Ok(bytes) if (min..=max).contains(&bytes) => Ok(bytes),
        _ => Err(format!("{text} is {bytes} bytes, but it must be from {min} to {max}")),
    }
}

/// As [`units::parse_size`] reads it.
fn size_word(bytes: u32) -> Vec<u8> {
    match bytes {
        1.. if bytes.is_multiple_of(1 << 20) => format!("{}Mi", bytes >> 20),
        1.. if bytes.is_multiple_of(1 << 10) => format!("{}Ki", bytes >> 10),
        _ => bytes.to_string(),
    }
    .into_bytes()
}

/// The bytes that a percent-encoded value stands for.
fn decode(value: &str) -> Result<Vec<u8>, SpecError> {
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
fn escaped(bytes: &[u8]) -> Vec<u8> {
    let double = |&byte: &u8| if byte == b'\\' { vec![byte; 2] } else { vec![byte] };
    bytes.iter().flat_map(double).collect()
}

#[cfg(test)]
mod tests;
