//! The running process's part of an upgrade.

use std::convert::Infallible;
use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread;
use std::time::{Duration, Instant};

use super::changes::{Changes, Closed, Obstacle};
use super::channel::Channel;
use super::connections::{self, Lines};
use super::{ARGUMENT, File, Go, Group, Moves, Opening, Reply, Role, VERSION};
use crate::admin::{Admin, Upgrades};
use crate::daemon::ending::Ending;
use crate::daemon::{failure, inherited, sandbox, spawn, systemd};
use crate::net::bind::Offer;

/// What is not passed on to the new process, because it is for this one alone.
const OWN_VARIABLES: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];

/// How often the wait for the new process looks whether the daemon is to end.
const LOOK: Duration = Duration::from_millis(20);

/// How long the upgrade waits for a change that has begun before, at most: twice as long as a stop or
/// start of a listener may take.
const CHANGES_TIME: Duration = Duration::from_secs(10);

/// How long the new process has to begin once it is ready. It only has to wake its threads.
const GO_TIME: Duration = Duration::from_secs(5);

/// How long a process that has closed the channel has to end by itself, so that it can be said how.
const EXIT_TIME: Duration = Duration::from_secs(1);

/// Replaces the running process.
pub(in crate::daemon) struct Upgrader {
    program: PathBuf,
    args: Vec<OsString>,
    ending: Arc<Ending>,
    /// The names of the listeners, by their numbers: the services with their options and addresses.
    listeners: Mutex<Vec<String>>,
    /// The lines of the process that this one has replaced.
    lines: Mutex<Option<Lines>>,
    /// Locked during an upgrade, and from the end of the daemon on.
    upgrades: Mutex<Upgrades>,
    changes: Changes,
}

impl Upgrader {
    /// `args` are the arguments of the process, including its name.
    pub(in crate::daemon) fn new(
        args: &[OsString],
        ending: &Arc<Ending>,
        listeners: Vec<String>,
        upgrades: Upgrades,
    ) -> Upgrader {
        let (name, args) = args
            .split_first()
            .map_or((OsStr::new(""), &[][..]), |(name, args)| (name.as_os_str(), args));
        let upgrader = Upgrader {
            program: program(name),
            args: args.to_vec(),
            ending: ending.clone(),
            listeners: Mutex::new(listeners),
            lines: Mutex::default(),
            upgrades: Mutex::new(upgrades),
            changes: Changes::default(),
        };
        upgrader.show(upgrades);
        upgrader
    }

    /// Waits for the end of an upgrade that is under way, which the end of the daemon stops. No other
    /// one begins: what it started would have no parent.
    pub(in crate::daemon) fn end(&self) {
        std::mem::forget(self.upgrades.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Starts a new process, and leaves the listeners to it once it is ready. Returns a line about it.
    /// `why` begins the line of the log.
    ///
    /// # Errors
    /// Why this process goes on as it was.
    pub(in crate::daemon) fn upgrade(&self, why: &str) -> Result<String, String> {
        let mut upgrades = match self.upgrades.try_lock() {
            Ok(upgrades) => upgrades,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            Err(TryLockError::WouldBlock) => {
                let text = "another upgrade is under way";
                log::warn!("{why}: {text}");
                return Err(text.to_owned());
            }
        };
        systemd::upgrading("upgrading");
        let no_changes = self.wait_for_changes();
        let result = no_changes.and_then(|_closed| self.try_upgrade(why, *upgrades));
        match &result {
            // The new process shows the counts.
            Ok(_) => upgrades.done += 1,
            Err(text) => {
                upgrades.failed += 1;
                self.show(*upgrades);
                let status = format!("not upgraded: {text}");
                log::error!("{why}: {status}");
                systemd::upgrading(&status);
            }
        }
        result
    }

    /// Waits until nothing is being changed. A change may hang: a reload, for example, that reads a file
    /// of a server that does not reply.
    fn wait_for_changes(&self) -> Result<Closed<'_>, String> {
        let time = CHANGES_TIME.min(self.ending.upgrade_timeout());
        let deadline = Instant::now() + time;
        self.changes.close(Obstacle::Upgrade, LOOK, |obstacle| {
            if self.ending.has_begun() {
                return Err(ENDING.to_owned());
            }
            if Instant::now() >= deadline {
                let what = match obstacle {
                    Obstacle::Changes => "a reload, or a stop or start of a listener,",
                    Obstacle::Upgrade => "another upgrade",
                    Obstacle::Takeover => "the takeover from the process before this one",
                };
                return Err(format!("{what} has not ended after {time:?}"));
            }
            Ok(())
        })
    }

    /// Changes something, unless an upgrade is under way or has replaced this process: the new one would
    /// not know of it. A process that has not taken over yet changes nothing either.
    ///
    /// # Errors
    /// Which of these it is.
    pub(in crate::daemon) fn unless_under_way<T>(
        &self,
        change: impl FnOnce() -> T,
    ) -> Result<T, String> {
        let _no_upgrade = self.changes.begin().map_err(|obstacle| {
            let what = match obstacle {
                Obstacle::Takeover => "this process is taking over from another",
                Obstacle::Upgrade | Obstacle::Changes => "an upgrade is under way",
            };
            format!("{what}: try again when it has ended")
        })?;
        if self.ending.server.is_retired() {
            return Err(REPLACED.to_owned());
        }
        Ok(change())
    }

    /// Lets nothing be changed, as during an upgrade: this process has not taken over yet.
    pub(in crate::daemon) fn refuse_changes(&self) -> Closed<'_> {
        match self.changes.close(Obstacle::Takeover, LOOK, |_| Ok::<(), Infallible>(())) {
            Ok(closed) => closed,
            Err(never) => match never {},
        }
    }

