//! Where messages end in a stream of bytes: after a length, or at a delimiter. Pure: it examines
//! the available bytes and returns the size of the first message. Services, clients and the load
//! generator decide what to do with it.

use std::fmt;

use crate::buffer::Chain;

/// Size of the length in front of a frame, in bytes.
pub const LENGTH_BYTES: usize = 4;

/// Maximum size of a frame or message, in bytes: the largest number in a signed length of 4 bytes.
pub const FRAME_BYTES_MAX: u32 = i32::MAX as u32;

/// Maximum size of a delimiter, in bytes. A longer one is probably a typing error.
pub const DELIMITER_MAX: usize = 16;

/// Which byte of a number comes first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ByteOrder {
    /// Least significant byte first, as x86 stores numbers and .NET's `BitConverter` writes them.
    #[default]
    Little,
    /// Most significant byte first: network byte order.
    Big,
}

/// How a stream is divided into messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Framing {
    /// A signed number of 4 bytes gives the number of bytes that follow. 0 is allowed.
    Length {
        /// The byte order of the number.
        order: ByteOrder,
        /// Maximum size of a frame without its length, in bytes. At most `i32::MAX`.
        max: u32,
    },
    /// A message ends with these bytes, which are part of it.
    Delimiter {
        /// The bytes.
        delimiter: Delimiter,
        /// Maximum size of a message including its delimiter, in bytes.
        max: u32,
    },
}

/// An invalid message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum FrameError {
    /// The message exceeds the limit.
    TooLong {
        /// The announced length or, with a delimiter, the bytes received without one. In bytes.
        len: u32,
        /// The limit.
        max: u32,
    },
    /// The length is negative.
    Negative(i32),
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FrameError::TooLong { len, max } => {
                write!(f, "a message of {len} bytes or more, but the limit is {max}")
            }
            FrameError::Negative(len) => write!(f, "a message of {len} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

/// How far the first message of an input has been searched for a delimiter. It is kept between
/// calls, so that no byte is searched twice. See
/// [`Connection::take_message`](crate::service::Connection::take_message).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Scan {
    /// Number of bytes searched.
    scanned: u32,
    /// How many of the last searched bytes match the beginning of the delimiter.
    matched: u8,
}

impl Framing {
    /// Lines that end with a line feed, which is part of them, of at most `max` bytes. A carriage
    /// return before it is a byte of the line: `trim_ascii_end` removes both.
    pub fn lines(max: u32) -> Framing {
        Framing::Delimiter { delimiter: Delimiter::new(b"\n").expect("one byte"), max }
    }

    /// Maximum size of a message on the wire, including its length or delimiter, in bytes.
    pub fn wire_max(&self) -> usize {
        match *self {
            Framing::Length { max, .. } => LENGTH_BYTES + max as usize,
            Framing::Delimiter { max, .. } => max as usize,
        }
    }

    /// Returns the size of the first message in bytes, including its length or delimiter, or `None`
    /// if it is incomplete. `input` is the stream from that message on. It may have grown since the
    /// last call with the same `scan`. Once a message is found, `scan` must be reset.
    ///
    /// An invalid message is rejected as early as possible: when its length has arrived, or when
    /// the limit is reached without a delimiter.
    ///
    /// # Errors
    /// The message is too long, or its length is negative.
    #[inline]
    pub(crate) fn first(
        &self,
        input: &Chain,
        scan: &mut Scan,
    ) -> Result<Option<usize>, FrameError> {
        match *self {
            Framing::Length { order, max } => {
                let mut prefix = [0; LENGTH_BYTES];
                if input.peek(&mut prefix) < LENGTH_BYTES {
                    return Ok(None);
                }
                let whole = LENGTH_BYTES + length(prefix, order, max)?;
                Ok((input.len() >= whole).then_some(whole))
            }
            Framing::Delimiter { delimiter, max } => {
                let mut unread = Unread::behind(*scan, input);
                delimiter.find(&mut unread, scan, max as usize)
            }
        }
    }

