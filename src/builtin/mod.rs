//! The services that come with the server, each with its options, and the URL that names them.

pub mod chargen;
pub mod delay;
pub mod delimited;
pub mod discard;
pub mod dispatch;
pub mod echo;
pub mod framed;
pub mod hub;
pub mod message_echo;
#[cfg(test)]
pub mod testing;
pub mod url;

pub use chargen::Chargen;
pub use delay::Delay;
pub use delimited::Delimited;
pub use discard::Discard;
pub use dispatch::OfListener;
pub use echo::Echo;
pub use framed::Framed;
pub use hub::Hub;
