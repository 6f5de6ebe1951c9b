//! The address of a Unix socket: the path of a file, or an abstract name.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt;
use std::mem::{offset_of, size_of};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};

use super::url::decode;

/// The bytes that are percent-encoded in a written address: those that end it or that a terminal
/// does not show. All bytes beyond ASCII are encoded too.
const ENCODED: &AsciiSet = &CONTROLS.add(b' ').add(b'%').add(b'?').add(b'#');

/// The longest path or name in bytes. One of the bytes of `sun_path` ends a path or begins an
/// abstract name. 107 on Linux.
pub const LENGTH_MAX: usize =
    size_of::<libc::sockaddr_un>() - offset_of!(libc::sockaddr_un, sun_path) - 1;

/// The path of a socket file, or an abstract name, which has no file (Linux; unix(7)).
///
/// As a text, an abstract name begins with `@`. A file whose path begins with `@` is written with a
/// directory: `./@name`. In a text, bytes may be percent-encoded (`%3f` for a question mark).
/// The memory of an address, at most 108 bytes, is kept until the process ends.
///
/// ```
/// use echopool::endpoint::UnixAddress;
///
/// let address: UnixAddress = "/run/echo.sock".parse().unwrap();
/// assert_eq!(address.path(), Some("/run/echo.sock".as_ref()));
/// let address: UnixAddress = "@echo".parse().unwrap();
/// assert_eq!(address.abstract_name(), Some(&b"echo"[..]));
/// assert_eq!(address.to_string(), "@echo");
/// assert!("/x".repeat(60).parse::<UnixAddress>().is_err(), "too long for a Unix socket");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct UnixAddress {
    /// As in `sun_path`: a path, or a zero and a name. One copy of each address is kept for as long
    /// as the process runs, so that addresses are small and dropping one costs nothing: an address
    /// is a part of an operation, of which each echo has two.
    sun_path: &'static [u8],
}

/// The one copy of these bytes.
fn interned(bytes: Vec<u8>) -> &'static [u8] {
    static ALL: Mutex<BTreeSet<&'static [u8]>> = Mutex::new(BTreeSet::new());
    // Nothing panics while the set is locked.
    let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = all.get(&bytes[..]) {
        return known;
    }
    let kept: &'static [u8] = bytes.leak();
    all.insert(kept);
    kept
}

impl UnixAddress {
    /// The socket file at this path.
    ///
    /// # Errors
    /// The path is empty, longer than 107 bytes (on Linux), or contains a zero.
    pub fn from_path(path: impl AsRef<Path>) -> Result<UnixAddress, String> {
        let path = path.as_ref().as_os_str().as_bytes();
        if path.contains(&0) {
            return Err("the path of a Unix socket cannot contain a zero byte".to_owned());
        }
        check_length(path, "path")?;
        Ok(UnixAddress { sun_path: interned(path.to_vec()) })
    }

    /// The abstract socket of this name.
    ///
    /// # Errors
    /// The name is empty or longer than 107 bytes (on Linux), or the system has no abstract names.
    pub fn from_abstract_name(name: &[u8]) -> Result<UnixAddress, String> {
        if !cfg!(target_os = "linux") {
            return Err("only Linux has abstract names: write a path".to_owned());
        }
        check_length(name, "name")?;
        Ok(UnixAddress { sun_path: interned([&[0], name].concat()) })
    }

    /// The bytes of `sun_path`: a path, or a zero and a name.
    pub(crate) fn sun_path(&self) -> &Path {
        Path::new(OsStr::from_bytes(self.sun_path))
    }

    /// The path, unless the address is an abstract name.
    pub fn path(&self) -> Option<&Path> {
        let is_path = self.sun_path[0] != 0;
        is_path.then(|| self.sun_path())
    }

    /// The abstract name, unless the address is a path.
    pub fn abstract_name(&self) -> Option<&[u8]> {
        self.sun_path.strip_prefix(&[0])
    }
}

fn check_length(bytes: &[u8], what: &str) -> Result<(), String> {
    match bytes.len() {
        0 => Err(format!(
            "the {what} of the Unix socket is missing: write unix:///run/echo.sock or unix://@name"
        )),
        1..=LENGTH_MAX => Ok(()),
        length => Err(format!(
            "the {what} '{}' has {length} bytes, and that of a Unix socket has at most {LENGTH_MAX}",
            bytes.escape_ascii()
        )),
    }
}

impl FromStr for UnixAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<UnixAddress, String> {
        match text.strip_prefix('@') {
            Some(name) => UnixAddress::from_abstract_name(&decode(name)?),
            None => UnixAddress::from_path(OsStr::from_bytes(&decode(text)?)),
        }
    }
}

impl fmt::Debug for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UnixAddress({self})")
    }
}

/// Writes the form that is read.
impl fmt::Display for UnixAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.abstract_name() {
            Some(name) => write!(f, "@{}", percent_encode(name, ENCODED)),
            None if self.sun_path[0] == b'@' => {
                write!(f, "./{}", percent_encode(self.sun_path, ENCODED))
            }
            None => percent_encode(self.sun_path, ENCODED).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in
            ["/run/e.sock", "e.sock", "./e.sock", "@name", "@a/b", "/a%20b%3Fc%25%FF", "@%00"]
        {
            let address: UnixAddress = text.parse().unwrap();
            assert_eq!(address.to_string(), text);
        }
        let at = UnixAddress::from_path("@file").unwrap();
        assert_eq!((at.path(), at.abstract_name()), (Some("@file".as_ref()), None));
        assert_eq!(at.to_string(), "./@file");
    }

    #[test]
    fn the_longest_address_is_one_byte_shorter_than_the_field() {
        const { assert!(LENGTH_MAX == 107 || !cfg!(target_os = "linux")) };
        for prefix in ["/", "@"] {
            let of = |length| format!("{prefix}{}", "x".repeat(length));
            let given = usize::from(prefix == "/");
            assert!(of(LENGTH_MAX - given).parse::<UnixAddress>().is_ok());
            let error = of(LENGTH_MAX - given + 1).parse::<UnixAddress>().unwrap_err();
            assert!(error.contains("has 108 bytes") && error.contains("at most 107"), "{error}");
        }
        for (text, part) in [("", "missing"), ("@", "missing"), ("/a%00", "zero"), ("/%x", "%25")] {
            let error = text.parse::<UnixAddress>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