    /// Returns the total size of all complete messages at the front of the stream in bytes, and the
    /// error if the next message is invalid. Calls `each` with the range of each message, including
    /// its length or delimiter. `input` and `scan` are as in [`first`](Framing::first). Afterwards,
    /// `scan` belongs to the rest of the stream after these messages.
    pub(crate) fn all(
        &self,
        input: &Chain,
        scan: &mut Scan,
        mut each: impl FnMut(std::ops::Range<usize>),
    ) -> (usize, Option<FrameError>) {
        let mut unread = Unread::behind(*scan, input);
        let mut taken = 0;
        loop {
            let found = match *self {
                Framing::Length { order, max } => unread.frame(input.len() - taken, order, max),
                Framing::Delimiter { delimiter, max } => {
                    delimiter.find(&mut unread, scan, max as usize)
                }
            };
            match found {
                Ok(Some(whole)) => {
                    each(taken..taken + whole);
                    taken += whole;
                    *scan = Scan::default();
                }
                Ok(None) => return (taken, None),
                Err(error) => return (taken, Some(error)),
            }
        }
    }

    /// Returns the bytes before and after a payload of `len` bytes.
    ///
    /// # Errors
    /// The message is too long.
    pub fn around(&self, len: usize) -> Result<(Prefix, &[u8]), FrameError> {
        let too_long = |max| {
            let len = u32::try_from(len).unwrap_or(u32::MAX);
            FrameError::TooLong { len, max }
        };
        match self {
            Framing::Length { order, max } => {
                let number = u32::try_from(len).ok().filter(|len| len <= max);
                let number = number.ok_or_else(|| too_long(*max))?;
                Ok((Prefix(Some(encode(number, *order))), &[]))
            }
            Framing::Delimiter { delimiter, max } => {
                let fits = len + delimiter.bytes().len() <= *max as usize;
                fits.then_some((Prefix(None), delimiter.bytes())).ok_or_else(|| too_long(*max))
            }
        }
    }

    /// The range of the payload in a message of `whole` bytes.
    pub fn payload(&self, whole: usize) -> std::ops::Range<usize> {
        match self {
            Framing::Length { .. } => LENGTH_BYTES..whole,
            Framing::Delimiter { delimiter, .. } => 0..whole - delimiter.bytes().len(),
        }
    }
}

/// The bytes before a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix(Option<[u8; LENGTH_BYTES]>);

impl Prefix {
    /// The bytes: a length, or none.
    pub fn bytes(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |bytes| bytes)
    }
}

/// Encodes a length for the wire.
pub fn encode(len: u32, order: ByteOrder) -> [u8; LENGTH_BYTES] {
    match order {
        ByteOrder::Little => len.to_le_bytes(),
        ByteOrder::Big => len.to_be_bytes(),
    }
}

/// Decodes a length.
///
/// # Errors
/// The length is negative or above `max`.
#[inline]
pub fn length(bytes: [u8; LENGTH_BYTES], order: ByteOrder, max: u32) -> Result<usize, FrameError> {
    let number = match order {
        ByteOrder::Little => i32::from_le_bytes(bytes),
        ByteOrder::Big => i32::from_be_bytes(bytes),
    };
    let len = u32::try_from(number).map_err(|_| FrameError::Negative(number))?;
    if len > max { Err(FrameError::TooLong { len, max }) } else { Ok(len as usize) }
}

/// 1 to 16 bytes that end a message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Delimiter {
    bytes: [u8; DELIMITER_MAX],
    len: u8,
    /// How many bytes still match if a mismatch follows `n + 1` matching bytes, at index `n`: the
    /// table of Knuth, Morris and Pratt, "Fast pattern matching in strings" (1977).
    fallback: [u8; DELIMITER_MAX],
}

