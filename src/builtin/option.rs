//! How a service declares its options: once, as a table with a row for each option.
//!
//! The text of a URL, the flags of the daemon, `--help`, the tables of the documents (a test
//! compares them) and the canonical form of a ready line all come from these rows. A row names a
//! field of the service's options; the type of the field says how its value is read and written
//! ([`Value`]), the row's [`Allowed`] which values are allowed.
//!
//! ```text
//! impl Options for FramedOptions {
//!     const OPTIONS: &'static [Row<FramedOptions>] = &[
//!         row("max-frame", "SIZE", Allowed::Size(1, MAX), "longest frame", |o| &mut o.max_frame),
//!     ];
//! }
//! ```
//!
//! Which services there are is in `list`.

use std::fmt;
use std::time::Duration;

use crate::base::units;
use crate::protocol::framing::{ByteOrder, DELIMITER_MAX, Delimiter, Framing};

/// The options of one service. Its default is what holds where an option is not given.
pub(crate) trait Options: Copy + Default + 'static {
    /// A row for each option, in the order in which a URL is written.
    const OPTIONS: &'static [Row<Self>];

    /// Whether the daemon has a flag for each option. Options of the same name share a flag.
    const FLAGS: bool = true;

    /// Checks what concerns more than one option. `given` names the options that a URL has.
    ///
    /// # Errors
    /// Options that contradict each other; the text names them.
    fn check_together(&self, given: &[&str]) -> Result<(), String> {
        let _ = given;
        Ok(())
    }

    /// How the service divides the stream into messages, if it does.
    fn framing(&self) -> Option<Framing> {
        None
    }
}

/// A service without options.
impl Options for () {
    const OPTIONS: &'static [Row<()>] = &[];
}

/// The declaration of an option.
pub(crate) struct Row<O> {
    about: About,
    field: fn(&mut O) -> &mut dyn Value,
}

/// What a declaration says to people.
pub(crate) struct About {
    /// The name in a URL and, behind `--`, of the flag.
    pub(crate) name: &'static str,
    /// The word that stands for the value: `SIZE`.
    #[cfg_attr(not(feature = "daemon"), expect(dead_code, reason = "help and documents show it"))]
    pub(crate) value: &'static str,
    /// Which values are allowed.
    pub(crate) allowed: Allowed,
    /// What the option does; one line, without a full stop.
    pub(crate) help: &'static str,
    /// What holds where the default is no value that can be written.
    unset: &'static str,
}

impl About {
    /// The words, with the values that they stand for.
    fn words<W: Word>(&self) -> impl Iterator<Item = (&'static str, W)> {
        let Allowed::Words(words) = self.allowed else {
            unreachable!("a word is declared with the words that are allowed")
        };
        words.iter().copied().zip(W::VALUES.iter().copied())
    }
}

/// Declares an option.
pub(crate) const fn row<O>(
    name: &'static str,
    value: &'static str,
    allowed: Allowed,
    help: &'static str,
    field: fn(&mut O) -> &mut dyn Value,
) -> Row<O> {
    Row { about: About { name, value, allowed, help, unset: "" }, field }
}

impl<O> Row<O> {
    /// Describes the default of an option whose default cannot be written as a value.
    pub(crate) const fn unset(mut self, text: &'static str) -> Row<O> {
        self.about.unset = text;
        self
    }

    fn write(&self, mut options: O) -> Option<Vec<u8>> {
        (self.field)(&mut options).write(&self.about)
    }
}

/// Which values an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Allowed {
    /// One of these words.
    Words(&'static [&'static str]),
    /// Bytes, from and to; with k, m or g.
    Size(u32, u32),
    /// A count, from and to; with k or m.
    Count(u32, u32),
    /// Any number of 64 bits.
    Number,
    /// What the field's type reads, described for people.
    Described(&'static str),
}

/// As help and documents show it.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Words(words) => f.write_str(&words.join(" or ")),
            Allowed::Size(min, max) => write!(f, "{} to {}", size_text(*min), size_text(*max)),
            Allowed::Count(min, max) => write!(f, "{min} to {max}"),
            Allowed::Number => f.write_str("any whole number below 2^64"),
            Allowed::Described(text) => f.write_str(text),
        }
    }
}

impl Allowed {
    /// Reads a number of this range.
    fn number(&self, text: &str) -> Result<u32, String> {
        let (number, min, max, unit) = match *self {
            Allowed::Size(min, max) => (units::parse_size(text)?, min, max, " bytes"),
            Allowed::Count(min, max) => (units::parse_count(text)?, min, max, ""),
            _ => unreachable!("a number is declared with a range of numbers"),
        };
        let in_range = u32::try_from(number).ok().filter(|number| (min..=max).contains(number));
        in_range.ok_or_else(|| format!("{text} must be from {min} to {max}{unit}"))
    }
}

/// A field of a service's options: how its value is read and written.
pub(crate) trait Value {
    /// Sets the field.
    ///
    /// # Errors
    /// The text is not understood or is out of range; the error says what is allowed.
    fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String>;

    /// Writes the value so that [`read`](Value::read) reads it. `None` if there is no value, or if
    /// another option has it.
    fn write(&self, about: &About) -> Option<Vec<u8>>;
}

impl Value for u32 {
    fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String> {
        *self = about.allowed.number(utf8(text)?)?;
        Ok(())
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        let text = match about.allowed {
            Allowed::Size(..) => size_text(*self),
            _ => self.to_string(),
        };
        Some(text.into())
    }
}

impl Value for Option<u32> {
    fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String> {
        self.insert(0).read(about, text)
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        self.and_then(|number| number.write(about))
    }
}

