//! Checks what a peer receives: the reply byte by byte, and external messages, which may stand
//! between any two messages of the service.
//!
//! All bytes of external messages have their highest bit set, and no other bytes have. This
//! separates the two where the service has no messages.

use super::external_message::{BEGIN, END, read_external};
use super::protocol::{Script, Served};

/// What a peer has received.
#[derive(Default, Debug)]
pub(super) struct Reader {
    /// Number of bytes of the reply.
    pub(super) reply: usize,
    /// Numbers of the external messages, in the order of arrival.
    pub(super) external: Vec<u64>,
    /// The received part of an incomplete message.
    part: Vec<u8>,
}

impl Reader {
    /// Takes received bytes.
    ///
    /// # Errors
    /// If they are not the expected ones.
    pub(super) fn hear(&mut self, script: &Script, bytes: &[u8]) -> Result<(), String> {
        match script.served() {
            Served::Framed(_) | Served::Message(_) => self.hear_messages(script, bytes),
            _ => bytes.iter().try_for_each(|&byte| self.hear_byte(script, byte)),
        }
    }

    fn hear_byte(&mut self, script: &Script, byte: u8) -> Result<(), String> {
        if byte < 0x80 {
            if !self.part.is_empty() {
                return Err(format!(
                    "a byte of the reply inside an external message: {:x?}",
                    self.part
                ));
            }
            return self.hear_reply(script, &[byte]);
        }
        self.part.push(byte);
        if byte == END {
            let number = read_external(&self.part).ok_or_else(|| self.broken())?;
            self.external.push(number);
            self.part.clear();
        }
        Ok(())
    }

    fn hear_messages(&mut self, script: &Script, bytes: &[u8]) -> Result<(), String> {
        self.part.extend(bytes);
        let served = script.served();
        while let Some(len) = served.first_message(&self.part) {
            let rest = self.part.split_off(len);
            let message = std::mem::replace(&mut self.part, rest);
            let payload = &message[served.payload_at()..];
            if payload.first() == Some(&BEGIN) {
                let end = payload.iter().rposition(|&byte| byte == END);
                let number = end.and_then(|end| read_external(&payload[..=end]));
                self.external.push(number.ok_or_else(|| self.broken())?);
            } else {
                self.hear_reply(script, &message)?;
            }
        }
        if self.part.len() > served.wire_max().max(2048) { Err(self.broken()) } else { Ok(()) }
    }

    fn hear_reply(&mut self, script: &Script, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            if !script.is_owed(self.reply, byte) {
                return Err(format!("the byte at {} of the reply is wrong", self.reply));
            }
            self.reply += 1;
        }
        Ok(())
    }

    /// Ends the stream. A message that FIN delimits ends here. With `whole` the stream ended with
    /// FIN, so no message may be incomplete.
    pub(super) fn end(&mut self, script: &Script, whole: bool) -> Result<(), String> {
        let part = std::mem::take(&mut self.part);
        if matches!(script.served(), Served::Message(_)) && part.first() != Some(&BEGIN) {
            return self.hear_reply(script, &part);
        }
        if whole && !part.is_empty() { Err(format!("half a message: {part:x?}")) } else { Ok(()) }
    }

    fn broken(&self) -> String {
        format!("a message that was never sent: {:x?}", self.part)
    }
}
