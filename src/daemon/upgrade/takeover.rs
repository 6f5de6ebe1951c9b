//! The new process's part of an upgrade.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use super::channel::Channel;
use super::connections::Lines;
use super::{ARGUMENT, File, Go, Group, Moves, Opening, Reply, Role, VERSION};
use crate::admin::Upgrades;
use crate::daemon::ending::Ending;
use crate::daemon::operations::Operations;
use crate::daemon::{inherited, spawn};
use crate::net::bind::{ListenOn, SocketFile};

/// How long the old process has to send the lines for its connections.
const MOVES_TIME: Duration = Duration::from_secs(10);

/// What this process takes over from the one that runs.
pub(in crate::daemon) struct Takeover {
    channel: Channel,
    pub(in crate::daemon) process: u32,
    pub(in crate::daemon) upgrades: Upgrades,
    /// Whether this process is in the sandbox of the other.
    pub(in crate::daemon) is_sandboxed: bool,
    /// Those that were taken are `None`.
    groups: Vec<Option<(Group, Vec<OwnedFd>)>>,
    taken: Vec<usize>,
    /// The listeners that are to accept nothing, by their numbers.
    stopped: Vec<usize>,
    /// The socket files, which are the other process's until it says go.
    files: Vec<Arc<SocketFile>>,
}

impl Takeover {
    /// Takes what the running process passes on, if it has started this one. Removes its argument.
    ///
    /// # Errors
    /// There is no such process, or it is of another version.
    pub(in crate::daemon) fn begin(args: &mut Vec<OsString>) -> Result<Option<Takeover>, String> {
        let argument = args.get(1).and_then(|word| word.to_str()?.strip_prefix(ARGUMENT));
        let Some(number) = argument.map(str::to_owned) else { return Ok(None) };
        args.remove(1);
        let wrong = |error: &dyn std::fmt::Display| format!("{ARGUMENT}{number}: {error}");
        let channel = number.parse().map_err(|error| wrong(&error)).and_then(|number| {
            let channel = inherited::descriptor(number).and_then(Channel::inherited);
            channel.map_err(|error| wrong(&error))
        })?;
        let mut takeover = Takeover {
            channel,
            process: 0,
            upgrades: Upgrades::default(),
            is_sandboxed: false,
            groups: Vec::new(),
            taken: Vec::new(),
            stopped: Vec::new(),
            files: Vec::new(),
        };
        match takeover.receive() {
            Ok(()) => Ok(Some(takeover)),
            Err(text) => {
                takeover.fail(&text);
                Err(text)
            }
        }
    }

    /// Receives the sockets.
    fn receive(&mut self) -> Result<(), String> {
        let gone = || "the process that started this one has ended".to_owned();
        let opening = self.channel.receive::<Opening>(None).map_err(|error| error.to_string())?;
        let (opening, _) = opening.ok_or_else(gone)?;
        let Opening { version, process, upgrades, groups, is_sandboxed } = opening;
        if version != VERSION {
            return Err(format!(
                "the running process upgrades with version {version} of the messages, this program \
                 has {VERSION}: restart the daemon"
            ));
        }
        (self.process, self.upgrades, self.is_sandboxed) = (process, upgrades, is_sandboxed);
        let mut passed = Vec::new();
        for _ in 0..groups {
            let group = self.channel.receive::<Group>(None).map_err(|error| error.to_string())?;
            let (group, sockets) = group.ok_or_else(gone)?;
            if group.role == Role::Passed {
                passed.extend(sockets.into_iter().map(|socket| (group.endpoint.clone(), socket)));
                self.groups.push(None);
            } else {
                self.groups.push(Some((group, sockets)));
            }
        }
        inherited::set_passed(passed);
        Ok(())
    }

    /// Gives the sockets of the server's listeners to those that listen at the same addresses.
    ///
    /// # Errors
    /// A socket is not what it should be.
    pub(in crate::daemon) fn give(&mut self, listeners: &mut [ListenOn]) -> Result<(), String> {
        self.give_of(Role::Listen, listeners)
    }

    /// The same for the admin address.
    pub(in crate::daemon) fn give_admin(&mut self, on: &mut [ListenOn]) -> Result<(), String> {
        self.give_of(Role::Admin, on)
    }

    fn give_of(&mut self, role: Role, listeners: &mut [ListenOn]) -> Result<(), String> {
        let own = listeners.iter_mut().enumerate().filter(|(_, on)| on.inherited.is_none());
        for (number, on) in own {
            let endpoint = on.endpoint.to_string();
            let is_its = |one: &Option<(Group, _)>| {
                one.as_ref().is_some_and(|(one, _)| one.role == role && one.endpoint == endpoint)
            };
            let Some(at) = self.groups.iter().position(is_its) else { continue };
            let Some((Group { file, is_stopped, .. }, sockets)) = self.groups[at].take() else {
                continue;
            };
            let file = file.map(|File { path, device, inode }| {
                Arc::new(SocketFile::of_another(path, device, inode))
            });
            self.files.extend(file.clone());
            on.take_over(sockets, file).map_err(|error| format!("cannot take over: {error}"))?;
            self.taken.push(at);
            if is_stopped {
                self.stopped.push(number);
            }
        }
        Ok(())
    }

    /// Says that this process ends, and why.
    pub(in crate::daemon) fn fail(&self, text: &str) {
        // If the other process is gone, nobody needs to know.
        let _ = self.channel.send(&Reply::Failed { text: text.trim_end().to_owned() }, &[]);
    }

    /// Says that this process is ready, waits until it is to go, and accepts. Then the connections
    /// come. If the other process has died meanwhile, this one is its heir.
    ///
    /// # Errors
    /// The other process cannot be asked.
    pub(in crate::daemon) fn finish(
        mut self,
        ending: &Ending,
        operations: &Arc<Operations>,
    ) -> Result<(), String> {
        // Sockets that this process does not need: the other closes them in order.
        self.groups.clear();
        let ready = Reply::Ready { taken: std::mem::take(&mut self.taken) };
        let said = self.channel.send(&ready, &[]);
        let go = said.and_then(|()| self.channel.receive::<Go>(None));
        // Nothing ends this process from here on until it says that it serves.
        let no_end = ending.postpone();
        match go {
            _ if no_end.is_none() => return Err("the new process is to end".to_owned()),
            Ok(Some(_)) => {}
            Ok(None) => log::warn!("process {} has ended during the upgrade", self.process),
            Err(error) => return Err(format!("the upgrade did not finish: {error}")),
        }
        self.files.iter().for_each(|file| file.set_own(true));
        ending.begin_accepting(&self.stopped);
        // If nobody hears it, nobody else serves.
        let _ = self.channel.send(&Reply::Serving, &[]);
        drop(no_end);
        // The service manager knows of this process when they come.
        let Ok(Some((Moves, lines))) = self.channel.receive::<Moves>(Some(MOVES_TIME)) else {
            return Ok(());
        };
        let (taker, operations) = (ending.server.taker(), operations.clone());
        let follow = move || {
            let upgrader = &operations.upgrader;
            match Lines::take_over(lines, &upgrader.listeners(), &taker) {
                Ok(lines) => upgrader.keep_lines(lines),
                Err(error) => log::warn!("the connections stay with the old process: {error}"),
            }
        };
        if let Err(failure) = spawn("lines", follow) {
            log::warn!("the connections stay with the old process: {}", failure.text);
        }
        Ok(())
    }
}
