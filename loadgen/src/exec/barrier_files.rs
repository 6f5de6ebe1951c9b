//! Starts the shards of a run at the same time, by files in a directory that all of them share.
//!
//! Each shard creates a file when its connections are established. When all files exist, shard 0
//! writes the file `begin` with the time of the common start. Each shard that has read it removes
//! its own file, and whichever removes the last one also removes `begin`. So the directory is empty
//! afterwards. Files do not show how clocks differ, so the clocks must agree.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use super::barrier::Begin;
use crate::files;
use crate::plan::shard::Shard;

/// The file with the time of the begin.
const BEGIN: &str = "begin";
/// From the moment at which all are there to the common begin. Clients of a network file system
/// see new files late.
const NOTICE: Duration = Duration::from_secs(2);
/// Time between two looks at the directory.
const RETRY: Duration = Duration::from_millis(20);

/// A shard at the barrier.
pub struct FileBarrier {
    pub directory: PathBuf,
    pub deadline: Instant,
    pub timeout: Duration,
    pub shard: Shard,
    pub seed: u64,
}

impl FileBarrier {
    /// Waits for the others.
    ///
    /// # Errors
    /// They did not come in time, or the directory cannot be used.
    pub fn wait(&self) -> Result<Begin, String> {
        self.make(&self.file(self.shard.index))?;
        let begin = if self.shard.index == 0 { self.host() } else { self.join() };
        self.leave();
        begin
    }

    /// Removes the shard's file, and `begin` with the last one. Either may have been removed by
    /// somebody else.
    fn leave(&self) {
        let _ = fs::remove_file(self.file(self.shard.index));
        if self.missing().len() as u64 == self.shard.count {
            let _ = fs::remove_file(self.directory.join(BEGIN));
        }
    }

    /// Shards without a file.
    fn missing(&self) -> Vec<u64> {
        self.refresh();
        (0..self.shard.count).filter(|index| !self.file(*index).exists()).collect()
    }

    /// A client of NFS remembers which files are missing until it opens the directory again.
    fn refresh(&self) {
        let _ = fs::read_dir(&self.directory);
    }

    /// The file of a shard. Its name has everything in which the shards of a run are equal.
    fn file(&self, index: u64) -> PathBuf {
        let shard = Shard { index, ..self.shard };
        let name = format!("shard-{}-of-{}-seed-{}", shard.index, shard.count, self.seed);
        self.directory.join(name)
    }

    fn make(&self, path: &Path) -> Result<(), String> {
        self.refresh();
        let begin = self.directory.join(BEGIN);
        let made = match begin.exists() {
            true => Err((begin, io::ErrorKind::AlreadyExists.into())),
            false => fs::File::create_new(path).map_err(|error| (path.to_owned(), error)),
        };
        made.map(drop).map_err(|(path, error)| {
            let why = match error.kind() {
                io::ErrorKind::AlreadyExists => "it exists from another run: use an empty \
                                                 directory for each run"
                    .to_string(),
                _ => error.to_string(),
            };
            format!(
                "shard {}: cannot create the barrier file {}: {why}",
                self.shard,
                path.display()
            )
        })
    }

    /// Shard 0: waits for all others, and says when to begin.
    fn host(&self) -> Result<Begin, String> {
        while let missing @ [_, ..] = &self.missing()[..] {
            if Instant::now() >= self.deadline {
                return Err(super::barrier::who_is_missing(
                    self.shard.count,
                    &self.directory.display(),
                    self.timeout,
                    missing,
                ));
            }
            thread::sleep(RETRY);
        }
        let at = SystemTime::now() + NOTICE;
        let begin = self.directory.join(BEGIN);
        let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        files::replace(&begin, format!("{}\n", since.as_nanos()).as_bytes())
            .and_then(|mut file| file.flush())
            .map_err(|error| format!("cannot write {}: {error}", begin.display()))?;
        Ok(Begin { at, clock: None })
    }

