//! Listens on Unix sockets.
//!
//! All workers accept from one socket, because SO_REUSEPORT does not exist for Unix sockets. Each
//! connection wakes every worker, and the first to accept gets it, so an idle worker gets more of
//! them than a busy one.
//!
//! The file of a server that was killed stays and refuses connections. It is replaced, while that
//! of a running server is not. Between the look at the file and `listen`, no other start may look:
//! it would take the new file for a stale one. So a start holds a lock (flock) on the directory
//! meanwhile. Another program that is between its own `bind` and `listen` at this moment and does
//! not take the lock can lose its file.
//!
//! At the end the file is removed before the socket is closed. Until then a start finds the socket
//! live and leaves the file alone, and its inode is in use, so that another file with the same inode
//! number cannot exist.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags};
use socket2::{Domain, SockAddr, Socket, Type};

use super::{Bound, Failure, failed, listen};
use crate::base::endpoint::{Endpoint, Transport, UnixAddress};
use crate::error::{Errno, StartError};
use crate::net::transport::{Owner, UnixOptions};

/// A start holds the lock of a directory for less than a millisecond. It waits this long for
/// another, and then fails.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// A socket file of this server. Dropping it removes the file, if it is still this server's and no
/// other process of the server has it.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
    /// Whether another process of the server removes the file.
    is_of_another: AtomicBool,
}

impl SocketFile {
    /// The file that `bind` has just created.
    fn created(path: &Path) -> Result<SocketFile, Failure> {
        let made = fs::symlink_metadata(path).map_err(|error| ("lstat", error))?;
        // The program may change its directory.
        let path = std::path::absolute(path).map_err(|error| ("getcwd", error))?;
        let (device, inode) = (made.dev(), made.ino());
        Ok(SocketFile { path, device, inode, is_of_another: AtomicBool::new(false) })
    }

    /// The file of a socket that another process of the server hands over. It is the other's until
    /// [`set_own`](SocketFile::set_own).
    #[cfg(feature = "daemon")]
    pub(crate) fn of_another(path: PathBuf, device: u64, inode: u64) -> SocketFile {
        SocketFile { path, device, inode, is_of_another: AtomicBool::new(true) }
    }

    /// Sets whether this process removes the file, or another one.
    #[cfg(feature = "daemon")]
    pub(crate) fn set_own(&self, is_own: bool) {
        self.is_of_another.store(!is_own, Ordering::Release);
    }

    /// Changes the owner of the file, its group, or both.
    ///
    /// # Errors
    /// The system refuses, or there is another file now.
    #[cfg(feature = "daemon")]
    pub(crate) fn give_to(&self, user: Option<u32>, group: Option<u32>) -> io::Result<()> {
        match self.is_there()? {
            true => lchown(&self.path, user, group),
            false => Err(io::Error::other("the socket file was replaced")),
        }
    }

    /// Whether the file at its path is still this one.
    fn is_there(&self) -> io::Result<bool> {
        let file = fs::symlink_metadata(&self.path)?;
        Ok((file.dev(), file.ino()) == (self.device, self.inode))
    }

