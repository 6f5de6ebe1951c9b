//! The services that a URL can name, one line each.
//!
//! To add a service, write it in a folder of its own, with its options (see `option`) beside it,
//! and add its line here: the name in a URL, the variant of [`ServiceOptions`], the type of the
//! service with the type of its options (if it has any), and what the service does. The options are
//! the service's factory. A service without options is its own factory.
//!
//! The URL parser, the flags, `--help`, the ready line and the daemon are generated from the line.
//! A test then requires the table in `docs/services.md`.

use super::option::Options;
use super::{DelayOptions, FramedOptions, HubOptions, MessageOptions, StampOptions, TimedOptions};
use crate::protocol::framing::Framing;

/// Calls a macro with the list of services.
macro_rules! services {
    ($macro:ident) => {
        $macro! {
            echo: Echo = Echo, "sends back every byte (RFC 862)";
            discard: Discard = Discard, "reads and discards (RFC 863)";
            chargen: Chargen = Chargen, "sends an endless stream of lines (RFC 864)";
            framed: Framed = Framed(options: FramedOptions),
                "sends back frames that start with their length";
            message: Message = Delimited(options: MessageOptions),
                "sends back messages that end with a delimiter, and logs them";
            hub: Hub = Hub(options: HubOptions), "passes messages between its clients";
            delay: Delay = Delay(options: DelayOptions),
                "sends back every byte, delayed by a known distribution";
            timed: Timed = Timed(options: TimedOptions),
                "sends back frames with the times at which they were received and sent";
            stamp: Stamp = Discard(options: StampOptions),
                "reflects test packets of STAMP and TWAMP Light, over UDP (RFC 8762)";
        }
    };
}
pub(crate) use services;

/// Makes [`ServiceOptions`] from the list.
macro_rules! service_options {
    ($($name:ident: $variant:ident = $service:ident $(($options:ident: $type:ty))?,
        $what:literal;)*) => {
        /// A service, with its options.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub enum ServiceOptions {
            $(#[doc = concat!("`", stringify!($name), "://`: ", $what, ".")] $variant $(($type))?,)*
        }

        impl ServiceOptions {
            /// Every service, with its default options.
            pub(crate) fn all() -> Vec<ServiceOptions> {
                vec![$(ServiceOptions::$variant $((<$type>::default()))?),*]
            }

            /// The service's name.
            pub fn name(&self) -> &'static str {
                match self { $(ServiceOptions::$variant { .. } => stringify!($name),)* }
            }

            /// What the service does, in a few words.
            #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for help"))]
            pub(crate) fn what(&self) -> &'static str {
                match self { $(ServiceOptions::$variant { .. } => $what,)* }
            }

            /// The options of the service.
            pub(crate) fn options(&self) -> &dyn Options {
                match self {
                    $($(ServiceOptions::$variant($options) => $options,)?)*
                    _ => &(),
                }
            }

            /// Sets an option. Returns `None` if the service has no option of this name.
            pub(crate) fn set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
                match self {
                    $($(ServiceOptions::$variant($options) => $options.set(name, value),)?)*
                    _ => None,
                }
            }
        }
    };
}

services!(service_options);

impl ServiceOptions {
    /// Whether the service also has datagrams (`echo+udp`), beside connections.
    pub fn serves_datagrams(&self) -> bool {
        use ServiceOptions::{Chargen, Discard, Echo};
        matches!(self, Echo | Discard | Chargen) || !self.serves_streams()
    }

    /// Whether the service has connections. Otherwise its name in a URL means that over UDP.
    pub fn serves_streams(&self) -> bool {
        !matches!(self, ServiceOptions::Stamp(_))
    }

    /// Whether each listener of the service may have tables of its own, for as many connections as the
    /// server has, and turns. They are allocated at start.
    pub(crate) fn has_tables(&self) -> bool {
        use ServiceOptions::{Delay, Hub, Timed};
        matches!(self, Hub(_) | Delay(_) | Timed(_))
    }

    /// How framed, message and timed divide the stream into messages. `None` for services of plain bytes,
    /// and for the hub, whose frames carry a protocol of their own.
    pub fn framing(&self) -> Option<Framing> {
        match self {
            ServiceOptions::Framed(options) => Some(options.framing()),
            ServiceOptions::Message(options) => Some(options.framing()),
            ServiceOptions::Timed(options) => Some(options.framing()),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
