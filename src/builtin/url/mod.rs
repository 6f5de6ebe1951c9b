//! The URL of a service: which service, over which transport, where, and with which options.
//!
//! ```text
//! [service[+transport]://]address[?option=value[&option=value...]]
//! transport://address[?option=value[&option=value...]]
//! ```
//!
//! The daemon, the load generator, `echopool connect` and the library accept this format, and the
//! daemon's ready lines use it. Without a transport it is TCP, and a transport alone means echo. The
//! program that listens or connects interprets the address. The options of a service or a transport
//! and their values are declared beside it. `base::url` parses the text.
//!
//! Values are percent-decoded (RFC 3986), so they can contain `&` and any byte.

use std::fmt;
use std::str::FromStr;

use percent_encoding::percent_encode;

use super::option::{About, Options};
use crate::base::url::{ENCODED, Url};
use crate::net::proxy::ProxyOptions;
use crate::net::transport::{TransportOptions, UdpOptions};

pub use super::{After, DelayOptions, FramedOptions, HubOptions, MessageOptions, TimedOptions};
pub use super::{ServiceOptions, Slow, StampOptions};

/// A service over a transport at an address.
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
///
/// let spec: Spec = "hub+unix:///run/hub.sock?mode=0660&order=big".parse()?;
/// assert_eq!((spec.service.name(), spec.transport.name()), ("hub", "unix"));
/// assert_eq!(spec.to_string(), "hub+unix:///run/hub.sock?order=big&mode=0660");
/// # Ok::<(), echopool::builtin::url::SpecError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The service, with its options.
    pub service: ServiceOptions,
    /// The transport, with its options.
    pub transport: TransportOptions,
    /// Whether a proxy names the clients. For listeners; a client ignores it.
    pub proxy: ProxyOptions,
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

/// Values for options that a URL does not set, for all services and transports.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Defaults(Vec<(String, Vec<u8>, String)>);

impl Defaults {
    /// Sets the default of an option for every service and transport that has it. A value may be in
    /// the range of one service and out of the range of another. [`Spec::parse`] then returns the
    /// error for the latter. `source` names the default in that error, for example `--max-message`.
    ///
    /// # Errors
    /// No service or transport has the option, or none accepts the value.
    pub fn set(&mut self, option: &str, value: &[u8], source: &str) -> Result<(), SpecError> {
        let services = ServiceOptions::all().into_iter();
        let services = services.filter_map(|mut one| one.set_default(option, value));
        let transports = TransportOptions::all().into_iter();
        let transports = transports.filter_map(|mut one| one.set(option, value));
        let proxy = ProxyOptions::default().set(option, value);
        match services.chain(transports).chain(proxy).min_by_key(Result::is_err) {
            None => return Err(format!("'{option}' is not an option with a default").into()),
            Some(done) => done?,
        }
        self.0.push((option.to_owned(), value.to_owned(), source.to_owned()));
        Ok(())
    }