    /// The absolute path of the file, its device, and its inode number.
    #[cfg(feature = "daemon")]
    pub(crate) fn identity(&self) -> (&Path, u64, u64) {
        (&self.path, self.device, self.inode)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_of_another.load(Ordering::Acquire) {
            return;
        }
        let path = self.path.display();
        let removed = match self.is_there() {
            Ok(false) => return log::warn!("the socket file {path} was replaced: not removed"),
            Ok(true) => fs::remove_file(&self.path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            let remedy = match error.kind() {
                io::ErrorKind::PermissionDenied => {
                    "; the next start replaces it, and removes it at its end if its user may write the \
                     directory"
                }
                _ => "",
            };
            log::warn!("cannot remove the socket file {path}: {error}{remedy}");
        }
    }
}

/// Creates the listening socket of an address, once for each worker.
pub(super) fn bind(
    address: &UnixAddress,
    options: &UnixOptions,
    workers: usize,
    backlog: u32,
) -> Result<Bound, StartError> {
    let endpoint = Endpoint::Unix(*address);
    let bound = match address.path() {
        Some(path) => bind_file(path, address, options, backlog, &endpoint)?,
        None => {
            let bound = listening(address, backlog, |_| Ok(()));
            (bound.map_err(|failure| failed(endpoint, failure))?, None)
        }
    };
    let (socket, file) = bound;
    let mut sockets = vec![socket];
    let file = file.map(Arc::new);
    while sockets.len() < workers {
        let copy = sockets[0].try_clone().map_err(|error| ("dup", error));
        sockets.push(copy.map_err(|failure| failed(endpoint, failure))?);
    }
    Ok(Bound { file, sockets, ..Bound::new(endpoint, Transport::Unix) })
}

fn bind_file(
    path: &Path,
    address: &UnixAddress,
    options: &UnixOptions,
    backlog: u32,
    endpoint: &Endpoint,
) -> Result<(Socket, Option<SocketFile>), StartError> {
    let fail = |failure| failed(*endpoint, failure);
    let owner = options.owner.as_ref().map(ids).transpose().map_err(fail)?;
    // Locked until an error has removed the file.
    let _lock = lock_directory(path).map_err(fail)?;
    remove_stale(path, address, endpoint)?;
    let mut made = None;
    let socket = listening(address, backlog, |path| {
        made = Some(SocketFile::created(path)?);
        if let Some(mode) = options.mode {
            let mode = Permissions::from_mode(mode.bits());
            fs::set_permissions(path, mode).map_err(|error| ("chmod", error))?;
        }
        match owner {
            Some((user, group)) => lchown(path, user, group).map_err(|error| ("chown", error)),
            None => Ok(()),
        }
    });
    Ok((socket.map_err(fail)?, made))
}

/// Binds a socket, calls `prepare` with the path of its file, and listens. Nobody can connect
/// before that.
fn listening(
    address: &UnixAddress,
    backlog: u32,
    prepare: impl FnOnce(&Path) -> Result<(), Failure>,
) -> Result<Socket, Failure> {
    let socket = socket().map_err(|error| ("socket", error))?;
    let bound = name(address).and_then(|name| socket.bind(&name));
    bound.map_err(|error| ("bind", error))?;
    address.path().map_or(Ok(()), prepare)?;
    listen(&socket, backlog)?;
    Ok(socket)
}

fn socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)
}

/// The address as the system calls take it.
pub(crate) fn name(address: &UnixAddress) -> io::Result<SockAddr> {
    SockAddr::unix(address.sun_path())
}

/// Locks the directory of a path until the file is dropped.
fn lock_directory(path: &Path) -> Result<OwnedFd, Failure> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(directory.unwrap_or(Path::new(".")), flags, Mode::empty())
        .map_err(|error| ("open", error.into()))?;
    let begin = Instant::now();
    loop {
        match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(directory),
            Err(rustix::io::Errno::WOULDBLOCK) if begin.elapsed() < LOCK_WAIT => {
                sleep(Duration::from_millis(5));
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(("flock", error.into())),
        }
    }
}

/// Removes the socket file that an earlier server has left. The directory is locked.
///
/// # Errors
/// There is another kind of file, or a program listens on the socket.
fn remove_stale(path: &Path, address: &UnixAddress, endpoint: &Endpoint) -> Result<(), StartError> {
    let fail = |call| move |error| failed(*endpoint, (call, error));
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fail("lstat")(error)),
        Ok(file) if !file.file_type().is_socket() => {
            return Err(StartError::NotASocket(*endpoint));
        }
        Ok(_) => {}
    }
    let connected = socket().and_then(|socket| socket.connect(&name(address)?));
    match connected.map_err(|error| (Errno::from_io_error(&error), error)) {
        Err((Some(Errno::CONNREFUSED), _)) => {
            log::info!("{endpoint}: replacing the socket file of an earlier server");
            match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(fail("unlink")(error)),
                _ => Ok(()),
            }
        }
        Err((_, error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // A full backlog, or a socket of datagrams: in use as well.
        Ok(()) | Err((Some(Errno::AGAIN | Errno::PROTOTYPE), _)) => {
            Err(StartError::AddressInUse(*endpoint))
        }
        Err((_, error)) => Err(fail("connect")(error)),
    }
}

