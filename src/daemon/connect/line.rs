//! Interprets lines: how many messages a line is, and what it asks a hub for.

use crate::protocol::framing::{ByteOrder, LENGTH_BYTES};
use crate::protocol::hub::{Request, request_head};

/// Returns how many messages a line is, with the delimiter after it. `carry` holds the bytes that
/// earlier lines left incomplete, and then those that this line leaves: fewer than a delimiter has.
pub(super) fn messages_in(carry: &mut Vec<u8>, line: &[u8], delimiter: &[u8]) -> u64 {
    let wire = [carry, line, delimiter].concat();
    let (mut at, mut count) = (0, 0);
    while let Some(found) = memchr::memmem::find(&wire[at..], delimiter) {
        at += found + delimiter.len();
        count += 1;
    }
    *carry = wire[at..].to_vec();
    count
}

/// The meaning of a line to a hub.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum LineCommand<'a> {
    Ask(Request, &'a [u8]),
    Quit,
}

/// A frame without its length, which the client library adds.
pub(super) fn hub_frame(request: Request, payload: &[u8], order: ByteOrder) -> Vec<u8> {
    let head = request_head(request, payload.len(), order);
    [&head.bytes()[LENGTH_BYTES..], payload].concat()
}

pub(super) fn hub_request(line: &[u8]) -> Result<LineCommand<'_>, String> {
    if !line.starts_with(b"/") || line.starts_with(b"//") {
        let text = line.strip_prefix(b"/").unwrap_or(line);
        return Ok(LineCommand::Ask(Request::Broadcast, text));
    }
    let (word, rest) = match line.iter().position(|&byte| byte == b' ') {
        Some(at) => (&line[..at], &line[at + 1..]),
        None => (line, &b""[..]),
    };
    match word {
        b"/list" => Ok(LineCommand::Ask(Request::List, b"")),
        b"/quit" => Ok(LineCommand::Quit),
        b"/to" => {
            let (id, payload) = match rest.iter().position(|&byte| byte == b' ') {
                Some(at) => (&rest[..at], &rest[at + 1..]),
                None => (rest, &b""[..]),
            };
            let to = std::str::from_utf8(id).ok().and_then(|id| id.parse().ok());
            let to = to.ok_or("/to needs the id of a client: /to ID TEXT; /list shows the ids")?;
            Ok(LineCommand::Ask(Request::Send { to }, payload))
        }
        _ => Err(format!(
            "'{}' is not a command; use /list, /to ID TEXT or /quit (// starts a line with a \
             slash)",
            word.escape_ascii()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_with_delimiters_in_it_is_several_messages() {
        let count = |lines: &[&str], delimiter: &str| -> u64 {
            let mut carry = Vec::new();
            let each = lines.iter().map(|line| {
                let count = messages_in(&mut carry, line.as_bytes(), delimiter.as_bytes());
                assert!(carry.len() < delimiter.len());
                count
            });
            each.sum()
        };
        assert_eq!(count(&["a", "", "b"], ";"), 3);
        assert_eq!(count(&["a;b", ";;", "c"], ";"), 6);
        assert_eq!(count(&["a<EOF>b<EO", "F>"], "<EOF>"), 3);
        assert_eq!(count(&["a", "a"], "aa"), 3, "aaa and aaa");
    }

    #[test]
    fn lines_to_a_hub_are_messages_or_commands() {
        let ask = |request, payload| Ok(LineCommand::Ask(request, payload));
        assert_eq!(hub_request(b"hi /there"), ask(Request::Broadcast, b"hi /there"));
        assert_eq!(hub_request(b""), ask(Request::Broadcast, b""));
        assert_eq!(hub_request(b"//list"), ask(Request::Broadcast, b"/list"));
        assert_eq!(hub_request(b"/list"), ask(Request::List, b""));
        assert_eq!(hub_request(b"/quit"), Ok(LineCommand::Quit));
        assert_eq!(hub_request(b"/to 7 hi  there"), ask(Request::Send { to: 7 }, b"hi  there"));
        assert_eq!(hub_request(b"/to 7"), ask(Request::Send { to: 7 }, b""));
        let frame = hub_frame(Request::Send { to: 7 }, b"hi", ByteOrder::Little);
        assert_eq!(frame, [2, 7, 0, 0, 0, 0, 0, 0, 0, b'h', b'i']);
        for (line, hint) in [("/to x hi", "/list"), ("/to", "/list"), ("/who", "/to ID TEXT")] {
            assert!(hub_request(line.as_bytes()).unwrap_err().contains(hint), "{line}");
        }
    }
}