impl Value for u64 {
    fn read(&mut self, _: &About, text: &[u8]) -> Result<(), String> {
        let text = utf8(text)?;
        *self = text.parse().map_err(|_| format!("'{text}' must be a whole number below 2^64"))?;
        Ok(())
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(self.to_string().into())
    }
}

/// A type with few values, each of which is written as a word.
pub(crate) trait Word: Copy + PartialEq + 'static {
    /// The values, in the order of the words in a row.
    const VALUES: &'static [Self];
}

impl Word for bool {
    const VALUES: &'static [bool] = &[true, false];
}

impl Word for ByteOrder {
    const VALUES: &'static [ByteOrder] = &[ByteOrder::Little, ByteOrder::Big];
}

/// The words of a byte order.
pub(crate) const ORDERS: Allowed = Allowed::Words(&["little", "big"]);

impl<W: Word> Value for W {
    fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String> {
        let found = about.words::<W>().find(|(word, _)| word.as_bytes() == text);
        let (_, value) = found.ok_or_else(|| {
            format!("'{}' must be {} ({})", text.escape_ascii(), about.allowed, about.help)
        })?;
        *self = value;
        Ok(())
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        let found = about.words::<W>().find(|(_, value)| value == self);
        found.map(|(word, _)| word.into())
    }
}

/// Bytes, with escapes.
impl Value for Delimiter {
    fn read(&mut self, _: &About, text: &[u8]) -> Result<(), String> {
        let bytes = unescape(text)?;
        *self = Delimiter::new(&bytes).ok_or_else(|| {
            format!("a delimiter has 1 to {DELIMITER_MAX} bytes, and this has {}", bytes.len())
        })?;
        Ok(())
    }

    /// Only backslashes are escaped: a URL percent-encodes what is no letter.
    fn write(&self, _: &About) -> Option<Vec<u8>> {
        let double = |&byte: &u8| if byte == b'\\' { vec![byte; 2] } else { vec![byte] };
        Some(self.bytes().iter().flat_map(double).collect())
    }
}

/// Replaces `\n`, `\r`, `\t`, `\0`, `\\` and `\xNN` by the bytes that they stand for.
fn unescape(text: &[u8]) -> Result<Vec<u8>, String> {
    let unknown = || {
        let text = text.escape_ascii();
        format!("'{text}': a backslash is followed by n, r, t, 0, \\ or xNN (\\x1e, say)")
    };
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(byte) = rest.next() {
        if byte != b'\\' {
            bytes.push(byte);
            continue;
        }
        bytes.push(match rest.next().ok_or_else(unknown)? {
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'0' => 0,
            b'\\' => b'\\',
            b'x' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = (digit(), digit());
                (high.ok_or_else(unknown)? << 4 | low.ok_or_else(unknown)?) as u8
            }
            _ => return Err(unknown()),
        });
    }
    Ok(bytes)
}

/// A value that is text.
pub(crate) fn utf8(value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|_| "the value must be UTF-8 text".to_owned())
}

/// Writes a size as [`units::parse_size`] reads it.
fn size_text(bytes: u32) -> String {
    match bytes {
        1.. if bytes.is_multiple_of(1 << 30) => format!("{}Gi", bytes >> 30),
        1.. if bytes.is_multiple_of(1 << 20) => format!("{}Mi", bytes >> 20),
        1.. if bytes.is_multiple_of(1 << 10) => format!("{}Ki", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// Writes a time as [`units::parse_duration`] reads it.
pub(crate) fn time_text(time: Duration) -> String {
    let nanos = time.as_nanos();
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    let whole = units.iter().find(|(unit, _)| nanos.is_multiple_of(*unit));
    let (unit, name) = whole.expect("a time is a whole number of nanoseconds");
    format!("{}{name}", nanos / unit)
}

/// The options of any service. For each type of [`Options`].
pub(crate) trait AnyOptions {
    /// What the declarations say, each with the default in words.
    fn about(&self) -> Vec<(&'static About, String)>;

    /// As [`Options::FLAGS`].
    fn has_flags(&self) -> bool;

    /// Sets an option. `None` if there is none of this name.
    fn set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>>;

    /// The options that differ from their defaults, with their values.
    fn written(&self) -> Vec<(&'static str, Vec<u8>)>;

    /// Checks each range, which options that were not read may be out of, and then what concerns
    /// several options.
    fn checked(&self, given: &[&str]) -> Result<(), String>;

    /// As [`Options::framing`].
    fn any_framing(&self) -> Option<Framing>;
}

impl<O: Options> AnyOptions for O {
    fn about(&self) -> Vec<(&'static About, String)> {
        let default = |row: &Row<O>| match row.write(O::default()) {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => row.about.unset.to_owned(),
        };
        O::OPTIONS.iter().map(|row| (&row.about, default(row))).collect()
    }

    fn has_flags(&self) -> bool {
        O::FLAGS
    }

    fn set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
        let row = O::OPTIONS.iter().find(|row| row.about.name == name)?;
        Some((row.field)(self).read(&row.about, value))
    }

    fn written(&self) -> Vec<(&'static str, Vec<u8>)> {
        let rows = O::OPTIONS.iter().filter(|row| row.write(*self) != row.write(O::default()));
        rows.filter_map(|row| Some((row.about.name, row.write(*self)?))).collect()
    }

    fn checked(&self, given: &[&str]) -> Result<(), String> {
        let mut copy = *self;
        for row in O::OPTIONS {
            if let Some(value) = row.write(*self) {
                let done = (row.field)(&mut copy).read(&row.about, &value);
                done.map_err(|error| format!("{}: {error}", row.about.name))?;
            }
        }
        self.check_together(given)
    }

    fn any_framing(&self) -> Option<Framing> {
        self.framing()
    }
}
