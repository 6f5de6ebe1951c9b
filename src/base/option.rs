//! How a service or a transport declares its options: once, with name, type, range, default and
//! help.
//!
//! The options in a URL, the flags of the daemon, `--help`, the canonical form of a ready line and
//! the tables of the documents (a test compares them) are all based on this declaration. The type
//! of a field determines how its value is read and written ([`Value`]); [`Allowed`] says which
//! values are allowed.
//!
//! ```text
//! options! {
//!     /// Options of the service.
//!     pub struct FramedOptions {
//!         /// Longest frame in bytes, 1 to 2,147,483,647. Default: 1 MiB.
//!         pub max_frame: u32 = 1 << 20,
//!             "max-frame" = "SIZE", Size(1, MAX), "longest frame, without its length";
//!     }
//! }
//! ```
//!
//! `builtin::list` names the services, `net::transport` the transports. `builtin::option` has the
//! types of values that only services have.

use std::fmt;
use std::time::Duration;

use super::units;

/// The options of one service or transport.
pub(crate) trait Options {
    /// The declarations, in the order in which a URL is written.
    fn about(&self) -> &'static [About];

    /// Reads the value of an option that is declared here.
    ///
    /// # Errors
    /// As [`Value::read`].
    fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String>;

    /// Writes the value of an option that is declared here, as [`Value::write`].
    fn write(&self, about: &About) -> Option<Vec<u8>>;

    /// Returns the default options.
    fn defaults(&self) -> Box<dyn Options>;

    /// Whether the daemon has a flag for each option. Options of the same name share a flag.
    fn has_flags(&self) -> bool {
        true
    }

    /// Checks constraints that involve more than one option. `given` names the options in the URL.
    ///
    /// # Errors
    /// Options that contradict each other; the text names them.
    fn check_together(&self, _given: &[&str]) -> Result<(), String> {
        Ok(())
    }

    /// Sets an option. Returns `None` if there is no option of this name.
    fn set(&mut self, name: &str, value: &[u8]) -> Option<Result<(), String>> {
        let about = self.about().iter().find(|about| about.name == name)?;
        Some(self.read(about, value))
    }

    /// The options that differ from their defaults, with their values.
    fn written(&self) -> Vec<(&'static str, Vec<u8>)> {
        let defaults = self.defaults();
        let differs =
            |about| Some(self.write(about)).filter(|value| *value != defaults.write(about));
        self.about().iter().filter_map(|about| Some((about.name, differs(about)??))).collect()
    }

    /// Checks each range, because options that were set in code may be out of range, and then the
    /// constraints that involve several options.
    ///
    /// # Errors
    /// An option is out of its range, or contradicts another.
    fn checked(&self, given: &[&str]) -> Result<(), String> {
        let mut copy = self.defaults();
        for about in self.about() {
            let done = self.write(about).map_or(Ok(()), |value| copy.read(about, &value));
            done.map_err(|error| format!("{}: {error}", about.name))?;
        }
        self.check_together(given)
    }
}

/// Declares the options of a service or a transport: a field for each, with its type and its default; then the
/// option's name, the word for the value, the allowed values, and the help. If the default cannot
/// be written as a value, a description of it follows. If the parts of a field are separate
/// options, they are listed under `parts`. Methods of [`Options`] go under `impl`.
macro_rules! options {
    (
        $(#[$doc:meta])*
        pub struct $options:ident {
            $($(#[$about:meta])* pub $field:ident: $type:ty = $default:expr $(,
                $name:literal = $value:literal, $kind:ident $(($($limit:expr),*))?, $help:literal
                $(, $unset:literal)?)?;)*
        }
        $(parts { $($parts:tt)* })?
        $(impl { $($methods:tt)* })?
    ) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug)]
        pub struct $options {
            $($(#[$about])* pub $field: $type,)*
        }

        impl Default for $options {
            fn default() -> $options {
                $options { $($field: $default),* }
            }
        }

        impl Options for $options {
            declare! {
                $($($parts)*)?
                $($($field: $name = $value, $kind $(($($limit),*))?, $help $(, $unset)?;)?)*
            }

            $($($methods)*)?
        }
    };
}
pub(crate) use options;

/// The required methods of [`Options`], from a row for each option.
macro_rules! declare {
    ($($($field:ident).+: $name:literal = $value:literal, $kind:ident $(($($limit:expr),*))?,
        $help:literal $(, $unset:literal)?;)*) => {
        fn about(&self) -> &'static [About] {
            &[$(About {
                name: $name, value: $value, allowed: Allowed::$kind $(($($limit),*))?, help: $help,
                unset: concat!($($unset)?),
            }),*]
        }

        fn read(&mut self, about: &About, text: &[u8]) -> Result<(), String> {
            match (about.name, text) {
                $(($name, text) => {
                    self.$($field).+.read(about, text).map(|value| self.$($field).+ = value)
                })*
                (name, _) => Err(format!("{name} is declared elsewhere")),
            }
        }

        fn write(&self, about: &About) -> Option<Vec<u8>> {
            match about.name {
                $($name => self.$($field).+.write(about),)*
                _ => None,
            }
        }

        fn defaults(&self) -> Box<dyn Options> {
            Box::<Self>::default()
        }
    };
}
pub(crate) use declare;

