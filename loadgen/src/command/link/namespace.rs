//! A network namespace with one end of the link in it. It has no name. It belongs to a thread, and
//! to the commands that this thread starts, and is gone when all of them have ended.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;

use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};
use rustix::process::{Pid, Signal, set_parent_process_death_signal};
use tun_rs::{DeviceBuilder, SyncDevice};

use crate::error::Failure;

/// The hidden command that ends with its parent and becomes the command that follows it.
pub const COMMAND: &str = "__within-link";

/// The name of the device at each end.
const DEVICE: &str = "link0";
const PREFIX_BITS: u8 = 30;
/// Packets that the kernel keeps until the link takes them.
const KERNEL_QUEUE: u32 = 10_000;

type Work = Box<dyn FnOnce() + Send>;

/// A network namespace with one end of the link.
pub struct Namespace {
    /// Work for the thread that is in it.
    work: mpsc::Sender<Work>,
    pub device: Arc<SyncDevice>,
}

impl Namespace {
    /// Makes one with a device of this address.
    ///
    /// # Errors
    /// The process may not, or the kernel has no such devices.
    pub fn new(address: Ipv4Addr, mtu: u16) -> Result<Namespace, Failure> {
        let (work, works) = mpsc::channel::<Work>();
        let (made, device) = mpsc::channel();
        let name = format!("link {address}");
        let thread = thread::Builder::new().name(name).spawn(move || {
            let device = enter(address, mtu);
            let is_made = device.is_ok();
            made.send(device).expect("it is awaited");
            if is_made {
                works.into_iter().for_each(|work| work());
            }
        });
        thread.map_err(|error| Failure::Setup(format!("cannot start a thread: {error}")))?;
        let device = Arc::new(device.recv().expect("the thread sends it")?);
        Ok(Namespace { work, device })
    }

    /// Calls a function on the thread that is in the namespace.
    fn within<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (done, result) = mpsc::channel();
        let work = Box::new(move || done.send(work()).expect("it is awaited"));
        self.work.send(work).expect("the thread lives as long as this");
        result.recv().expect("the thread does all work")
    }

    /// Starts a command in it, which ends if this process does.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn spawn(&self, words: &[impl AsRef<OsStr>], io: Streams) -> Result<Child, Failure> {
        let failed = |error| Failure::Setup(format!("cannot start a command: {error}"));
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command.arg(COMMAND).arg(std::process::id().to_string()).args(words);
        if io == Streams::Stderr {
            let stderr = rustix::io::dup(io::stderr()).map_err(|errno| failed(errno.into()))?;
            command.stdin(Stdio::null()).stdout(stderr);
        }
        self.within(move || command.spawn()).map_err(failed)
    }

    /// Whether a socket in it can be connected or sent to.
    pub fn listens(&self) -> bool {
        self.within(|| {
            let rows = |file| fs::read_to_string(format!("/proc/thread-self/net/{file}"));
            let any = |file, row: fn(&str) -> bool| {
                rows(file).is_ok_and(|text| text.lines().skip(1).any(row))
            };
            // The state of a listening socket is 0A.
            let is_listening = |row: &str| row.split_whitespace().nth(3) == Some("0A");
            ["tcp", "tcp6"].into_iter().any(|file| any(file, is_listening))
                || ["udp", "udp6"].into_iter().any(|file| any(file, |_| true))
        })
    }

    /// The processes in it.
    pub fn processes(&self) -> Vec<Pid> {
        let Ok(ours) = self.within(|| fs::read_link("/proc/thread-self/ns/net")) else {
            return Vec::new();
        };
        // A process that has ended, or is another user's, has no readable link.
        let is_in = |pid: &Pid| {
            let link = fs::read_link(format!("/proc/{}/ns/net", pid.as_raw_nonzero()));
            link.is_ok_and(|link| link == ours)
        };
        let all = fs::read_dir("/proc").into_iter().flatten().flatten();
        let numbers = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter_map(Pid::from_raw).filter(is_in).collect()
    }

    /// Packets that the kernel dropped before the link could take them.
    pub fn dropped_before(&self) -> u64 {
        let text = self.within(|| fs::read_to_string("/proc/thread-self/net/dev"));
        text.ok().and_then(|text| transmit_drops(&text)).unwrap_or_default()
    }
}