impl Delimiter {
    /// Creates a delimiter. Returns `None` if there are no bytes or more than 16.
    pub fn new(bytes: &[u8]) -> Option<Delimiter> {
        if bytes.is_empty() || bytes.len() > DELIMITER_MAX {
            return None;
        }
        let mut delimiter =
            Delimiter { bytes: [0; DELIMITER_MAX], len: bytes.len() as u8, fallback: [0; 16] };
        delimiter.bytes[..bytes.len()].copy_from_slice(bytes);
        for (at, &byte) in bytes.iter().enumerate().skip(1) {
            let matched = usize::from(delimiter.fallback[at - 1]);
            delimiter.fallback[at] = delimiter.step(matched, byte) as u8;
        }
        Some(delimiter)
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// The number of matching bytes after one more byte.
    #[inline]
    fn step(&self, mut matched: usize, byte: u8) -> usize {
        loop {
            if self.bytes[matched] == byte {
                return matched + 1;
            }
            if matched == 0 {
                return 0;
            }
            matched = usize::from(self.fallback[matched - 1]);
        }
    }

    /// Bytes up to the end of the first delimiter in one slice of the stream.
    #[inline]
    fn find_in(&self, bytes: &[u8], scan: &mut Scan) -> Option<usize> {
        let (mut at, mut matched) = (0, usize::from(scan.matched));
        while at < bytes.len() {
            if matched == 0 {
                // Most bytes are not the first of a delimiter.
                let Some(skip) = memchr::memchr(self.bytes[0], &bytes[at..]) else { break };
                at += skip;
            }
            matched = self.step(matched, bytes[at]);
            at += 1;
            if matched == usize::from(self.len) {
                return Some(at);
            }
        }
        scan.matched = matched as u8;
        None
    }

    /// Returns the number of bytes up to the end of the first delimiter. Reads no further.
    fn find<'a, I: Iterator<Item = &'a [u8]>>(
        &self,
        unread: &mut Unread<'a, I>,
        scan: &mut Scan,
        max: usize,
    ) -> Result<Option<usize>, FrameError> {
        while let Some(slice) = unread.slice() {
            let room = max - scan.scanned as usize;
            let allowed = &slice[..slice.len().min(room)];
            let found = self.find_in(allowed, scan);
            scan.scanned += found.unwrap_or(allowed.len()) as u32;
            unread.slice = &slice[found.unwrap_or(slice.len())..];
            if found.is_some() {
                return Ok(Some(scan.scanned as usize));
            }
            if scan.scanned as usize == max {
                return Err(FrameError::TooLong { len: scan.scanned, max: max as u32 });
            }
        }
        Ok(None)
    }
}

/// The part of a chain that has not been examined yet.
struct Unread<'a, I> {
    slice: &'a [u8],
    slices: I,
}

impl<'a> Unread<'a, std::iter::Empty<&'a [u8]>> {
    /// The part of the input after the bytes that `scan` has covered.
    fn behind(scan: Scan, input: &'a Chain) -> Unread<'a, impl Iterator<Item = &'a [u8]>> {
        let searched = scan.scanned as usize;
        assert!(searched <= input.len(), "bytes that were searched were taken off the input");
        let mut unread = Unread { slice: &[], slices: input.slices() };
        unread.skip(searched);
        unread
    }
}

impl<'a, I: Iterator<Item = &'a [u8]>> Unread<'a, I> {
    /// The next contiguous slice, which is not empty. `None` at the end.
    fn slice(&mut self) -> Option<&'a [u8]> {
        while self.slice.is_empty() {
            self.slice = self.slices.next()?;
        }
        Some(self.slice)
    }

    fn skip(&mut self, mut count: usize) {
        while count > 0 {
            let Some(slice) = self.slice() else { return };
            let here = count.min(slice.len());
            self.slice = &slice[here..];
            count -= here;
        }
    }

    /// Reads a frame if it is complete within `len`, the number of unread bytes.
    fn frame(
        &mut self,
        len: usize,
        order: ByteOrder,
        max: u32,
    ) -> Result<Option<usize>, FrameError> {
        if len < LENGTH_BYTES {
            return Ok(None);
        }
        let mut prefix = [0; LENGTH_BYTES];
        for byte in &mut prefix {
            let slice = self.slice().unwrap_or(&[0]);
            (*byte, self.slice) = (slice[0], &slice[1..]);
        }
        let payload = length(prefix, order, max)?;
        if len - LENGTH_BYTES < payload {
            return Ok(None);
        }
        self.skip(payload);
        Ok(Some(LENGTH_BYTES + payload))
    }
}

