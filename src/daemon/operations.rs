//! What the daemon can be asked for through its admin address: a drain, a reload and an upgrade.

use std::sync::{Arc, Mutex, PoisonError};

use super::ending::Ending;
use super::reload::Reloader;
use super::systemd;
use super::upgrade::Upgrader;
use crate::admin;

/// The drain, the reload and the upgrade of the running daemon. Signals ask for the same.
pub(super) struct Operations {
    ending: Arc<Ending>,
    reloader: Mutex<Reloader>,
    pub(super) upgrader: Upgrader,
}

impl Operations {
    pub(super) fn new(ending: Arc<Ending>, reloader: Reloader, upgrader: Upgrader) -> Operations {
        Operations { ending, reloader: Mutex::new(reloader), upgrader }
    }

    /// Reads the settings again for a signal, which begins the line of the log. A process that is to
    /// replace another one does so when it has taken over.
    pub(super) fn reload_for(&self, signal: &str) {
        self.upgrader.wait_for_takeover();
        // What comes of it is in the log.
        if let Err(text) = self.upgrader.unless_under_way(|| drop(self.reload_now(signal))) {
            log::warn!("{signal}: nothing is changed: {text}");
            // The service manager waits for the end of the reload that it has asked for.
            systemd::reloading();
            systemd::reloaded(&format!("nothing is changed: {text}"));
        }
    }

    fn reload_now(&self, why: &str) -> Result<String, String> {
        // After a panic in a reload, the next one begins anew.
        let mut reloader = self.reloader.lock().unwrap_or_else(PoisonError::into_inner);
        let result = reloader.reload(why);
        self.upgrader.set_listeners(reloader.listeners());
        result
    }
}

impl admin::Operations for Operations {
    fn drain(&self) {
        self.ending.begin("admin");
    }

    fn reload(&self) -> Result<String, String> {
        self.reload_now("admin")
    }

    fn change(&self, change: &mut dyn FnMut()) -> Result<(), String> {
        self.upgrader.unless_under_way(change)
    }

    fn upgrade(&self) -> Result<String, String> {
        self.upgrader.upgrade("admin")
    }
}
