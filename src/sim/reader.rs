//! What a peer hears: the reply to what it has said, byte for byte, and messages from outside that
//! may stand anywhere between two of the service's own.
//!
//! Bytes from outside have their highest bit set, all others have not: that tells them apart where
//! the service has no messages.

use super::external_message::{BEGIN, END, read_outside};
use super::protocol::{Script, Served};

/// What has been heard.
#[derive(Default, Debug)]
pub(super) struct Ear {
    /// Bytes of the reply.
    pub(super) reply: usize,
    /// The numbers of the messages from outside, in the order that they came in.
    pub(super) outside: Vec<u64>,
    /// What has come of a message that is not complete.
    part: Vec<u8>,
}

impl Ear {
    /// Takes what has come.
    ///
    /// # Errors
    /// It is not what had to come.
    pub(super) fn hear(&mut self, script: &Script, bytes: &[u8]) -> Result<(), String> {
        match script.served() {
            Served::Framed(_) | Served::Message(_) => self.hear_messages(script, bytes),
            _ => bytes.iter().try_for_each(|&byte| self.hear_byte(script, byte)),
        }
    }

    fn hear_byte(&mut self, script: &Script, byte: u8) -> Result<(), String> {
        if byte < 0x80 {
            if !self.part.is_empty() {
                return Err(format!("a byte of the reply within a message: {:x?}", self.part));
            }
            return self.hear_reply(script, &[byte]);
        }
        self.part.push(byte);
        if byte == END {
            let number = read_outside(&self.part).ok_or_else(|| self.broken())?;
            self.outside.push(number);
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
                let number = end.and_then(|end| read_outside(&payload[..=end]));
                self.outside.push(number.ok_or_else(|| self.broken())?);
            } else {
                self.hear_reply(script, &message)?;
            }
        }
        if self.part.len() > served.wire_max().max(2048) { Err(self.broken()) } else { Ok(()) }
    }

    fn hear_reply(&mut self, script: &Script, bytes: &[u8]) -> Result<(), String> {
        for &byte in bytes {
            if !script.is_owed(self.reply, byte) {
                return Err(format!("the byte at {} is not the one that is owed", self.reply));
            }
            self.reply += 1;
        }
        Ok(())
    }

    /// Nothing more comes: a message that ends with the stream ends here. `whole`: it ended well, so
    /// nothing may be missing.
    pub(super) fn end(&mut self, script: &Script, whole: bool) -> Result<(), String> {
        let part = std::mem::take(&mut self.part);
        if matches!(script.served(), Served::Message(_)) && part.first() != Some(&BEGIN) {
            return self.hear_reply(script, &part);
        }
        if whole && !part.is_empty() { Err(format!("half a message: {part:x?}")) } else { Ok(()) }
    }

    fn broken(&self) -> String {
        format!("a message that nobody has sent: {:x?}", self.part)
    }
}