    /// Waits as long as this process [refuses changes](Upgrader::refuse_changes).
    pub(in crate::daemon) fn wait_for_takeover(&self) {
        self.changes.wait_for_takeover();
    }

    /// Keeps the lines of the process that this one has replaced, until this one is replaced.
    pub(super) fn keep_lines(&self, lines: Lines) {
        *self.lines.lock().unwrap_or_else(PoisonError::into_inner) = Some(lines);
    }

    /// The names of the listeners, by their numbers.
    pub(super) fn listeners(&self) -> Vec<String> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sets the names of the listeners after a reload. Empty where there is none.
    pub(in crate::daemon) fn set_listeners(&self, names: Vec<String>) {
        *self.listeners.lock().unwrap_or_else(PoisonError::into_inner) = names;
    }

    fn show(&self, upgrades: Upgrades) {
        if let Some(admin) = &self.ending.admin {
            admin.set_upgrades(upgrades);
        }
    }

    fn try_upgrade(&self, why: &str, upgrades: Upgrades) -> Result<String, String> {
        let Ending { server, admin, .. } = &*self.ending;
        if server.is_retired() {
            return Err(REPLACED.to_owned());
        }
        let (own, other) =
            Channel::pair(self.ending.upgrade_timeout()).map_err(|e| e.to_string())?;
        log::info!("{why}: starting {}", self.program.display());
        let mut new = New::start(&self.program, &self.args, other)?;
        let (listen, of_admin) =
            (server.offers(), admin.as_ref().map_or(Vec::new(), Admin::offers));
        let stopped = server.stopped();
        let deadline = Instant::now() + self.ending.upgrade_timeout();
        let offered = || -> io::Result<()> {
            let passed = inherited::copies_of_passed()?;
            let upgrades = Upgrades { done: upgrades.done + 1, ..upgrades };
            let groups = listen.len() + of_admin.len() + passed.len();
            let process = std::process::id();
            let is_sandboxed = sandbox::is_on();
            let opening = Opening { version: VERSION, process, upgrades, groups, is_sandboxed };
            own.send(&opening, &[])?;
            for offer in &listen {
                send(&own, Role::Listen, offer, stopped.contains(&offer.number))?;
            }
            of_admin.iter().try_for_each(|offer| send(&own, Role::Admin, offer, false))?;
            for (name, socket) in &passed {
                let (role, endpoint) = (Role::Passed, name.to_string());
                let group = Group { role, endpoint, file: None, is_stopped: false };
                own.send(&group, &[socket.as_fd()])?;
            }
            Ok(())
        };
        if let Err(error) = offered() {
            // A process that has ended has not received everything. It may have said why.
            return Err(match self.reply(&own, &mut new, deadline) {
                Err(text) => text,
                Ok(_) => format!("cannot pass on the sockets: {error}"),
            });
        }
        let taken = match self.reply(&own, &mut new, deadline)? {
            Reply::Ready { taken } => taken,
            other => return Err(format!("the new process has sent {other:?}")),
        };
        let _no_end = self.ending.postpone().ok_or_else(|| ENDING.to_owned())?;
        let begun = own.send(&Go, &[]).map_err(|error| error.to_string());
        let serving = begun.and_then(|()| self.reply(&own, &mut new, Instant::now() + GO_TIME));
        let Reply::Serving = serving? else {
            return Err("the new process does not start".to_owned());
        };
        // From here on the service manager believes the new process, and this one no more. The new one
        // says that it is ready after `Moves`.
        systemd::main_process(new.id());
        systemd::be_silent();
        let (id, connections) = (new.id(), server.stats().total().connections);
        let text = format!(
            "process {id} has taken over; of {connections} connections, those that cannot move stay with \
             process {} until they end (SIGTERM drains them)",
            std::process::id()
        );
        log::info!("{why}: {text}");
        new.keep();
        let is_taken = |at: &usize| taken.contains(at);
        let of_groups = |offers: Vec<Offer>, from: usize| {
            let numbered = offers.into_iter().zip(from..).filter(|(_, at)| is_taken(at));
            numbered.map(|(offer, _)| offer).collect::<Vec<_>>()
        };
        let listeners = listen.len();
        // First, so that the reply to who asked for this is sent before the process ends.
        if let Some(admin) = admin {
            admin.leave(&of_groups(of_admin, listeners));
        }
        // What an earlier process has not moved yet stays there.
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let lines = connections::lines(server.limits().workers, &self.listeners());
        let successors = lines.and_then(|(successors, others)| {
            let others: Vec<BorrowedFd<'_>> = others.iter().map(Channel::as_fd).collect();
            own.send(&Moves, &others)?;
            Ok(successors)
        });
        let successors = successors.unwrap_or_else(|error| {
            log::warn!("{why}: the connections stay: {error}");
            Vec::new()
        });
        server.retire(&of_groups(listen, 0), successors);
        Ok(text)
    }

