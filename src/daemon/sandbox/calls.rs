//! The system calls that a daemon makes, and the filter that refuses all others with EPERM.
//!
//! The list has what a start makes as well, because an upgrade starts the program in the same sandbox.
//! The kernel keeps a table of the calls that are always allowed. A filter costs those next to nothing,
//! so none of the calls for an echo is in the list of those whose arguments matter.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// Allowed with any arguments.
const ALLOWED: &[c_long] = &[
    // Bytes of connections and datagrams, and waiting for them.
    libc::SYS_accept4,
    libc::SYS_close,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_timerfd_create,
    libc::SYS_timerfd_gettime,
    libc::SYS_timerfd_settime,
    libc::SYS_write,
    libc::SYS_writev,
    // Sockets.
    libc::SYS_bind,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_listen,
    libc::SYS_setsockopt,
    libc::SYS_socketpair,
    // Descriptors and files. Landlock says which.
    libc::SYS_close_range,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_flock,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_getcwd,
    libc::SYS_getdents64,
    libc::SYS_lseek,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_pipe2,
    libc::SYS_pread64,
    libc::SYS_readlinkat,
    libc::SYS_statfs,
    libc::SYS_statx,
    libc::SYS_unlinkat,
    // Memory, threads, time, signals.
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_futex,
    libc::SYS_get_robust_list,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_madvise,
    libc::SYS_membarrier,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_prctl,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigtimedwait,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    libc::SYS_tkill,
    // Processes: an upgrade starts one. Landlock says which program, and whom a signal may reach.
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_kill,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_wait4,
    libc::SYS_waitid,
    // What the process and the machine are.
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getgroups,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_getresgid,
    libc::SYS_getresuid,
    libc::SYS_getrusage,
    libc::SYS_getuid,
    libc::SYS_prlimit64,
    libc::SYS_sysinfo,
    libc::SYS_uname,
];

/// Older calls, which newer processors do not have.
#[cfg(target_arch = "x86_64")]
const OLDER: &[c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_getrlimit,
    libc::SYS_lchown,
    libc::SYS_lstat,
    libc::SYS_open,
    libc::SYS_pipe,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_stat,
    libc::SYS_time,
    libc::SYS_unlink,
    libc::SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const OLDER: &[c_long] = &[];

/// The kinds of sockets: connections, datagrams, the service manager, and what `getaddrinfo` asks the
/// kernel for its addresses with.
const FAMILIES: [i32; 4] = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX, libc::AF_NETLINK];

/// Is it a terminal, do not block, how much is there, how much has not been sent.
#[allow(clippy::unnecessary_cast, reason = "another type with musl")]
const REQUESTS: [u64; 6] = [
    libc::TCGETS as u64,
    libc::TIOCGWINSZ as u64,
    libc::FIONBIO as u64,
    libc::FIOCLEX as u64,
    libc::FIONREAD as u64,
    libc::TIOCOUTQ as u64,
];

const PROT_WRITE: u64 = libc::PROT_WRITE as u64;
const PROT_EXEC: u64 = libc::PROT_EXEC as u64;

/// The flags of `clone` that make namespaces, except that of time, whose bit has another meaning there.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u32 as u64;

/// Lets all threads make these calls and no others. Returns how many there are, or `None` if the crate
/// does not know this processor.
pub(super) fn filter() -> Result<Option<usize>, Error> {
    let Ok(processor) = TargetArch::try_from(std::env::consts::ARCH) else { return Ok(None) };
    let rules = rules()?;
    let count = rules.len() - 1;
    // The arguments of `clone3` are out of a filter's sight. The C library then takes `clone`.
    let newer = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let no_clone3: BpfProgram = SeccompFilter::new(
        newer,
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOSYS as u32),
        processor,
    )?
    .try_into()?;
    let others: BpfProgram = SeccompFilter::new(
        rules,
        SeccompAction::Errno(libc::EPERM as u32),
        SeccompAction::Allow,
        processor,
    )?
    .try_into()?;
    seccompiler::apply_filter_all_threads(&no_clone3)?;
    seccompiler::apply_filter_all_threads(&others)?;
    Ok(Some(count))
}

fn rules() -> Result<BTreeMap<c_long, Vec<SeccompRule>>, Error> {
    let whole = ALLOWED.iter().chain(OLDER).map(|call| (*call, Vec::new()));
    let mut rules: BTreeMap<_, _> = whole.collect();
    rules.insert(libc::SYS_socket, one_of(0, &FAMILIES.map(|one| one as u64))?);
    rules.insert(libc::SYS_ioctl, one_of(1, &REQUESTS)?);
    rules.insert(libc::SYS_clone, vec![bits(0, NAMESPACES, 0)?]);
    // Nothing that can be written can be executed. The loader needs this of `mmap` for libraries.
    let mmap = vec![bits(2, PROT_WRITE, 0)?, bits(2, PROT_EXEC, 0)?];
    rules.insert(libc::SYS_mmap, mmap);
    // On other processors the loader marks code with it.
    let mprotect =
        if cfg!(target_arch = "x86_64") { vec![bits(2, PROT_EXEC, 0)?] } else { Vec::new() };
    rules.insert(libc::SYS_mprotect, mprotect);
    // The other filter is for it. Of two errors, the one of the newer filter would count.
    rules.insert(libc::SYS_clone3, Vec::new());
    Ok(rules)
}

/// An argument that is one of these values.
fn one_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, Error> {
    values.iter().map(|value| bits(argument, u64::MAX, *value)).collect()
}

/// An argument whose bits in `mask` are `value`.
fn bits(argument: u8, mask: u64, value: u64) -> Result<SeccompRule, Error> {
    // The kernel looks at the lower half of these arguments only.
    let (length, is) = (SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask & 0xFFFF_FFFF));
    let condition = SeccompCondition::new(argument, length, is, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_argument_of_a_call_for_an_echo_matters() {
        let rules = rules().unwrap();
        for call in [
            libc::SYS_epoll_ctl,
            libc::SYS_epoll_pwait,
            libc::SYS_epoll_pwait2,
            libc::SYS_read,
            libc::SYS_readv,
            libc::SYS_recvfrom,
            libc::SYS_recvmmsg,
            libc::SYS_recvmsg,
            libc::SYS_sendmmsg,
            libc::SYS_sendmsg,
            libc::SYS_sendto,
            libc::SYS_timerfd_settime,
            libc::SYS_write,
            libc::SYS_writev,
        ] {
            assert!(rules[&call].is_empty(), "{call}");
        }
        for call in [libc::SYS_socket, libc::SYS_ioctl, libc::SYS_clone, libc::SYS_mmap] {
            assert!(!rules[&call].is_empty(), "{call}");
        }
        for call in [libc::SYS_ptrace, libc::SYS_setresuid, libc::SYS_unshare, libc::SYS_seccomp] {
            assert!(!rules.contains_key(&call), "{call}");
        }
    }
}
