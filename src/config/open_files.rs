//! How many connections the limit of open files allows.
//!
//! A connection is one open file. The other open files of the process are counted, not guessed,
//! because the library may run inside a program with files of its own.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{CONNECTIONS_DERIVED_MAX, CONNECTIONS_MAX};
use crate::error::StartError;

/// Open files of a worker besides sockets: epoll, timerfd, waker, and one more for an engine that
/// needs it.
const PER_WORKER: u64 = 4;

/// Open files kept free for temporary use: the signal pipe, a file of /proc being read, a name
/// being looked up, a terminal.
const RESERVE: u64 = 32;

/// Open files that are not connections: those open now, and those that a server adds.
pub(crate) fn fixed(workers: usize, endpoints: usize) -> u64 {
    open_now() + workers as u64 * (PER_WORKER + endpoints as u64) + RESERVE
}

/// Open files of the process. If the system does not tell, the three standard ones.
fn open_now() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(3, |files| files.count() as u64)
}

/// The hard limit of open files; the largest number if there is none.
pub(crate) fn hard_limit() -> u64 {
    getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
}

/// The number of connections, given the requested number, the other files needed, and the limit.
pub(super) fn connections(
    asked: Option<u32>,
    fixed: u64,
    hard_limit: u64,
) -> Result<u32, StartError> {
    let possible = hard_limit.saturating_sub(fixed).min(CONNECTIONS_MAX.into());
    // If no number was requested, there must be room for at least one connection.
    let connections = u64::from(asked.unwrap_or(1));
    if connections > possible {
        let needed = connections + fixed;
        return Err(StartError::OpenFiles { connections, needed, hard_limit, possible });
    }
    let possible = u32::try_from(possible).expect("at most CONNECTIONS_MAX");
    Ok(asked.unwrap_or(possible.min(CONNECTIONS_DERIVED_MAX)))
}

/// Raises the soft limit to `needed` if it is lower.
pub(crate) fn raise_soft_limit(needed: u64) -> Result<(), StartError> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|soft| soft >= needed) {
        return Ok(());
    }
    let raised = Rlimit { current: Some(needed), maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised)
        .map_err(|error| StartError::Resource { what: "room for open files", error: error.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unset_is_what_the_limit_has_room_for_up_to_a_cap() {
        assert_eq!(connections(None, 100, 20_000).unwrap(), 19_900);
        assert_eq!(connections(None, 100, 1 << 20).unwrap(), CONNECTIONS_DERIVED_MAX);
        assert_eq!(connections(None, 100, u64::MAX).unwrap(), CONNECTIONS_DERIVED_MAX);
    }

    #[test]
    fn asked_for_is_taken_up_to_the_last_file() {
        assert_eq!(connections(Some(900), 100, 1000).unwrap(), 900);
        assert_eq!(connections(Some(1_000_000), 100, u64::MAX).unwrap(), 1_000_000);
        match connections(Some(901), 100, 1000) {
            Err(StartError::OpenFiles {
                connections: 901,
                needed: 1001,
                hard_limit: 1000,
                possible: 900,
            }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_room_for_a_single_connection_is_an_error() {
        assert!(matches!(
            connections(None, 100, 100),
            Err(StartError::OpenFiles { connections: 1, needed: 101, possible: 0, .. })
        ));
    }

    #[test]
    fn open_files_are_counted() {
        // Other tests may close more files meanwhile than this opens, but not in each try.
        let is_counted = (0..20).any(|_| {
            let before = open_now();
            let files: Vec<_> =
                (0..500).map(|_| std::fs::File::open("/dev/null").expect("a file")).collect();
            let now = open_now();
            drop(files);
            now >= before + 250
        });
        assert!(is_counted || !cfg!(target_os = "linux"));
    }

    #[test]
    fn the_soft_limit_is_raised_and_never_lowered() {
        let soft = || getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let before = soft();
        raise_soft_limit(1).unwrap();
        // Servers in other tests may raise it meanwhile.
        assert!(soft() >= before);
        if before < u64::MAX {
            assert!(raise_soft_limit(u64::MAX - 1).is_err(), "above the hard limit");
        }
    }
}