    /// The next message of the new process, until the deadline.
    ///
    /// # Errors
    /// There is none. The text says why.
    fn reply(&self, own: &Channel, new: &mut New, deadline: Instant) -> Result<Reply, String> {
        loop {
            match own.receive(Some(LOOK)) {
                Ok(Some((Reply::Failed { text }, _))) => {
                    return Err(format!("the new process has failed: {text}"));
                }
                Ok(Some((reply, _))) => return Ok(reply),
                Ok(None) => return Err(new.how_it_ended()),
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => {
                    return Err(format!("the new process has sent an invalid message: {error}"));
                }
            }
            if self.ending.has_begun() {
                return Err(ENDING.to_owned());
            }
            if Instant::now() >= deadline {
                let time = self.ending.upgrade_timeout();
                return Err(format!(
                    "the new process is not ready after {time:?} (--upgrade-timeout), and was killed"
                ));
            }
        }
    }
}

/// Why a process that was replaced changes nothing.
const REPLACED: &str = "another process has taken over";

/// Why there is no upgrade after SIGTERM.
const ENDING: &str = "the daemon is ending";

/// Sends the sockets of an address.
fn send(channel: &Channel, role: Role, offer: &Offer, is_stopped: bool) -> io::Result<()> {
    let file = offer.file.as_ref().map(|file| {
        let (path, device, inode) = file.identity();
        File { path: path.to_owned(), device, inode }
    });
    let sockets: Vec<BorrowedFd<'_>> = offer.sockets.iter().map(|socket| socket.as_fd()).collect();
    channel.send(&Group { role, endpoint: offer.endpoint.to_string(), file, is_stopped }, &sockets)
}

/// The new process. Dropping it kills it.
struct New(Option<Child>);

impl New {
    fn start(program: &Path, args: &[OsString], channel: Channel) -> Result<New, String> {
        let refused = |error: io::Error| {
            let text = format!("cannot start {}: {error}", program.display());
            format!("{text}{}", failure::remedy(&text))
        };
        // Nothing else starts programs, so nothing else inherits it.
        let number = channel.let_inherit(true).map_err(refused)?;
        let mut command = Command::new(program);
        command.arg(format!("{ARGUMENT}{number}")).args(args);
        OWN_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let child = command.spawn().map_err(refused)?;
        drop(channel);
        Ok(New(Some(child)))
    }

    fn id(&self) -> u32 {
        self.0.as_ref().map_or(0, Child::id)
    }

