//! Messages that end with a delimiter. Each message is logged and sent back whole. Then the
//! connection is closed or kept.

use std::fmt::{self, Write};
use std::ops::Range;

use log::{Level, LevelFilter};

use super::message_echo::{
    check_room, out_of_references, references, refuse, send_front, send_payload,
};
use super::option::{About, Allowed, Options, Value, Word, declare, options};
use crate::buffer::Chain;
use crate::config::Limits;
use crate::error::SettingError;
use crate::protocol::framing::{Delimiter, FRAME_BYTES_MAX, Framing, Scan};
use crate::service::{Answer, Connection, Message, Service, ServiceFactory, ServicePlan};
use crate::shared::log_limit;

/// Maximum number of bytes that the log shows. Escaping makes them up to four times as long, and
/// programs that read logs truncate longer lines.
const SHOW_MAX: u32 = 64 << 10;

options! {
    /// Options of the service for delimited messages.
    #[derive(Copy)]
    pub struct MessageOptions {
        /// The bytes that end a message, 1 to 16. Default: `<EOF>`.
        pub delimiter: Delimiter = Delimiter::new(b"<EOF>").expect("1 to 16 bytes"),
            "delimiter" = "BYTES", Described(r"1 to 16 bytes, with \n \r \t \0 \\ \xNN"),
            "bytes that end a message";
        /// What happens to the connection after a message. Default: close it.
        pub after: After = After::Close, "after" = "WHAT", Words(&["close", "keep"]),
            "what happens to the connection after a message";
        /// Maximum size of a message with its delimiter, in bytes: from the length of the delimiter
        /// to 2,147,483,647. Default: 64 KiB.
        //
        // The default is enough for text that a person types or a program logs.
        pub max_message: u32 = 64 << 10, "max-message" = "SIZE", Size(1, FRAME_BYTES_MAX),
            "longest message, with its delimiter";
        /// Bytes of a message that the log shows, at most 64 KiB. With 0, messages are not logged.
        /// Default: 200.
        //
        // The default is two lines of a terminal.
        pub show: u32 = 200, "show" = "SIZE", Size(0, SHOW_MAX),
            "bytes of a message that the log shows; 0 turns the log off";
    }
    impl {
        fn check_together(&self, _: &[&str]) -> Result<(), String> {
            let (max, end) = (self.max_message, self.delimiter.bytes());
            if max as usize >= end.len() {
                return Ok(());
            }
            let (text, len) = (end.escape_ascii(), end.len());
            Err(format!("max-message is {max}, but the delimiter '{text}' alone has {len} bytes"))
        }
    }
}

/// What happens to a connection after its message has been sent back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub enum After {
    /// Close it.
    #[default]
    Close,
    /// Keep it for the next message.
    Keep,
}

impl Word for After {
    const VALUES: &'static [After] = &[After::Close, After::Keep];
}

impl MessageOptions {
    /// How the stream is divided into messages.
    pub fn framing(&self) -> Framing {
        Framing::Delimiter { delimiter: self.delimiter, max: self.max_message }
    }
}

/// The log target of the messages.
const TARGET: &str = "echopool::message";

/// After this many messages that the log was told of, the connection waits for its next turn. Each
/// costs about a microsecond, which is much for the few bytes that it may have. So the share of a
/// turn, which is in bytes, is not enough.
const LOGGED_PER_TURN: usize = 256;

/// Logs each message at level info, and sends it back with its delimiter in the buffers it arrived
/// in. Then the service either closes the connection and ignores any bytes after the message, or
/// keeps the connection for the next message.
///
/// If a client closes its sending side, that also ends its message: the bytes since the last
/// delimiter are logged and sent back unchanged.
///
/// A message that exceeds the limit ends the connection with
/// [`CloseReason::MessageTooLong`](crate::CloseReason::MessageTooLong). Messages before it are
/// still sent back.
#[derive(Clone, Copy, Debug)]
pub struct Delimited {
    framing: Framing,
    options: MessageOptions,
}