/// The documentation in a declaration.
pub(crate) struct About {
    /// The name in a URL and, with `--`, of the flag.
    pub(crate) name: &'static str,
    /// The word that stands for the value: `SIZE`.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for help"))]
    pub(crate) value: &'static str,
    /// Which values are allowed.
    pub(crate) allowed: Allowed,
    /// What the option does; one line, without a full stop.
    pub(crate) help: &'static str,
    /// Describes the default if it cannot be written as a value.
    #[cfg_attr(not(feature = "daemon"), allow(dead_code, reason = "for help"))]
    pub(crate) unset: &'static str,
}

#[cfg(any(feature = "daemon", test))]
impl About {
    /// The default in words; empty if there is none.
    pub(crate) fn default_text(&self, options: &dyn Options) -> String {
        let value = options.defaults().write(self);
        value.map_or(self.unset.into(), |value| String::from_utf8_lossy(&value).into_owned())
    }
}

/// Which values an option takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Allowed {
    /// One of these words.
    Words(&'static [&'static str]),
    /// A size in bytes: minimum and maximum. It is written with k, m or g.
    Size(u32, u32),
    /// A count: minimum and maximum. It is written with k or m.
    Count(u32, u32),
    /// The values that the field's type reads, described in words.
    Described(&'static str),
}

/// The form in help and documents.
impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Allowed::Words(words) => f.write_str(&words.join(" or ")),
            Allowed::Size(min, max) => write!(f, "{} to {}", size_text(*min), size_text(*max)),
            Allowed::Count(min, max) => write!(f, "{min} to {max}"),
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

    fn words(&self) -> &'static [&'static str] {
        if let Allowed::Words(words) = self { words } else { &[] }
    }
}

/// The type of an option: how a value is read and written.
pub(crate) trait Value: Sized {
    /// Reads a value. `self` is the previous value.
    ///
    /// # Errors
    /// The text is invalid or out of range. The error says what is allowed.
    fn read(&self, about: &About, text: &[u8]) -> Result<Self, String>;

    /// Writes the value in the form that [`read`](Value::read) accepts. Returns `None` if there is
    /// no value, or if it belongs to another option.
    fn write(&self, about: &About) -> Option<Vec<u8>>;
}

/// A service without options.
impl Options for () {
    declare! {}
}

impl Value for u32 {
    fn read(&self, about: &About, text: &[u8]) -> Result<u32, String> {
        about.allowed.number(utf8(text)?)
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        match about.allowed {
            Allowed::Size(..) => Some(size_text(*self).into()),
            _ => Some(self.to_string().into()),
        }
    }
}

impl<V: Value + Default> Value for Option<V> {
    fn read(&self, about: &About, text: &[u8]) -> Result<Option<V>, String> {
        V::default().read(about, text).map(Some)
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        self.as_ref().and_then(|value| value.write(about))
    }
}

impl Value for u64 {
    fn read(&self, _: &About, text: &[u8]) -> Result<u64, String> {
        let text = utf8(text)?;
        text.parse().map_err(|_| format!("'{text}' must be a whole number below 2^64"))
    }

    fn write(&self, _: &About) -> Option<Vec<u8>> {
        Some(self.to_string().into())
    }
}

/// A type with few values, each written as a word.
pub(crate) trait Word: Copy + PartialEq + 'static {
    /// The values, in the order of the words in the declaration.
    const VALUES: &'static [Self];
}

impl Word for bool {
    const VALUES: &'static [bool] = &[true, false];
}

impl<W: Word> Value for W {
    fn read(&self, about: &About, text: &[u8]) -> Result<W, String> {
        let at = about.allowed.words().iter().position(|word| word.as_bytes() == text);
        let found = at.and_then(|at| W::VALUES.get(at).copied());
        found.ok_or_else(|| {
            format!("'{}' must be {} ({})", text.escape_ascii(), about.allowed, about.help)
        })
    }

    fn write(&self, about: &About) -> Option<Vec<u8>> {
        let at = W::VALUES.iter().position(|value| value == self)?;
        about.allowed.words().get(at).map(|&word| word.into())
    }
}

/// Returns a value as text.
pub(crate) fn utf8(value: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(value).map_err(|_| "the value must be UTF-8 text".to_owned())
}

/// Writes a size as [`units::parse_size`] reads it.
fn size_text(bytes: u32) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ => in_units(bytes.into(), &[(1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"), (1, "")]),
    }
}

/// Writes a time as [`units::parse_duration`] reads it.
pub(crate) fn time_text(time: Duration) -> String {
    let units = [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"), (1, "ns")];
    in_units(time.as_nanos(), &units)
}

/// Writes a number in the largest unit of which it is a multiple. The last unit is 1.
fn in_units(number: u128, units: &[(u128, &str)]) -> String {
    let fits = units.iter().find(|(unit, _)| number.is_multiple_of(*unit));
    let (unit, name) = fits.expect("every number is a multiple of 1");
    format!("{}{name}", number / unit)
}
