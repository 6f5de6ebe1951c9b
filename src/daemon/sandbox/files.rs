//! The files that a daemon uses, and Landlock.
//!
//! The kernel looks at the file that a rule is for, not at its name. What is replaced by renaming, as
//! editors, package managers and renewals of certificates do, is another file afterwards. So the rules
//! are for directories.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, NetPort, RestrictionStatus, Ruleset, RulesetAttr,
    RulesetCreatedAttr, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

use crate::daemon::cli::{Cli, Where};
use crate::daemon::settings::Sources;
use crate::daemon::upgrade;

/// What is restricted: of a newer kernel, no more than was tested; of an older one, what it knows.
const TESTED: ABI = ABI::V6;

/// What a daemon reads, whatever its settings: about the machine and itself, and to look up names of
/// hosts, users and groups. The last are files, because their directory has others' secrets.
const READ: [&str; 18] = [
    "/proc",
    "/sys/class/net",
    "/sys/devices/system/cpu",
    "/sys/devices/virtual/net",
    "/sys/fs/cgroup",
    "/dev/null",
    "/dev/random",
    "/dev/urandom",
    "/etc/gai.conf",
    "/etc/group",
    "/etc/host.conf",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/resolv.conf",
    "/etc/services",
];

/// The port of name servers, which a long reply is read from over TCP.
const DNS: u16 = 53;

/// The files that a daemon uses.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Paths {
    /// Directories of the program and its libraries: an upgrade starts what is there then.
    programs: BTreeSet<PathBuf>,
    /// Directories of the files that the settings name.
    read: BTreeSet<PathBuf>,
    /// Directories of the files of Unix sockets.
    sockets: BTreeSet<PathBuf>,
}

impl Paths {
    pub(super) fn of(cli: &Cli, sources: &Sources) -> Paths {
        let program = sources.args().first().map(|name| upgrade::program(name));
        let programs = program.into_iter().chain(mapped_programs()).flat_map(|file| around(&file));
        let read = sources.file().into_iter().chain(named(cli)).flat_map(|file| around(&file));
        let sockets = sockets(cli).flat_map(|file| around(&file));
        Paths { programs: programs.collect(), read: read.collect(), sockets: sockets.collect() }
    }
}

/// For the log. What every daemon reads is left out.
impl fmt::Display for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = "";
        for (what, paths) in
            [("starts", &self.programs), ("reads", &self.read), ("has sockets in", &self.sockets)]
        {
            if !paths.is_empty() {
                let paths: Vec<String> =
                    paths.iter().map(|one| one.display().to_string()).collect();
                write!(f, "{first}{what} {}", paths.join(" "))?;
                first = ", ";
            }
        }
        Ok(())
    }
}

/// The directory that a file is found in, and that of the file that its name leads to. A file of the root
/// directory stands for itself.
fn around(file: &Path) -> Vec<PathBuf> {
    let absolute = std::path::absolute(file).ok();
    let real = file.canonicalize().ok();
    let directory = |path: PathBuf| match path.parent() {
        Some(parent) if parent != Path::new("/") => parent.to_owned(),
        _ => path,
    };
    absolute.into_iter().chain(real).map(directory).collect()
}

/// The files that the kernel has mapped to execute them: the program, the loader, libraries.
fn mapped_programs() -> Vec<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let executed = maps
        .lines()
        .filter(|line| line.split_whitespace().nth(1).is_some_and(|rights| rights.contains('x')));
    executed.filter_map(|line| Some(line[line.find('/')?..].into())).collect()
}

/// The files that the settings name, beside the configuration file.
fn named(cli: &Cli) -> impl Iterator<Item = PathBuf> {
    let transports = cli.listeners().iter().map(|(_, at)| match at {
        Where::Address(at) => at.transport(),
        Where::Passed(_, transport, _) => transport,
    });
    let of_tls = transports.filter_map(|transport| transport.tls()).flat_map(|tls| {
        let files = [&tls.cert, &tls.key, &tls.client_ca].into_iter().flatten();
        files.flat_map(|files| files.paths().map(Path::to_owned))
    });
    of_tls.chain(cli.admin_token_file.clone())
}

