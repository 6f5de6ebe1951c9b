//! The options of each service but `delay`, and what they are where they are not written. How they
//! are read and written is in `../spec.rs` and `value`; what a service does with them is in the
//! service's own file.

use std::str::FromStr;

use crate::config::{FRAME_BYTES, HUB_QUEUE_BYTES, MESSAGE_BYTES, SHOW_BYTES};
use crate::protocol::framing::{ByteOrder, Delimiter, Framing};

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
