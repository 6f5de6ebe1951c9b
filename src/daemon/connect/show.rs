//! Writes to standard output. In a pipe, bytes are written unchanged. On a terminal, which would
//! act on control characters, and in the lines of a hub, control characters are escaped.

use std::io::{self, IsTerminal, Write};

use crate::base::words::counted;
use crate::protocol::framing::ByteOrder;
use crate::protocol::hub as protocol;
use crate::protocol::hub::{Event, QUEUE_FULL};

pub(super) struct Show {
    out: io::Stdout,
    escapes: bool,
}

impl Show {
    pub(super) fn new() -> Show {
        let out = io::stdout();
        let escapes = out.is_terminal();
        Show { out, escapes }
    }

    /// Shows bytes that are not lines.
    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.escapes {
            true => self.write(&escaped(bytes, true), b""),
            false => self.write(bytes, b""),
        }
    }

    /// Shows a message on a line of its own.
    pub(super) fn line(&mut self, message: &[u8]) -> io::Result<()> {
        match self.escapes {
            true => self.write(&escaped(message, true), b"\n"),
            false => self.write(message, b"\n"),
        }
    }

    /// Shows a frame of a hub as a line.
    pub(super) fn hub_event(&mut self, frame: &[u8], order: ByteOrder) -> io::Result<()> {
        self.write(&hub_line(frame, order), b"\n")
    }

    fn write(&mut self, bytes: &[u8], end: &[u8]) -> io::Result<()> {
        let mut out = self.out.lock();
        out.write_all(bytes)?;
        out.write_all(end)?;
        out.flush()
    }
}

/// The bytes with control characters and invalid UTF-8 escaped. With `lines`, newlines and tabs are
/// kept.
pub(super) fn escaped(bytes: &[u8], lines: bool) -> Vec<u8> {
    let mut shown = Vec::with_capacity(bytes.len());
    for part in bytes.utf8_chunks() {
        for c in part.valid().chars() {
            match c {
                '\n' | '\t' if lines => shown.push(c as u8),
                '\\' if !lines => shown.extend_from_slice(b"\\\\"),
                c if c.is_control() => shown.extend(c.escape_default().to_string().bytes()),
                c => shown.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
        shown.extend(part.invalid().escape_ascii());
    }
    shown
}

fn hub_line(frame: &[u8], order: ByteOrder) -> Vec<u8> {
    let Some(event) = protocol::event(frame, order) else {
        return format!("unknown frame: {}", frame.escape_ascii()).into_bytes();
    };
    let text = match event {
        Event::Welcome(id) => format!("you are {id}"),
        Event::Clients { ids, more } => {
            let ids: Vec<String> = ids.iter().map(|id| id.to_string()).collect();
            let more = if more { " ..." } else { "" };
            format!("clients: {}{more}", ids.join(" "))
        }
        Event::Message { to_all, from, payload } => {
            let from = match from {
                0 => "the server".to_owned(),
                id => id.to_string(),
            };
            let to = if to_all { "to all" } else { "to you" };
            return [format!("{from} {to}: ").as_bytes(), &escaped(payload, false)].concat();
        }
        Event::Joined(id) => format!("joined: {id}"),
        Event::Left(id) => format!("left: {id}"),
        Event::NotSent { reason: QUEUE_FULL, id } => {
            format!("not sent to {id}: its queue is full")
        }
        Event::NotSent { id, .. } => format!("not sent to {id}: it has disconnected"),
        Event::Unknown(kind) => format!("unknown frame of type {kind}"),
        Event::Dropped(count) => {
            let messages = counted(count, "message");
            format!("dropped: {messages} for you, because you read too slowly")
        }
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_act_on_is_escaped() {
        let show = |bytes: &[u8]| String::from_utf8(escaped(bytes, true)).unwrap();
        assert_eq!(show("grün\tund\nso".as_bytes()), "grün\tund\nso");
        assert_eq!(show(b"\x1b[2J\x07\xff\r\n"), "\\u{1b}[2J\\u{7}\\xff\\r\n");
        assert_eq!(show("\u{9b}2J".as_bytes()), "\\u{9b}2J", "a control of the upper half");
    }

    #[test]
    fn frames_of_a_hub_are_readable_and_cannot_look_like_others() {
        let line = |frame: &[u8]| String::from_utf8(hub_line(frame, ByteOrder::Little)).unwrap();
        let id = |kind: &[u8], id: u64, rest: &[u8]| [kind, &id.to_le_bytes(), rest].concat();
        assert_eq!(line(&id(&[128], 5, b"")), "you are 5");
        assert_eq!(line(&id(&[129, 0], 5, &6_u64.to_le_bytes())), "clients: 5 6");
        assert_eq!(line(&id(&[130, 1], 5, b"a\nleft: 7")), "5 to all: a\\nleft: 7");
        assert_eq!(line(&id(&[130, 0], 0, b"hi")), "the server to you: hi");
        assert_eq!(line(&id(&[132], 5, b"")), "left: 5");
        assert_eq!(line(&id(&[133, 1], 9, b"")), "not sent to 9: it has disconnected");
        assert_eq!(line(b"\x01"), "unknown frame: \\x01");
    }
}