impl fmt::Debug for Delimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Delimiter(\"{}\")", self.bytes().escape_ascii())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::{Pool, Reserve};

    const MAX: u32 = 300;

    fn pool() -> Pool {
        Pool::new(Reserve::new(7, 4096).unwrap(), 0)
    }

    fn put(chain: &mut Chain, pool: &Pool, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let mut lease = pool.lease().unwrap();
            let copied = lease.extend_from_slice(bytes);
            bytes = &bytes[copied..];
            chain.absorb(&mut Chain::from(lease));
        }
    }

    fn lengths() -> Framing {
        Framing::Length { order: ByteOrder::Little, max: MAX }
    }

    fn eof(max: u32) -> Framing {
        Framing::Delimiter { delimiter: Delimiter::new(b"<EOF>").unwrap(), max }
    }

    /// Does the same as `messages`, with [`Framing::all`] called after each part.
    fn all_messages(framing: Framing, parts: &[&[u8]]) -> Result<Vec<usize>, FrameError> {
        let pool = pool();
        let mut input = Chain::new(&pool);
        let (mut found, mut scan) = (Vec::new(), Scan::default());
        for part in parts {
            put(&mut input, &pool, part);
            let mut end = 0;
            let (taken, error) = framing.all(&input, &mut scan, |place| {
                assert_eq!(place.start, end, "ranges are adjacent");
                end = place.end;
                found.push(place.len());
            });
            assert_eq!(taken, end);
            input.consume(taken);
            if let Some(error) = error {
                return Err(error);
            }
        }
        Ok(found)
    }

    /// The sizes of all messages in a stream that arrives in these parts.
    fn messages(framing: Framing, parts: &[&[u8]]) -> Result<Vec<usize>, FrameError> {
        let pool = pool();
        let mut input = Chain::new(&pool);
        let (mut found, mut scan) = (Vec::new(), Scan::default());
        for part in parts {
            put(&mut input, &pool, part);
            while let Some(whole) = framing.first(&input, &mut scan)? {
                input.consume(whole);
                scan = Scan::default();
                found.push(whole);
            }
        }
        assert_eq!(all_messages(framing, parts), Ok(found.clone()), "one by one and all at once");
        Ok(found)
    }

    fn framed(payloads: &[&[u8]], framing: Framing) -> Vec<u8> {
        let mut stream = Vec::new();
        for payload in payloads {
            let (before, after) = framing.around(payload.len()).unwrap();
            stream.extend_from_slice(before.bytes());
            stream.extend_from_slice(payload);
            stream.extend_from_slice(after);
        }
        stream
    }

    #[test]
    fn messages_are_found_whatever_the_points_at_which_the_stream_is_split() {
        let payloads: [&[u8]; 5] = [b"", b"a", b"<EOF", b"<<E<EO", &[7; 200]];
        for framing in [lengths(), eof(MAX)] {
            let stream = framed(&payloads, framing);
            let whole: Vec<_> = payloads.iter().map(|p| framed(&[p], framing).len()).collect();
            let single: Vec<&[u8]> = stream.chunks(1).collect();
            assert_eq!(messages(framing, &single).unwrap(), whole, "one byte at a time");
            for first in 0..=stream.len() {
                let (a, rest) = stream.split_at(first);
                assert_eq!(messages(framing, &[a, rest]).unwrap(), whole, "split at {first}");
                for second in 0..=rest.len().min(40) {
                    let (b, c) = rest.split_at(second);
                    assert_eq!(messages(framing, &[a, b, c]).unwrap(), whole, "{first} {second}");
                }
            }
        }
    }

    #[test]
    fn a_length_is_allowed_from_0_to_the_limit_in_either_order() {
        for order in [ByteOrder::Little, ByteOrder::Big] {
            let check = |number: i32, max| length(encode(number as u32, order), order, max);
            for max in [0, 1, 255, 256, 65_535, 65_536, i32::MAX as u32] {
                assert_eq!(check(0, max), Ok(0));
                assert_eq!(check(max as i32, max), Ok(max as usize));
                let above = (max as i32).checked_add(1);
                if let Some(above) = above {
                    let len = above as u32;
                    assert_eq!(check(above, max), Err(FrameError::TooLong { len, max }));
                }
                for negative in [-1, -2, i32::MIN, i32::MIN + 1] {
                    assert_eq!(check(negative, max), Err(FrameError::Negative(negative)));
                }
            }
        }
    }

    #[test]
    fn the_order_of_the_bytes_is_that_of_the_name() {
        assert_eq!(encode(0x0102_0304, ByteOrder::Little), [4, 3, 2, 1]);
        assert_eq!(encode(0x0102_0304, ByteOrder::Big), [1, 2, 3, 4]);
    }

    #[test]
    fn a_length_that_is_not_allowed_is_refused_before_a_byte_of_its_message_has_come() {
        let header = encode(MAX + 1, ByteOrder::Little);
        assert_eq!(messages(lengths(), &[&header[..3]]), Ok(vec![]));
        let error = FrameError::TooLong { len: MAX + 1, max: MAX };
        assert_eq!(messages(lengths(), &[&header]), Err(error));
    }

    #[test]
    fn a_message_may_be_as_long_as_the_limit_and_no_longer() {
        for extra in 0..3 {
            let stream = [vec![b'x'; 5 + extra], b"<EOF>".to_vec()].concat();
            let single: Vec<&[u8]> = stream.chunks(1).collect();
            for parts in [vec![stream.as_slice()], single] {
                match messages(eof(10), &parts) {
                    Ok(found) => assert_eq!((extra, found), (0, vec![10])),
                    Err(error) => {
                        assert!(extra > 0, "{error}");
                        assert_eq!(error, FrameError::TooLong { len: 10, max: 10 });
                    }
                }
            }
        }
    }

    #[test]
    fn a_delimiter_has_1_to_16_bytes() {
        assert_eq!(Delimiter::new(b""), None);
        assert_eq!(Delimiter::new(&[1; 17]), None);
        assert_eq!(Delimiter::new(&[1; 16]).unwrap().bytes(), [1; 16]);
        assert_eq!(format!("{:?}", Delimiter::new(b"\r\n").unwrap()), r#"Delimiter("\r\n")"#);
    }

    #[test]
    fn what_is_too_long_is_not_put_in_a_frame() {
        assert!(lengths().around(MAX as usize).is_ok());
        assert!(lengths().around(MAX as usize + 1).is_err());
        assert!(eof(10).around(5).is_ok() && eof(10).around(6).is_err());
        assert_eq!((lengths().payload(10), eof(10).payload(10)), (4..10, 0..5));
    }

    proptest! {
        #![proptest_config(crate::base::property::config())]

        /// Uses few different bytes, so that partial matches of the delimiter are common.
        #[test]
        fn a_delimiter_is_found_where_a_plain_search_finds_it(
            delimiter in proptest::collection::vec(0..3u8, 1..=5),
            stream in proptest::collection::vec(0..3u8, 0..120),
            cuts in proptest::collection::vec(1..20usize, 1..20),
        ) {
            let mut expected = Vec::new();
            let mut rest = stream.as_slice();
            while let Some(at) = rest.windows(delimiter.len()).position(|w| w == delimiter) {
                expected.push(at + delimiter.len());
                rest = &rest[at + delimiter.len()..];
            }
            let framing =
                Framing::Delimiter { delimiter: Delimiter::new(&delimiter).unwrap(), max: 1000 };
            let mut parts = Vec::new();
            let mut left = stream.as_slice();
            for cut in cuts.iter().cycle() {
                if left.is_empty() { break }
                let (part, more) = left.split_at((*cut).min(left.len()));
                parts.push(part);
                left = more;
            }
            prop_assert_eq!(messages(framing, &parts).unwrap(), expected);
        }
    }
}
