//! The services that come with the server, each with its options, and the URL that names them.

pub mod chargen;
pub mod delay;
pub mod delimited;
pub mod discard;
pub mod dispatch;
pub mod echo;
pub mod framed;
pub mod hub;
pub(crate) mod list;
#[cfg(test)]
pub(crate) mod loopback;
pub mod message_echo;
pub(crate) mod option;
pub mod stamp;
pub mod timed;
pub mod url;

pub use chargen::Chargen;
pub use delay::{Delay, DelayOptions};
pub use delimited::{After, Delimited, MessageOptions};
pub use discard::Discard;
pub use dispatch::OfListener;
pub use echo::Echo;
pub use framed::{Framed, FramedOptions};
pub use hub::{Hub, HubOptions, Slow};
pub use list::ServiceOptions;
pub use stamp::StampOptions;
pub use timed::{Timed, TimedOptions};
