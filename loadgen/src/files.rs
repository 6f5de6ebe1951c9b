//! Files for results. A file is replaced only by a whole new one, which is written beside it and
//! renamed, so a program that fails or is killed leaves the earlier result. A device or a pipe is
//! written to and never replaced, and a link stays a link to the new file. What is written to a name
//! that ends in `.gz` is compressed, and what is read is unpacked by its first bytes.

use std::borrow::Cow;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::MultiGzDecoder;
use flate2::write::GzEncoder;

/// With what the bytes of gzip begin.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// The name without the ending of gzip, if it has that.
pub fn without_gz(path: &Path) -> Option<PathBuf> {
    let is_gz = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gz"));
    is_gz.then(|| path.with_extension(""))
}

/// The bytes as they are written to this path. What is written in parts unpacks to the parts, one
/// after the other.
pub fn packed<'a>(path: &Path, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    if without_gz(path).is_none() {
        return Cow::Borrowed(bytes);
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    let packed = packer.write_all(bytes).and_then(|()| packer.finish());
    Cow::Owned(packed.expect("a vector takes all bytes"))
}

/// Reads a text, which is unpacked if it is packed, whatever its name is.
///
/// # Errors
/// It cannot be read, or it is damaged or no text.
pub fn read_text(path: &Path) -> io::Result<String> {
    let bytes = fs::read(path)?;
    match bytes.starts_with(&GZIP) {
        true => io::read_to_string(MultiGzDecoder::new(bytes.as_slice())),
        false => io::read_to_string(bytes.as_slice()),
    }
}

/// Checks that a file can be written later. The file is neither changed nor left behind.
///
/// # Errors
/// It cannot be written.
pub fn check_writable(path: &Path) -> io::Result<()> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => OpenOptions::new().write(true).open(path).map(drop),
        Ok(found) if found.is_dir() => Err(ErrorKind::IsADirectory.into()),
        // Opening a pipe would wait for its reader, and the reader would see an end.
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let probe = temporary(&target_of(path)?);
            File::create(&probe)?;
            fs::remove_file(&probe)
        }
        Err(error) => Err(error),
    }
}

/// Replaces a file by a new one that begins with these bytes, and returns it, so that more can be
/// appended. What is no regular file is opened and written to.
///
/// # Errors
/// The file cannot be written. An earlier file is unchanged.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let found = fs::metadata(path);
    if found.as_ref().is_ok_and(|found| !found.is_file()) {
        return write(OpenOptions::new().write(true).open(path)?, bytes);
    }
    let target = target_of(path)?;
    let temporary = temporary(&target);
    let new = match File::create(&temporary) {
        // Its directory allows no new file, so the file itself is overwritten.
        Err(error) if error.kind() == ErrorKind::PermissionDenied && found.is_ok() => {
            return write(File::create(path)?, bytes);
        }
        created => created?,
    };
    let written = write(new, bytes).and_then(|file| {
        if let Ok(found) = &found {
            file.set_permissions(found.permissions())?;
        }
        fs::rename(&temporary, &target).map(|()| file)
    });
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Whether two paths lead to one file, by whatever names. Devices are no files: what is written to
/// them does not destroy anything.
pub fn are_one(first: &Path, second: &Path) -> bool {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    match (fs::metadata(first), fs::metadata(second)) {
        (Ok(one), Ok(other)) => {
            !one.file_type().is_char_device()
                && (one.dev(), one.ino()) == (other.dev(), other.ino())
        }
        (Err(_), Err(_)) => match (target_of(first), target_of(second)) {
            (Ok(one), Ok(other)) => one == other,
            _ => first == second,
        },
        _ => false,
    }
}

fn write(mut file: File, bytes: &[u8]) -> io::Result<File> {
    file.write_all(bytes).map(|()| file)
}

/// The path without links: of the file, or if there is none yet, of the place where it will be.
fn target_of(path: &Path) -> io::Result<PathBuf> {
    /// As many links in a row as Linux follows.
    const LINKS_MAX: usize = 40;
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        let directory = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
        let whole = fs::canonicalize(directory)?.join(name);
        match fs::read_link(&whole) {
            Ok(link) => path = whole.with_file_name("").join(link),
            Err(_) => return Ok(whole),
        }
    }
    Err(ErrorKind::InvalidInput.into())
}

