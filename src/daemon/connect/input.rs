//! Reads standard input on a thread of its own, in chunks as they arrive or in lines.

use std::io::{self, BufRead, BufReader, Read};
use std::sync::mpsc::{Receiver, Sender};
use std::thread;

use super::ConsoleEvent;

/// Maximum bytes per read of plain input: the capacity of a pipe.
const CHUNK_BYTES: usize = 64 << 10;

/// What was read.
pub(super) enum Input {
    /// A line without its newline or, without lines, a chunk of bytes.
    Line(Vec<u8>),
    /// A line longer than this many bytes, which was skipped.
    TooLong(usize),
    /// Standard input cannot be read any more.
    Failed(io::Error),
    End,
}

/// Starts to read: lines of at most `line_max` bytes or, with `None`, bytes as they arrive. Takes
/// one credit before each read.
pub(super) fn start(
    teller: Sender<ConsoleEvent>,
    credits: Receiver<()>,
    line_max: Option<usize>,
) -> io::Result<()> {
    thread::Builder::new().name("input".into()).spawn(move || {
        let mut input = BufReader::with_capacity(CHUNK_BYTES, io::stdin());
        while credits.recv().is_ok() {
            let next = match line_max {
                Some(max) => next_line(&mut input, max),
                None => next_chunk(&mut input),
            };
            let next = next.unwrap_or_else(Input::Failed);
            let is_end = matches!(next, Input::End | Input::Failed(_));
            if teller.send(ConsoleEvent::Input(next)).is_err() || is_end {
                return;
            }
        }
    })?;
    Ok(())
}

fn next_chunk(input: &mut impl BufRead) -> io::Result<Input> {
    loop {
        match input.fill_buf() {
            Ok([]) => return Ok(Input::End),
            Ok(bytes) => {
                let chunk = bytes.to_vec();
                input.consume(chunk.len());
                return Ok(Input::Line(chunk));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn next_line(input: &mut impl BufRead, max: usize) -> io::Result<Input> {
    let mut line = Vec::new();
    // One byte more than allowed, and the newline.
    input.take(max as u64 + 2).read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(Input::End);
    }
    let ended = line.pop_if(|last| *last == b'\n').is_some();
    if line.len() <= max {
        return Ok(Input::Line(line));
    }
    if !ended {
        input.skip_until(b'\n')?;
    }
    Ok(Input::TooLong(max))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(mut text: &[u8], max: usize) -> Vec<Option<Vec<u8>>> {
        let mut lines = Vec::new();
        loop {
            match next_line(&mut text, max).unwrap() {
                Input::Line(line) => lines.push(Some(line)),
                Input::TooLong(_) => lines.push(None),
                Input::Failed(_) | Input::End => return lines,
            }
        }
    }

    #[test]
    fn lines_are_cut_at_newlines_and_those_that_are_too_long_are_skipped() {
        let line = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(lines(b"", 3), []);
        assert_eq!(lines(b"\n", 3), [line("")]);
        assert_eq!(lines(b"a\n\nbcd\ne", 3), [line("a"), line(""), line("bcd"), line("e")]);
        assert_eq!(lines(b"abcd\nabcde\nabcdefg\nx", 3), [None, None, None, line("x")]);
        assert_eq!(lines(b"abcdefg", 3), [None]);
        assert_eq!(lines(b"abc", 3), [line("abc")]);
    }

    #[test]
    fn plain_input_comes_as_it_is() {
        let mut input = BufReader::with_capacity(4, &b"a\nbcdef"[..]);
        let mut all = Vec::new();
        while let Input::Line(bytes) = next_chunk(&mut input).unwrap() {
            all.extend(bytes);
        }
        assert_eq!(all, b"a\nbcdef");
    }
}
