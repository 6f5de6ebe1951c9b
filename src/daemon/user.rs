//! `--user`: once the process has opened what only root may open, it becomes another user, in all of its
//! threads, and cannot go back.

use std::io;
use std::sync::OnceLock;

use nix::unistd::{self, Gid, Group, Uid};

use crate::net::bind::{ListenOn, Offer};
use crate::net::transport::Owner;

/// The user that the process has become, as it was written.
static BECOME: OnceLock<String> = OnceLock::new();

/// The user and the group of `--user`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct User {
    written: String,
    uid: Uid,
    gid: Gid,
}

impl User {
    /// Looks up the names, and checks that the process can become this user. A number needs no entry,
    /// if there is a group.
    ///
    /// # Errors
    /// Which of these is not so, and what to do.
    pub(super) fn possible(owner: &Owner) -> Result<User, String> {
        let user = User::look_up(owner).map_err(|error| format!("--user {owner}: {error}"))?;
        let own = Uid::effective();
        match own.is_root() || user.is_current()? {
            true => Ok(user),
            false => Err(format!(
                "--user {owner}: only root can become another user, and this process is user {own}: \
                 start it as root, or leave --user out"
            )),
        }
    }

    fn look_up(owner: &Owner) -> Result<User, String> {
        let name = owner.user().unwrap_or_default();
        let entry = match name.parse() {
            Ok(number) => unistd::User::from_uid(Uid::from_raw(number)),
            Err(_) => unistd::User::from_name(name),
        };
        let entry = entry.map_err(|error| format!("cannot look up the user: {error}"))?;
        let uid = match (name.parse(), &entry) {
            (Ok(number), _) => Uid::from_raw(number),
            (_, Some(entry)) => entry.uid,
            _ => return Err(no_entry("user", name, "useradd --system --user-group")),
        };
        let gid = match (owner.group(), entry) {
            (Some(group), _) => group_of(group)?,
            (None, Some(entry)) => entry.gid,
            (None, None) => {
                return Err(format!("there is no user {name}, so it needs a group: {name}:GROUP"));
            }
        };
        // For the system calls it means that nothing is to change.
        if uid.as_raw() == u32::MAX || gid.as_raw() == u32::MAX {
            return Err(format!("{} is no number of a user or a group", u32::MAX));
        }
        match uid.is_root() {
            true => Err("this is root, which keeps its rights: name another user".to_owned()),
            false => Ok(User { written: owner.to_string(), uid, gid }),
        }
    }

    /// Whether the process is this user already, and cannot be another one: after an upgrade, or if a
    /// service manager has started it so.
    fn is_current(&self) -> Result<bool, String> {
        let all = |error| format!("cannot ask for the user of the process: {error}");
        let (uid, gid) = (unistd::getresuid().map_err(all)?, unistd::getresgid().map_err(all)?);
        Ok([uid.real, uid.effective, uid.saved] == [self.uid; 3]
            && [gid.real, gid.effective, gid.saved] == [self.gid; 3])
    }

    /// Makes this user the owner of the files of these sockets, except where the listener names another
    /// one. `config` has the listeners by the numbers of the offers.
    pub(super) fn own(&self, offers: &[Offer], config: &[ListenOn]) -> Result<(), String> {
        if self.is_current()? {
            return Ok(());
        }
        for offer in offers {
            let Some(file) = &offer.file else { continue };
            let owner = config.get(offer.number).and_then(|on| on.transport.unix()?.owner.as_ref());
            let user = owner.and_then(Owner::user).is_none().then_some(self.uid.as_raw());
            let group = owner.and_then(Owner::group).is_none().then_some(self.gid.as_raw());
            file.give_to(user, group).map_err(|error| {
                let endpoint = &offer.endpoint;
                self.refused(&format!("cannot give it the file of {endpoint}: {error}"))
            })?;
        }
        Ok(())
    }

    /// Makes the process this user, without further groups and capabilities, and checks that it cannot
    /// become root again.
    pub(super) fn become_it(&self) -> Result<(), String> {
        if !self.is_current()? {
            self.change().map_err(|error| self.refused(&error))?;
        }
        self.check()?;
        let User { written, uid, gid } = self;
        log::info!("the process is the user {written} now: uid={uid} gid={gid}");
        let _ = BECOME.set(written.clone());
        Ok(())
    }

    /// These calls of the C library change all threads. Those of the kernel change one.
    fn change(&self) -> Result<(), String> {
        let refused = |call: &'static str| {
            move |error: nix::Error| {
                let error = io::Error::from(error);
                format!("{call}: {error}; root needs CAP_SETUID and CAP_SETGID for it")
            }
        };
        unistd::setgroups(&[]).map_err(refused("setgroups"))?;
        unistd::setresgid(self.gid, self.gid, self.gid).map_err(refused("setresgid"))?;
        unistd::setresuid(self.uid, self.uid, self.uid).map_err(refused("setresuid"))
    }

    /// Checks that the process is this user, and stays it.
    fn check(&self) -> Result<(), String> {
        let root = Uid::from_raw(0);
        let can_return =
            unistd::setresuid(root, root, root).is_ok() || unistd::setuid(root).is_ok();
        if can_return || !self.is_current()? {
            return Err(
                self.refused("it could become root again (see securebits in capabilities(7))")
            );
        }
        Ok(())
    }

    fn refused(&self, why: &str) -> String {
        format!("cannot become the user {} (--user): {why}", self.written)
    }
}

fn group_of(name: &str) -> Result<Gid, String> {
    if let Ok(number) = name.parse() {
        return Ok(Gid::from_raw(number));
    }
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(group.gid),
        Ok(None) => Err(no_entry("group", name, "groupadd --system")),
        Err(error) => Err(format!("cannot look up the group: {error}")),
    }
}

fn no_entry(what: &str, name: &str, remedy: &str) -> String {
    format!("there is no {what} {name}; make it ({remedy} {name}), or name another one")
}

/// Why an operation may have been refused, if the process has become another user.
pub(super) fn reason() -> Option<String> {
    BECOME.get().map(|user| format!("the daemon has become the user {user} (--user)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(text: &str) -> Result<(u32, u32), String> {
        let user = User::look_up(&Owner::new(text).unwrap())?;
        Ok((user.uid.as_raw(), user.gid.as_raw()))
    }

    #[test]
    fn a_user_has_its_own_group_unless_another_is_named() {
        let (nobody, nogroup) = look_up("nobody").unwrap();
        assert_ne!(nobody, 0);
        assert_eq!(look_up("nobody:7"), Ok((nobody, 7)));
        assert_eq!(look_up(&nobody.to_string()), Ok((nobody, nogroup)));
        assert_eq!(look_up("123456:654321"), Ok((123_456, 654_321)));
        assert_eq!(look_up("nobody:root").unwrap().0, nobody);
    }

    #[test]
    fn who_is_nobody_or_root_is_refused_with_what_to_do() {
        for (text, expected) in [
            ("no-such-user", "there is no user no-such-user; make it (useradd"),
            ("nobody:no-such-group", "there is no group no-such-group; make it (groupadd"),
            ("123456", "it needs a group: 123456:GROUP"),
            ("root", "this is root"),
            ("0:7", "this is root"),
            ("4294967295:7", "is no number of a user"),
            ("7:4294967295", "is no number of a user"),
        ] {
            let error = look_up(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