impl Delimited {
    /// The service with these options.
    pub fn new(options: MessageOptions) -> Delimited {
        Delimited { framing: options.framing(), options }
    }

    /// Whether messages are logged, subject to the filters of the log.
    fn logs(&self) -> bool {
        self.options.show > 0 && log::max_level() >= LevelFilter::Info
    }

    /// Whether the log would show no message now, and count it.
    fn hides(&self) -> bool {
        self.logs()
            && log_limit::is_reached(Level::Info)
            && log::log_enabled!(target: TARGET, Level::Info)
    }

    /// Logs the message at this range of the input. Formats nothing if the level is disabled.
    fn show(&self, connection: &Connection<'_>, place: Range<usize>) {
        if self.logs() {
            show(connection, place, self.options.show as usize);
        }
    }

    /// Replies to the first message and ignores the rest.
    fn one(&self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
        match self.framing.first(connection.input, scan) {
            Ok(None) => Answer::Continue,
            Ok(Some(whole)) => {
                self.show(connection, 0..whole);
                match send_front(connection, whole) {
                    true => Answer::CloseAfterSend,
                    false => out_of_references(),
                }
            }
            Err(error) => refuse(error),
        }
    }

    /// Replies to all complete messages.
    fn all(&self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
        let (mut logged, mut hidden, mut hides) = (0, 0, self.hides());
        let (complete, error) = self.framing.all(connection.input, scan, |place| {
            if hides {
                hidden += 1;
            } else if self.logs() {
                show(connection, place, self.options.show as usize);
                logged += 1;
                hides = self.hides();
            }
        });
        log_limit::count_hidden(Level::Info, hidden);
        match error {
            _ if !send_front(connection, complete) => out_of_references(),
            Some(error) => refuse(error),
            None if logged >= LOGGED_PER_TURN => Answer::WaitUntil(connection.now()),
            None => Answer::Continue,
        }
    }
}

impl ServiceFactory for MessageOptions {
    type Service = Delimited;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        check_room(limits, self.framing().wire_max(), "max_message", self.max_message)
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Delimited> {
        ServicePlan::new(move |_| Delimited::new(self)).references(references(limits))
    }
}

impl Service for Delimited {
    type Session = Scan;

    fn can_move(&self, _: u64, _: &Scan) -> bool {
        true
    }

    fn input_max(&self, _: u64) -> usize {
        self.framing.wire_max()
    }

    fn data(&mut self, connection: &mut Connection<'_>, scan: &mut Scan) -> Answer {
        match self.options.after {
            After::Close => self.one(connection, scan),
            After::Keep => self.all(connection, scan),
        }
    }

    fn peer_closed(&mut self, connection: &mut Connection<'_>, _: &mut Scan) -> Answer {
        let len = connection.input.len();
        if len > 0 {
            self.show(connection, 0..len);
            connection.output.append(connection.input);
        }
        Answer::CloseAfterSend
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut Scan,
        message: &mut Message<'_>,
    ) -> Answer {
        if let Err(why) = send_payload(connection, self.framing, message.bytes()) {
            message.refuse(why);
        }
        Answer::Continue
    }
}

fn show(connection: &Connection<'_>, place: Range<usize>, most: usize) {
    let shown = place.start..place.end.min(place.start + most);
    log::info!(
        target: TARGET,
        "message id={} peer={} bytes={} shown={} text=\"{}\"",
        connection.id(),
        connection.peer(),
        place.len(),
        shown.len(),
        Escaped { chain: connection.input, place: shown },
    );
}

/// A part of a chain as text, with non-printable bytes escaped. The text is produced while it is
/// written, so it takes no memory.
struct Escaped<'a> {
    chain: &'a Chain,
    place: Range<usize>,
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut skip, mut left) = (self.place.start, self.place.len());
        for slice in self.chain.slices() {
            let here = slice.get(skip..).unwrap_or(&[]);
            skip = skip.saturating_sub(slice.len());
            let here = &here[..here.len().min(left)];
            left -= here.len();
            here.escape_ascii().try_for_each(|byte| f.write_char(char::from(byte)))?;
            if left == 0 {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