    /// Another shard: waits until shard 0 says when to begin.
    fn join(&self) -> Result<Begin, String> {
        let begin = self.directory.join(BEGIN);
        loop {
            self.refresh();
            // A file that is being written has no end of its line.
            let text = fs::read_to_string(&begin).unwrap_or_default();
            if let Some(line) = text.strip_suffix('\n') {
                let nanos = line.parse().ok().map(Duration::from_nanos);
                let at = nanos.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since));
                let at = at.ok_or_else(|| format!("no time in {}: '{line}'", begin.display()))?;
                return Ok(Begin { at, clock: None });
            }
            if Instant::now() >= self.deadline {
                return Err(format!(
                    "shard {}: the barrier at {} did not open within {:?} (--barrier-timeout)",
                    self.shard,
                    self.directory.display(),
                    self.timeout
                ));
            }
            thread::sleep(RETRY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory of one test, removed at its end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Directory {
            let name = format!("loadgen-barrier-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).expect("a new directory");
            Directory(path)
        }

        fn files(&self) -> usize {
            fs::read_dir(&self.0).expect("it is there").count()
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn barrier(directory: &Directory, index: u64, count: u64, seconds: u64) -> FileBarrier {
        let timeout = Duration::from_secs(seconds);
        FileBarrier {
            directory: directory.0.clone(),
            deadline: Instant::now() + timeout,
            timeout,
            shard: Shard { index, count },
            seed: 1,
        }
    }

    fn spawn(
        directory: &Directory,
        index: u64,
        count: u64,
        seconds: u64,
    ) -> thread::JoinHandle<Result<Begin, String>> {
        let barrier = barrier(directory, index, count, seconds);
        thread::spawn(move || barrier.wait())
    }

    #[test]
    fn all_read_the_same_time_and_the_directory_can_be_used_again() {
        let directory = Directory::new("all");
        for order in [[0, 1, 2], [2, 1, 0]] {
            let shards: Vec<_> = order
                .into_iter()
                .map(|index| {
                    thread::sleep(2 * RETRY);
                    spawn(&directory, index, 3, 60)
                })
                .collect();
            let begins: Vec<_> = shards.into_iter().map(|shard| shard.join().unwrap()).collect();
            let first = begins[0].as_ref().expect("all come");
            assert!(begins.iter().all(|begin| begin.as_ref() == Ok(first)), "{begins:?}");
            assert!(first.clock.is_none(), "clocks are not compared");
            assert_eq!(directory.files(), 0);
        }
    }

    /// However late that is: shard 0 does not wait for it.
    #[test]
    fn the_last_to_leave_removes_the_begin() {
        let directory = Directory::new("last");
        let last = barrier(&directory, 2, 3, 60);
        last.make(&last.file(2)).expect("a new file");
        for shard in [0, 1].map(|index| spawn(&directory, index, 3, 60)) {
            shard.join().unwrap().expect("all have come");
        }
        assert!(directory.0.join(BEGIN).exists() && last.join().is_ok(), "one has not read it");
        last.leave();
        assert_eq!(directory.files(), 0);
    }

    #[test]
    fn who_does_not_come_is_named_and_nobody_waits_for_ever() {
        let directory = Directory::new("missing");
        let second = spawn(&directory, 1, 4, 10);
        while directory.files() == 0 {
            thread::sleep(RETRY);
        }
        let first = spawn(&directory, 0, 4, 1);
        let error = first.join().unwrap().expect_err("two are missing");
        assert!(error.contains("of 4 shards these did not arrive"), "{error}");
        assert!(error.contains("within 1s: 2, 3 (--barrier-timeout)"), "{error}");
        let error = second.join().unwrap().expect_err("it did not open");
        assert!(error.starts_with("shard 1/4: the barrier at "), "{error}");
        assert_eq!(directory.files(), 0);
    }

    #[test]
    fn files_of_another_run_are_not_taken_for_this_one() {
        let directory = Directory::new("stale");
        for name in ["begin", "shard-1-of-2-seed-1"] {
            fs::write(directory.0.join(name), "1\n").expect("a file");
            let error = spawn(&directory, 1, 2, 1).join().unwrap().expect_err("it is there");
            assert!(error.contains(name) && error.contains("use an empty directory"), "{error}");
            assert!(directory.0.join(name).exists(), "it is not ours to remove");
            fs::remove_file(directory.0.join(name)).expect("it is there");
        }
        let gone = Directory::new("gone");
        fs::remove_dir(&gone.0).expect("it is empty");
        let error = spawn(&gone, 0, 2, 1).join().unwrap().expect_err("no directory");
        assert!(error.contains("No such file"), "{error}");
    }
}