/// The commands' streams.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// Those of this process.
    Inherited,
    /// No input, and all output to stderr.
    Stderr,
}

/// Puts this thread into a new namespace, and makes the device.
fn enter(address: Ipv4Addr, mtu: u16) -> Result<SyncDevice, Failure> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| {
        Failure::Setup(format!(
            "cannot create a network namespace: {errno}. It needs CAP_SYS_ADMIN: run it as root, \
             or in a user namespace (unshare --user --map-root-user loadgen link ...)"
        ))
    })?;
    let failed = |error: io::Error| {
        Failure::Setup(format!(
            "cannot create a TUN device: {error}. It needs CAP_NET_ADMIN, /dev/net/tun, and a \
             kernel with CONFIG_TUN"
        ))
    };
    // The link is IPv4 only: without this the kernel would send packets of its own.
    for scope in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6");
        // There is no such file in a kernel without IPv6.
        let _ = fs::write(file, "1");
    }
    loopback_up().map_err(failed)?;
    let device = DeviceBuilder::new()
        .name(DEVICE)
        .mtu(mtu)
        .ipv4(address, PREFIX_BITS, None)
        .build_sync()
        .map_err(failed)?;
    device.set_nonblocking(true).map_err(failed)?;
    // Root of a user namespace may not, and has a shorter queue.
    let _ = device.set_tx_queue_len(KERNEL_QUEUE);
    Ok(device)
}

/// Sets the flag IFF_UP of the first device, as `ip link set lo up` does.
fn loopback_up() -> io::Result<()> {
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    const LOOPBACK: u32 = 1;
    let length = 32u32;
    let mut message = Vec::new();
    // struct nlmsghdr: length, type, flags, number and sender.
    message.extend(length.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(NLM_F_REQUEST_AND_ACK.to_ne_bytes());
    message.extend([0; 8]);
    // struct ifinfomsg: family and type, index, flags, and which of the flags to change.
    message.extend([0; 4]);
    [LOOPBACK, IFF_UP, IFF_UP].iter().for_each(|word| message.extend(word.to_ne_bytes()));
    let protocol = SockProtocol::NetlinkRoute;
    let socket: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
    sendto(socket.as_raw_fd(), &message, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut reply = [0; 256];
    let length = recv(socket.as_raw_fd(), &mut reply, MsgFlags::empty())?;
    // struct nlmsgerr: the negative error, or 0.
    let error = reply[..length].get(16..20).and_then(|bytes| bytes.try_into().ok());
    match error.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(error) => Err(io::Error::from_raw_os_error(-error)),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// The drops of the device when sending, in `/proc/net/dev`.
fn transmit_drops(text: &str) -> Option<u64> {
    const TRANSMIT_DROP: usize = 11;
    let row = text.lines().find_map(|line| line.trim_start().strip_prefix("link0:"))?;
    row.split_whitespace().nth(TRANSMIT_DROP)?.parse().ok()
}

/// The hidden command: has the kernel end it when its parent ends, and becomes another command.
pub fn become_command(words: &[impl AsRef<OsStr>]) -> ExitCode {
    const NOT_FOUND: u8 = 127;
    let [parent, program, arguments @ ..] = words else { return ExitCode::FAILURE };
    let ready = set_parent_process_death_signal(Some(Signal::KILL));
    // The parent may have ended before.
    let is_orphan = rustix::process::getppid()
        .is_none_or(|pid| *pid.as_raw_nonzero().to_string() != *parent.as_ref());
    if ready.is_err() || is_orphan {
        return ExitCode::FAILURE;
    }
    let program = program.as_ref();
    let error = Command::new(program).args(arguments).exec();
    eprintln!("loadgen link: {}: {error}", program.display());
    ExitCode::from(NOT_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_are_read_from_the_column_of_the_device() {
        let text = "Inter-|   Receive                                                |  Transmit\n \
                    face |bytes    packets errs drop fifo frame compressed multicast|bytes    \
                    packets errs drop fifo colls carrier compressed\n    \
                    lo: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n \
                    link0: 1 2 3 4 5 6 7 8 9 10 11 42 13 14 15 16\n";
        assert_eq!(transmit_drops(text), Some(42));
        assert_eq!(transmit_drops("lo: 1 2 3\n"), None);
    }
}