/// The files of the Unix sockets that are listened on.
fn sockets(cli: &Cli) -> impl Iterator<Item = PathBuf> {
    let listeners = cli.listeners().iter().filter_map(|(_, at)| match at {
        Where::Address(at) => Some(at),
        Where::Passed(..) => None,
    });
    let all = listeners.chain(&cli.admin);
    all.filter_map(|at| at.socket_file().map(Path::to_owned))
}

/// Lets this thread, and those that it starts, use these files and no others, connect by TCP to name
/// servers only, and signal nothing but what is in the same sandbox. Returns what is enforced, and whether
/// that is all of it.
pub(super) fn restrict(paths: &Paths) -> Result<(String, bool), RulesetError> {
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let socket = AccessFs::MakeSock | AccessFs::RemoveFile | AccessFs::ReadDir;
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(TESTED))?
        .handle_access(AccessNet::ConnectTcp)?
        .scope(scopes())?
        .create()?
        .add_rules(path_beneath_rules(READ, read))?
        .add_rules(path_beneath_rules(["/dev/null"], AccessFs::WriteFile))?
        .add_rules(path_beneath_rules(&paths.programs, read | AccessFs::Execute))?
        .add_rules(path_beneath_rules(&paths.read, read))?
        .add_rules(path_beneath_rules(&paths.sockets, socket))?
        .add_rule(NetPort::new(DNS, AccessNet::ConnectTcp))?
        .restrict_self()?;
    Ok(describe(&status))
}

/// A service manager may listen at an abstract Unix address, to which a sandbox would not let it talk.
fn scopes() -> BitFlags<Scope> {
    let manager = std::env::var("NOTIFY_SOCKET").unwrap_or_default();
    match manager.starts_with('@') {
        true => Scope::Signal.into(),
        false => Scope::Signal | Scope::AbstractUnixSocket,
    }
}

fn describe(status: &RestrictionStatus) -> (String, bool) {
    let (how, is_whole) = match status.ruleset {
        RulesetStatus::FullyEnforced => ("enforced", true),
        RulesetStatus::PartiallyEnforced => ("partly enforced", false),
        RulesetStatus::NotEnforced => ("not enforced", false),
    };
    (format!("Landlock is {how}"), is_whole)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_has_the_directory_of_its_name_and_the_one_that_it_leads_to() {
        let folder = std::env::temp_dir().join(format!("echopool-around-{}", std::process::id()));
        let (named, real) = (folder.join("named"), folder.join("real"));
        fs::create_dir_all(&named).unwrap();
        fs::create_dir_all(&real).unwrap();
        fs::write(real.join("file"), "").unwrap();
        symlink(real.join("file"), named.join("link")).unwrap();
        let found = around(&named.join("link"));
        let missing = around(&named.join("missing"));
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(found, [named.clone(), real]);
        assert_eq!(missing, [named], "what does not exist yet may be made later");
        assert_eq!(around(Path::new("/file-of-the-root")), [Path::new("/file-of-the-root")]);
    }

    #[test]
    fn the_running_program_is_mapped() {
        let own = std::env::current_exe().unwrap().canonicalize().unwrap();
        assert!(mapped_programs().contains(&own), "{:?}", mapped_programs());
    }

    #[test]
    fn the_directories_are_those_of_the_settings() {
        let flags = "echopool --listen tls://7801?cert=/a/cert.pem&key=/b/key.pem&client-ca=/c/ca.pem \
                     --listen unix:///run/a/socket --listen unix://@abstract --listen 7802 \
                     --admin unix:///run/b/admin --admin-token-file /d/token --config /dev/null";
        let sources = Sources::new(flags.split_whitespace().map(Into::into), []);
        let paths = Paths::of(&sources.read().unwrap(), &sources);
        let shown = |paths: &BTreeSet<PathBuf>| -> Vec<String> {
            paths.iter().map(|path| path.display().to_string()).collect()
        };
        assert_eq!(shown(&paths.read), ["/a", "/b", "/c", "/d", "/dev"]);
        assert_eq!(shown(&paths.sockets), ["/run/a", "/run/b"]);
        assert!(
            paths.to_string().contains(", reads /a /b /c /d /dev, has sockets in /run/a /run/b")
        );
    }
}