/// A name in the same directory, so that it can be renamed to `target`.
fn temporary(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    name.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    /// An empty directory. Dropping it removes it.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let path = std::env::temp_dir().join(format!("files-{}-{name}", std::process::id()));
            fs::create_dir(&path).expect("a new directory");
            Directory(path)
        }

        fn names(&self) -> Vec<String> {
            let entries = fs::read_dir(&self.0).expect("a directory");
            let name = |entry: io::Result<fs::DirEntry>| entry.expect("an entry").file_name();
            let mut names: Vec<_> =
                entries.map(|entry| name(entry).into_string().expect("text")).collect();
            names.sort();
            names
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("the directory is there");
        }
    }

    fn read(path: &Path) -> String {
        fs::read_to_string(path).expect("a file")
    }

    #[test]
    fn a_name_that_ends_in_gz_is_packed_and_every_name_is_unpacked() {
        let directory = Directory::new("packed");
        for (name, is_packed) in
            [("a.json.gz", true), ("A.GZ", true), ("a.json", false), ("gz", false)]
        {
            let path = directory.0.join(name);
            let parts = ["one\n".repeat(1_000), "two\n".to_string()];
            let mut file = replace(&path, &packed(&path, parts[0].as_bytes())).expect("written");
            file.write_all(&packed(&path, parts[1].as_bytes())).expect("written");
            let bytes = fs::read(&path).expect("a file");
            assert_eq!(bytes.starts_with(&GZIP), is_packed, "{name}");
            assert_eq!(bytes.len() < 500, is_packed, "{name}: {} bytes", bytes.len());
            let renamed = directory.0.join("renamed");
            fs::rename(&path, &renamed).expect("renamed");
            assert_eq!(read_text(&renamed).expect("whole"), parts.concat(), "{name}");
            fs::write(&renamed, &bytes[..bytes.len() - 1]).expect("written");
            assert_eq!(read_text(&renamed).is_err(), is_packed, "a part of {name}");
        }
        assert_eq!(without_gz(Path::new("d/a.json.gz")), Some("d/a.json".into()));
        assert_eq!(without_gz(Path::new("d.gz/a.json")), None);
        fs::write(directory.0.join("a"), [0xff, 0xfe]).expect("written");
        assert!(read_text(&directory.0.join("a")).is_err(), "no text");
    }

    #[test]
    fn a_file_is_replaced_whole_and_keeps_its_mode() {
        let directory = Directory::new("whole");
        let path = directory.0.join("a");
        fs::write(&path, "old").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
        let earlier = File::open(&path).expect("open");
        check_writable(&path).expect("a file");
        assert_eq!(read(&path), "old");
        let mut new = replace(&path, b"new").expect("written");
        assert_eq!(read(&path), "new");
        assert_eq!(io::read_to_string(earlier).expect("text"), "old", "another file");
        new.write_all(b" rows").expect("written");
        assert_eq!(read(&path), "new rows");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o640);
        assert_eq!(directory.names(), ["a"]);
    }

    #[test]
    fn what_cannot_be_written_is_known_before_and_nothing_is_left() {
        let directory = Directory::new("before");
        let path = directory.0.join("a");
        check_writable(&path).expect("a directory to write to");
        assert!(directory.names().is_empty());
        assert!(check_writable(&directory.0.join("none/a")).is_err());
        assert!(check_writable(&directory.0).is_err(), "a directory");
        assert!(check_writable(Path::new("")).is_err());
        assert!(replace(&directory.0.join("none/a"), b"new").is_err());
    }

    #[test]
    fn a_link_stays_one_and_its_target_is_replaced() {
        let directory = Directory::new("link");
        let (target, link) = (directory.0.join("target"), directory.0.join("link"));
        symlink("target", &link).expect("a link");
        for text in ["first", "second"] {
            check_writable(&link).expect("through the link");
            replace(&link, text.as_bytes()).expect("written");
            assert_eq!(read(&target), text);
            assert!(fs::symlink_metadata(&link).expect("it is there").is_symlink());
        }
        assert_eq!(directory.names(), ["link", "target"]);
        symlink("b", directory.0.join("a")).expect("a link");
        symlink("a", directory.0.join("b")).expect("a link");
        assert!(replace(&directory.0.join("a"), b"new").is_err(), "a ring of links");
    }

    #[test]
    fn a_device_is_written_to() {
        check_writable(Path::new("/dev/null")).expect("a device");
        replace(Path::new("/dev/null"), b"new").expect("written");
        let full = replace(Path::new("/dev/full"), b"new").expect_err("no space");
        assert_eq!(full.kind(), ErrorKind::StorageFull);
    }

    #[test]
    fn one_file_is_recognized_under_each_of_its_names() {
        let directory = Directory::new("names");
        let path = |name: &str| directory.0.join(name);
        let one = |first: &str, second: &str| are_one(&path(first), &path(second));
        symlink("a", path("b")).expect("a link");
        for _ in 0..2 {
            assert!(one("a", "a") && one("a", "./a") && one("b", "a"));
            assert!(!one("a", "c"));
            fs::write(path("a"), "").expect("written");
        }
        fs::hard_link(path("a"), path("d")).expect("a name more");
        assert!(one("a", "d"));
        assert!(!are_one(Path::new("/dev/null"), Path::new("/dev/null")), "nothing is destroyed");
    }
}