    /// How the process ended, which has closed the channel.
    fn how_it_ended(&mut self) -> String {
        let begun = Instant::now();
        let mut ended = || self.0.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let status: Option<ExitStatus> = loop {
            match ended() {
                None if begun.elapsed() < EXIT_TIME => thread::sleep(LOOK),
                status => break status,
            }
        };
        match status {
            Some(status) => format!(
                "the new process has ended ({status}) without taking over; the log may say why. A \
                 version without upgrades ends with exit status 2"
            ),
            None => "the new process has closed the channel to this one, and was killed".to_owned(),
        }
    }

    /// Lets it run. Logs its end if this process still runs then.
    fn keep(mut self) {
        let Some(mut child) = self.0.take() else { return };
        let watched = spawn("successor", move || {
            let id = child.id();
            // With status 0 it was told to end, or was replaced itself.
            if let Some(status) = child.wait().ok().filter(|status| !status.success()) {
                log::warn!("process {id}, which has taken over, has ended ({status})");
            }
        });
        if let Err(failure) = watched {
            log::warn!("{}", failure.text);
        }
    }
}

impl Drop for New {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // Fails if it has ended, which is fine.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The path of the program, found at start: later the file at it may be another one, which is what an
/// upgrade is for. `name` is what the process was called by. If that does not lead to the program, the
/// system says where it is; symbolic links are then resolved.
pub(in crate::daemon) fn program(name: &OsStr) -> PathBuf {
    let running = env::current_exe().unwrap_or_default();
    let named = match Path::new(name).components().count() {
        1 => {
            let path = env::var_os("PATH").unwrap_or_default();
            env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
        }
        _ => std::path::absolute(name).ok(),
    };
    let is_running = |path: &PathBuf| path.canonicalize().is_ok_and(|path| path == running);
    named.filter(is_running).unwrap_or(running)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin::Echo;
    use crate::daemon::ending::EndTimes;
    use crate::{Config, Server};

    /// The upgrader of a server. It waits for nothing.
    fn upgrader() -> (Upgrader, Arc<Ending>) {
        let config = Config::new().listen("127.0.0.1:0").workers(1).max_connections(1);
        let server = Server::start(config, Echo).unwrap();
        let [delay, timeout, upgrade] = [Duration::ZERO; 3];
        let times = EndTimes { delay, timeout, upgrade };
        let ending = Arc::new(Ending::new(server, None, times));
        (Upgrader::new(&[], &ending, Vec::new(), Upgrades::default()), ending)
    }

    #[test]
    fn a_process_that_has_not_taken_over_changes_nothing_and_says_why() {
        let (upgrader, _ending) = upgrader();
        let refused = upgrader.refuse_changes();
        let changed = upgrader.unless_under_way(|| panic!("it has not taken over"));
        let wrong = "this process is taking over from another: try again when it has ended";
        assert_eq!(changed, Err::<(), _>(wrong.to_owned()));
        let wrong = "the takeover from the process before this one has not ended after 0ns";
        assert_eq!(upgrader.upgrade("SIGUSR2"), Err(wrong.to_owned()));
        drop(refused);
        upgrader.wait_for_takeover();
        assert_eq!(upgrader.unless_under_way(|| 7), Ok(7));
    }

    #[test]
    fn a_process_that_was_replaced_changes_nothing() {
        let (upgrader, ending) = upgrader();
        assert_eq!(upgrader.unless_under_way(|| 7), Ok(7));
        ending.server.retire(&[], Vec::new());
        let changed = upgrader.unless_under_way(|| panic!("nobody would know of it"));
        assert_eq!(changed, Err::<(), _>(REPLACED.to_owned()));
    }

    #[test]
    fn the_program_is_what_was_called_unless_that_is_another() {
        let own = env::current_exe().unwrap();
        assert_eq!(program(own.as_os_str()), own);
        assert_eq!(program(OsStr::new("sh")), own, "another program of the PATH");
        assert_eq!(program(OsStr::new("/nowhere/echopool")), own);
        let link = env::temp_dir().join(format!("echopool-link-{}", std::process::id()));
        std::os::unix::fs::symlink(&own, &link).unwrap();
        let called = program(link.as_os_str());
        std::fs::remove_file(&link).unwrap();
        assert_eq!(called, link, "the link may lead to a new version later");
    }
}
