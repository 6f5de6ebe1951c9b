//! The framed echo: a frame is a length of 4 bytes and that many bytes. It is sent back when it is
//! complete.

use super::message_echo::{
    check_room, out_of_references, references, refuse, send_front, send_payload,
};
use super::option::{About, Allowed, ORDERS, Options, Value, declare, options};
use crate::config::Limits;
use crate::error::SettingError;
use crate::protocol::framing::{ByteOrder, FRAME_BYTES_MAX, Framing, Scan};
use crate::service::{Answer, Connection, Message, Service, ServiceFactory, ServicePlan};

options! {
    /// Options of the length-prefixed echo.
    #[derive(Copy)]
    pub struct FramedOptions {
        /// Byte order of the length. Default: little endian.
        pub order: ByteOrder = ByteOrder::Little,
            "order" = "ORDER", Words(ORDERS), "byte order of numbers";
        /// Maximum size of a frame without its length, in bytes: 1 to 2,147,483,647. Default: 1
        /// MiB.
        //
        // The default takes 64 of the 4096 default buffers, enough for most files and images.
        pub max_frame: u32 = 1 << 20, "max-frame" = "SIZE", Size(1, FRAME_BYTES_MAX),
            "longest frame, without its length";
    }
}

impl FramedOptions {
    /// How the stream is divided into frames.
    pub fn framing(&self) -> Framing {
        Framing::Length { order: self.order, max: self.max_frame }
    }
}

/// Sends each complete frame back, including its length, in the buffers it arrived in. Frames that
/// arrive together are sent back together. A frame may be empty.
///
/// A frame that exceeds the limit, or has a negative length, ends the connection with
/// [`CloseReason::MessageTooLong`](crate::CloseReason::MessageTooLong) or
/// [`ProtocolError`](crate::CloseReason::ProtocolError) as soon as its length has arrived. Frames
/// before it are still sent back. If the client closes its sending side in the middle of a frame,
/// the frames before it are sent back and the incomplete one is not.
#[derive(Clone, Copy, Debug)]
pub struct Framed {
    framing: Framing,
}

impl Framed {
    /// The service with these options.
    pub fn new(options: FramedOptions) -> Framed {
        Framed { framing: options.framing() }
    }
}

impl ServiceFactory for FramedOptions {
    type Service = Framed;

    fn check(&self, limits: &Limits) -> Result<(), SettingError> {
        check_room(limits, self.framing().wire_max(), "max_frame", self.max_frame)
    }

    fn plan(self, limits: &Limits) -> ServicePlan<Framed> {
        ServicePlan::new(move |_| Framed::new(self)).references(references(limits))
    }
}

impl Service for Framed {
    type Session = ();

    fn can_move(&self, _: u64, _: &()) -> bool {
        true
    }

    fn input_max(&self, _: u64) -> usize {
        self.framing.wire_max()
    }

    #[inline]
    fn data(&mut self, connection: &mut Connection<'_>, _: &mut ()) -> Answer {
        // The common case: the input is exactly one frame.
        match self.framing.first(connection.input, &mut Scan::default()) {
            Ok(None) => return Answer::Continue,
            Ok(Some(whole)) if whole == connection.input.len() => {
                connection.output.append(connection.input);
                return Answer::Continue;
            }
            _ => {}
        }
        let (complete, error) = self.framing.all(connection.input, &mut Scan::default(), |_| {});
        match error {
            _ if !send_front(connection, complete) => out_of_references(),
            Some(error) => refuse(error),
            None => Answer::Continue,
        }
    }

    fn message(
        &mut self,
        connection: &mut Connection<'_>,
        _: &mut (),
        message: &mut Message<'_>,
    ) -> Answer {
        if let Err(why) = send_payload(connection, self.framing, message.bytes()) {
            message.refuse(why);
        }
        Answer::Continue
    }
}

#[cfg(test)]
mod tests;