/// Looks up the user and the group. A number needs no look-up.
fn ids(owner: &Owner) -> Result<(Option<u32>, Option<u32>), Failure> {
    use nix::unistd::{Group, User};
    let found = |what: &str, name: &str, id: nix::Result<Option<u32>>| match id {
        Ok(Some(id)) => Ok(id),
        Ok(None) => Err(io::Error::other(format!("there is no {what} '{name}'"))),
        Err(error) => Err(error.into()),
    };
    let user = |name: &str| {
        let id = || User::from_name(name).map(|user| user.map(|user| user.uid.as_raw()));
        name.parse().or_else(|_| found("user", name, id()))
    };
    let group = |name: &str| {
        let id = || Group::from_name(name).map(|group| group.map(|group| group.gid.as_raw()));
        name.parse().or_else(|_| found("group", name, id()))
    };
    let user = owner.user().map(user).transpose().map_err(|error| ("getpwnam", error))?;
    let group = owner.group().map(group).transpose().map_err(|error| ("getgrnam", error))?;
    Ok((user, group))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::sync::Barrier;
    use std::sync::atomic::AtomicU32;
    use std::thread;

    use super::*;
    use crate::net::bind::{bind_all, check};
    use crate::net::transport::TransportOptions;

    /// A directory that is removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new() -> Directory {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let name = format!("echopool-unix-{}-{number}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Directory(path)
        }

        fn file(&self) -> PathBuf {
            self.0.join("e.sock")
        }

        fn address(&self) -> UnixAddress {
            UnixAddress::from_path(self.file()).unwrap()
        }

        fn bind(&self) -> Result<Bound, StartError> {
            bind(&self.address(), &UnixOptions::default(), 2, 16)
        }

        fn bind_with(&self, options: &str) -> Result<Bound, StartError> {
            let text = format!("unix://{}?{options}", self.address());
            let all = crate::config::ToEndpoints::to_endpoints(&text).unwrap();
            bind_all(&all, 2, 16, false).map(|mut all| all.remove(0))
        }

        /// Leaves the file that a killed server leaves.
        fn leave_stale(&self) {
            drop(UnixListener::bind(self.file()).unwrap());
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).unwrap();
        }
    }

    fn is_in_use(bound: Result<Bound, StartError>) -> bool {
        match bound {
            Err(StartError::AddressInUse(Endpoint::Unix(_))) => true,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_stale_file_is_replaced_and_a_live_one_is_not() {
        let directory = Directory::new();
        directory.leave_stale();
        assert!(UnixStream::connect(directory.file()).is_err());
        let first = directory.bind().unwrap();
        let inode = fs::metadata(directory.file()).unwrap().ino();
        assert!(is_in_use(directory.bind()));
        assert!(is_in_use(directory.bind_with("mode=0600")));
        assert_eq!(fs::metadata(directory.file()).unwrap().ino(), inode, "left alone");
        drop(UnixStream::connect(directory.file()).unwrap());
        drop(first);
        directory.bind().unwrap();
    }

    #[test]
    fn a_full_backlog_and_datagrams_are_live_too() {
        let directory = Directory::new();
        let _full = bind(&directory.address(), &UnixOptions::default(), 1, 0).unwrap();
        let mut clients = Vec::new();
        loop {
            let client = socket().unwrap();
            match client.connect(&name(&directory.address()).unwrap()) {
                Ok(()) => clients.push(client),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(is_in_use(directory.bind()));
        let other = Directory::new();
        let _datagrams = UnixDatagram::bind(other.file()).unwrap();
        assert!(is_in_use(other.bind()));
    }

    #[test]
    fn of_many_starts_at_once_one_has_the_socket() {
        const STARTS: usize = 8;
        for round in 0..50 {
            let directory = Directory::new();
            if round % 2 == 0 {
                directory.leave_stale();
            }
            let (begin, end) = (Barrier::new(STARTS), Barrier::new(STARTS));
            let started: Vec<bool> = thread::scope(|scope| {
                let start = || {
                    begin.wait();
                    let bound = directory.bind();
                    // The socket of the one that has started stays until all have tried.
                    end.wait();
                    bound.map(drop).map_err(|error| is_in_use(Err(error))).is_ok()
                };
                let threads: Vec<_> = (0..STARTS).map(|_| scope.spawn(start)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert_eq!(started.iter().filter(|started| **started).count(), 1, "round {round}");
            assert!(!directory.file().exists(), "removed by its owner");
        }
    }

    #[test]
    fn the_file_goes_with_the_last_listener_unless_it_is_anothers() {
        let directory = Directory::new();
        let mut all: Vec<_> = directory.bind().unwrap().into_listening().collect();
        all.pop();
        assert!(directory.file().exists(), "a worker listens");
        all.pop();
        assert!(!directory.file().exists());
        let ours = directory.bind().unwrap();
        fs::remove_file(directory.file()).unwrap();
        let theirs = UnixListener::bind(directory.file()).unwrap();
        drop(ours);
        UnixStream::connect(directory.file()).unwrap();
        drop(theirs);
        let ours = directory.bind().unwrap();
        fs::remove_file(directory.file()).unwrap();
        drop(ours);
    }

    #[test]
    fn another_kind_of_file_is_left_alone() {
        let directory = Directory::new();
        fs::write(directory.file(), "precious").unwrap();
        let refused = directory.bind().unwrap_err();
        assert!(matches!(refused, StartError::NotASocket(_)), "{refused:?}");
        assert_eq!(fs::read(directory.file()).unwrap(), b"precious");
        fs::remove_file(directory.file()).unwrap();
        std::os::unix::fs::symlink("elsewhere", directory.file()).unwrap();
        assert!(matches!(directory.bind(), Err(StartError::NotASocket(_))));
    }

    #[test]
    fn the_file_has_its_mode_and_owner() {
        let directory = Directory::new();
        for mode in [0o600, 0o666, 0o000] {
            let _bound = directory.bind_with(&format!("mode={mode:o}")).unwrap();
            let file = fs::metadata(directory.file()).unwrap();
            assert_eq!(file.mode() & 0o7777, mode);
        }
        let (user, group) = (rustix::process::getuid(), rustix::process::getgid());
        // Root can give it to anyone. Others can give it to themselves only.
        let (user, group) = match user.is_root() {
            true => (4711, 4712),
            false => (user.as_raw(), group.as_raw()),
        };
        let _bound = directory.bind_with(&format!("owner={user}:{group}&mode=0620")).unwrap();
        let file = fs::metadata(directory.file()).unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (user, group, 0o620));
    }

    #[test]
    fn owners_are_looked_up_and_a_failed_start_leaves_no_file() {
        let ids = |text| {
            ids(&Owner::new(text).unwrap()).map_err(|(call, error)| format!("{call}: {error}"))
        };
        assert_eq!(ids("root"), Ok((Some(0), None)));
        assert_eq!(ids("0:7"), Ok((Some(0), Some(7))));
        assert_eq!(ids("no such"), Err("getpwnam: there is no user 'no such'".into()));
        assert_eq!(ids(":no such"), Err("getgrnam: there is no group 'no such'".into()));
        let directory = Directory::new();
        assert!(directory.bind_with("owner=nobody-is-called-this").is_err());
        assert!(!directory.file().exists());
    }

    #[test]
    fn what_the_directory_refuses_is_told_with_the_remedy() {
        let directory = Directory::new();
        let at = UnixAddress::from_path(directory.0.join("no/e.sock")).unwrap();
        let error = bind(&at, &UnixOptions::default(), 1, 16).unwrap_err().to_string();
        assert!(error.contains("open: ") && error.contains("create the directory"), "{error}");
    }

    #[test]
    fn another_start_at_the_directory_is_waited_for() {
        let directory = Directory::new();
        let other = lock_directory(&directory.file()).unwrap();
        let flags = rustix::io::fcntl_getfd(&other).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC), "{flags:?}");
        let address = directory.address();
        let binds = thread::spawn(move || bind(&address, &UnixOptions::default(), 1, 16));
        sleep(Duration::from_millis(50));
        drop(other);
        binds.join().unwrap().unwrap();
        // Not for ever.
        let _other = lock_directory(&directory.file()).unwrap();
        let error = lock_directory(&directory.file()).unwrap_err();
        assert_eq!((error.0, error.1.kind()), ("flock", io::ErrorKind::WouldBlock));
        let file = directory.0.join("file");
        fs::write(&file, "").unwrap();
        let error = lock_directory(&file.join("e.sock")).unwrap_err();
        assert_eq!((error.0, error.1.kind()), ("open", io::ErrorKind::NotADirectory));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn what_the_rights_do_not_allow_is_told_by_the_call() {
        use rustix::thread::CapabilitySet;

        // The file is there, and may not be used.
        let directory = Directory::new();
        directory.leave_stale();
        fs::set_permissions(directory.file(), Permissions::from_mode(0o000)).unwrap();
        let address = directory.address();
        crate::net::without_capability(CapabilitySet::DAC_OVERRIDE, move || {
            let error = bind(&address, &UnixOptions::default(), 1, 16).unwrap_err().to_string();
            assert!(error.contains("connect: Permission denied"), "{error}");
        });
        // It may be used, and not be removed.
        let directory = Directory::new();
        directory.leave_stale();
        fs::set_permissions(&directory.0, Permissions::from_mode(0o555)).unwrap();
        let address = directory.address();
        crate::net::without_capability(CapabilitySet::DAC_OVERRIDE, move || {
            let error = bind(&address, &UnixOptions::default(), 1, 16).unwrap_err().to_string();
            assert!(error.contains("unlink: Permission denied"), "{error}");
        });
        fs::set_permissions(&directory.0, Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn an_abstract_name_has_no_file() {
        let text = format!("unix://@echopool-test-{}", std::process::id());
        let all = crate::config::ToEndpoints::to_endpoints(&text).unwrap();
        let first = bind_all(&all, 2, 16, false).unwrap();
        assert_eq!(first[0].endpoint.to_string(), text);
        assert!(is_in_use(bind_all(&all, 2, 16, false).map(|mut all| all.remove(0))));
        drop(first);
        bind_all(&all, 2, 16, false).unwrap();
        let with_mode = crate::config::ToEndpoints::to_endpoints(&(text + "?mode=0600")).unwrap();
        assert!(matches!(check(&with_mode), Err(StartError::NoFile(_))));
    }

    #[test]
    fn all_workers_accept_from_one_socket() {
        let directory = Directory::new();
        let bound = directory.bind().unwrap();
        for worker in [1, 0, 1] {
            let mut client = UnixStream::connect(directory.file()).unwrap();
            drop(bound.sockets[worker].accept().unwrap());
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
    }

    #[test]
    fn what_cannot_go_together_is_found_before_anything_is_opened() {
        let directory = Directory::new();
        let on = |transport| super::super::ListenOn {
            endpoint: Endpoint::Unix(directory.address()),
            transport,
            inherited: None,
            proxy: Default::default(),
        };
        let twice = [on(TransportOptions::Tcp), on((&Endpoint::Unix(directory.address())).into())];
        assert!(matches!(check(&twice), Err(StartError::ListenedTwice(_))));
        assert!(!directory.file().exists());
    }
}