    /// Sets the options that are not in `given`.
    fn apply(&self, spec: &mut Spec, given: &[&str]) -> Result<(), SpecError> {
        for (option, value, source) in &self.0 {
            if given.contains(&&option[..]) {
                continue;
            }
            let done = spec.service.set_default(option, value);
            let done = done.or_else(|| spec.set_below_service(option, value));
            if let Some(Err(error)) = done {
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
        let url = Url::split(text)?;
        let (name, mut transport) = match url.scheme {
            None => ("", TransportOptions::Tcp),
            Some(scheme) => TransportOptions::of_scheme(scheme)?,
        };
        let service = ServiceOptions::named(if name.is_empty() { "echo" } else { name })?;
        if !service.serves_streams() && url.scheme == Some(name) {
            transport = TransportOptions::Udp(UdpOptions::default());
        }
        match transport.is_datagram() {
            true if !service.serves_datagrams() => return Err(service.is_for_streams()),
            false if !service.serves_streams() => {
                return Err(format!("{name} runs over udp only: write {name}://").into());
            }
            _ => {}
        }
        let proxy = ProxyOptions::default();
        let mut spec = Spec { service, transport, proxy, address: url.address.to_owned() };
        for (name, value) in &url.options {
            let set = spec.service.set(name, value);
            let set = set.or_else(|| spec.set_below_service(name, value));
            let done = set.ok_or_else(|| spec.has_no(name))?;
            done.map_err(|error| format!("{name}: {error}"))?;
        }
        let given: Vec<&str> = url.options.iter().map(|(name, _)| *name).collect();
        defaults.apply(&mut spec, &given)?;
        spec.groups().iter().try_for_each(|group| group.checked(&given))?;
        Ok(spec)
    }

    /// The options of the service, then those of the transport, then those of its connections.
    fn groups(&self) -> Vec<&dyn Options> {
        [vec![self.service.options()], self.transport.options(), vec![&self.proxy]].concat()
    }

    /// Sets an option that is not one of the service. Returns `None` if there is none of this name.
    fn set_below_service(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
        let Spec { transport, proxy, .. } = self;
        transport.set(name, value).or_else(|| transport.set_proxy(proxy, name, value))
    }

    /// The error for an option that neither the service nor the transport has. The text says which
    /// have it, and which options these have.
    fn has_no(&self, option: &str) -> SpecError {
        let names = |about: &'static [About]| about.iter().map(|about| about.name).collect();
        let mut all: Vec<(&str, Vec<&str>)> = Vec::new();
        let services = ServiceOptions::all();
        all.extend(services.iter().map(|one| (one.name(), names(one.options().about()))));
        let transports = TransportOptions::all();
        all.extend(transports.iter().map(|one| (one.name(), one.option_names())));
        let has = |(name, options): &(&'static str, Vec<&str>)| {
            options.contains(&option).then_some(*name)
        };
        let owners = all.iter().filter_map(has).collect::<Vec<_>>().join(", ");
        let (service, transport) = (self.service.name(), self.transport.name());
        let what = match &owners[..] {
            "" => format!("'{option}' is not an option"),
            owners => format!("'{option}' is an option of {owners}, not of {service}"),
        };
        let own: Vec<&str> = names(self.service.options().about());
        let own = if own.is_empty() { "none".to_owned() } else { own.join(", ") };
        let of_transport = match self.transport.option_names() {
            none if none.is_empty() => String::new(),
            some => format!(", {transport} takes {}", some.join(", ")),
        };
        SpecError(format!("{what}; {service} takes {own}{of_transport}"))
    }
}

/// Writes the canonical form: only options that differ from their defaults, in the order of their
/// declaration.
impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.service.name(), self.transport.name()) {
            ("echo", transport) => f.write_str(transport)?,
            (service, "tcp") => f.write_str(service)?,
            (service, _) if !self.service.serves_streams() => f.write_str(service)?,
            (service, transport) => write!(f, "{service}+{transport}")?,
        }
        write!(f, "://{}", self.address)?;
        let written = self.groups().into_iter().flat_map(Options::written);
        for (at, (name, value)) in written.enumerate() {
            let mark = if at == 0 { '?' } else { '&' };
            write!(f, "{mark}{name}={}", percent_encode(&value, ENCODED))?;
        }
        Ok(())
    }
}

impl ServiceOptions {
    fn named(name: &str) -> Result<ServiceOptions, SpecError> {
        let all = ServiceOptions::all();
        all.iter().find(|service| service.name() == name).copied().ok_or_else(|| {
            let names = all.iter().map(ServiceOptions::name).collect::<Vec<_>>().join(", ");
            SpecError(format!("'{name}' is not a service; the services are {names} (tcp is echo)"))
        })
    }

    /// The error for a service over a transport of datagrams.
    fn is_for_streams(&self) -> SpecError {
        let all = ServiceOptions::all();
        let names: Vec<_> = all.iter().filter(|one| one.serves_datagrams()).collect();
        let names: Vec<_> = names.into_iter().map(ServiceOptions::name).collect();
        SpecError(format!(
            "{} needs a stream, and udp carries datagrams: only {} run over it",
            self.name(),
            names.join(", ")
        ))
    }

    /// As [`set`](ServiceOptions::set), for services whose defaults can be set with flags.
    fn set_default(&mut self, option: &str, value: &[u8]) -> Option<Result<(), String>> {
        if self.options().has_flags() { self.set(option, value) } else { None }
    }
}

#[cfg(test)]
mod tests;
