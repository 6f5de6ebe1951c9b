//! A reload: reads the settings again and applies those that can change while the daemon runs, all of
//! them or, if anything is wrong, none.

use std::sync::Arc;
use std::time::Duration;

use super::cli::Cli;
use super::ending::Ending;
use super::failure::{self, Failure};
use super::listeners::{Listeners, NotPlanned, Plan};
use super::logger::Logger;
use super::rates::Rates;
use super::settings::{Change, Settings, Sources};
use super::systemd;
use crate::builtin::OfListener;
use crate::config::Config;
use crate::error::StartError;
use crate::server::Patience;
use crate::service::ServiceFactory;

/// The settings that can change while the daemon runs. docs/operations.md lists them.
pub(super) const CHANGEABLE: [&str; 13] = [
    "listen",
    "max-connections",
    "max-connections-per-address",
    "idle-timeout",
    "send-timeout",
    "shed-after",
    "linger",
    "drain-timeout",
    "drain-delay",
    "upgrade-timeout",
    "stats-interval",
    "log",
    "log-limit",
];

/// Reloads the settings of a running daemon.
pub(super) struct Reloader {
    sources: Sources,
    /// The settings that the daemon runs with.
    running: Settings,
    listeners: Listeners,
    until_stdin_closes: bool,
    /// The configuration of the start.
    config: Config,
    log: Arc<Logger>,
    rates: Arc<Rates>,
    ending: Arc<Ending>,
    /// How often the settings were loaded, with the start.
    generation: u64,
    interval: Option<Duration>,
}

impl Reloader {
    /// A reloader for a daemon that was started with these settings.
    pub(super) fn new(
        sources: Sources,
        cli: Cli,
        listeners: Listeners,
        config: Config,
        log: &Arc<Logger>,
        ending: &Arc<Ending>,
    ) -> Reloader {
        Reloader {
            sources,
            until_stdin_closes: cli.until_stdin_closes,
            interval: cli.stats_interval,
            running: cli.settings,
            listeners,
            config,
            log: Arc::clone(log),
            rates: Arc::default(),
            ending: Arc::clone(ending),
            generation: 1,
        }
    }

    pub(super) fn until_stdin_closes(&self) -> bool {
        self.until_stdin_closes
    }

    /// The names of the listeners, by their numbers.
    pub(super) fn listeners(&self) -> Vec<String> {
        self.listeners.names()
    }

    /// Starts to log the rates, if the settings of the start say so.
    pub(super) fn start_rates(&mut self) -> Result<(), Failure> {
        self.rates.start(self.interval, &self.ending)?;
        self.rates.set(self.interval);
        Ok(())
    }

    /// Reads the settings again, and logs what has changed and what needs a restart. `why` begins the
    /// lines of the log.
    ///
    /// # Errors
    /// Why nothing was changed, or why a certificate was not.
    pub(super) fn reload(&mut self, why: &str) -> Result<String, String> {
        if self.ending.has_begun() {
            log::info!("{why}: ignored, the daemon is ending");
            return Err("the daemon is ending".to_owned());
        }
        systemd::reloading();
        let result = self.try_reload(why);
        let is_applied = result.is_ok();
        let certificates = is_applied && self.reload_certificates(why);
        if let Some(admin) = &self.ending.admin {
            admin.reloaded(certificates);
        }
        let (level, status) = match result {
            Err(text) => {
                let remedy = failure::remedy(&text);
                (log::Level::Error, format!("nothing is changed: {text}{remedy}"))
            }
            Ok(Reloaded { changed, fixed }) => {
                let changed = match list(&changed) {
                    none if none.is_empty() => "nothing has changed".to_owned(),
                    some => some,
                };
                let status = format!("reloaded, generation={}: {changed}", self.generation);
                match list(&fixed) {
                    none if none.is_empty() => (log::Level::Info, status),
                    fixed => (log::Level::Warn, format!("{status}; needs a restart: {fixed}")),
                }
            }
        };
        log::log!(level, "{why}: {status}");
        systemd::reloaded(&status);
        match (is_applied, certificates) {
            (true, true) => Ok(status),
            (true, false) => Err(format!("{status}; a certificate cannot be used, see the log")),
            (false, _) => Err(status),
        }
    }

    /// Reads the certificates again. Returns whether all of them can be used.
    fn reload_certificates(&self, why: &str) -> bool {
        let mut all = true;
        for (endpoint, result) in self.ending.server.reload_certificates() {
            match result {
                Ok(()) => {
                    log::info!("{why}: new connections to {endpoint} use the current certificates")
                }
                Err(error) => {
                    all = false;
                    let text = error.to_string();
                    let remedy = failure::remedy(&text);
                    log::error!(
                        "{why}: the certificates of {endpoint} are unchanged: {text}{remedy}"
                    );
                }
            }
        }
        all
    }

    /// What changes about the listeners, if that is `change`. Otherwise it says why.
    fn plan_listeners(
        &self,
        cli: &Cli,
        change: &mut Change,
        of_options: Option<&str>,
        patience: &Patience,
    ) -> Result<Option<Plan>, String> {
        let why = match of_options {
            Some(name) => format!("{name} has changed as well, and applies to all listeners"),
            None => match self.listeners.plan(cli, &self.ending.server, patience) {
                Ok(plan) => return Ok(Some(plan)),
                Err(NotPlanned::Wrong(text)) => return Err(text),
                Err(NotPlanned::NeedsUpgrade(text)) => text,
            },
        };
        change.why_fixed = Some(format!("{why}: only an upgrade or a restart changes that"));
        Ok(None)
    }

    fn try_reload(&mut self, why: &str) -> Result<Reloaded, String> {
        let cli = self.sources.read_again().map_err(|error| error.to_string())?;
        self.check(&cli)?;
        let ending = Arc::clone(&self.ending);
        let server = &ending.server;
        let mut config = cli.apply(Config::new());
        let (mut changed, mut fixed) = (Vec::new(), Vec::new());
        let changes = self.running.changes(&cli.settings);
        let names = changes.iter().map(|change| change.name.clone()).collect::<Vec<_>>();
        let of_options = names.iter().find(|name| Cli::is_of_options(name)).map(|name| &name[..]);
        let patience = Patience::new(Patience::OF_RELOAD);
        let mut plan = None;
        for mut change in changes {
            let is_possible = match &change.name[..] {
                "listen" => {
                    plan = self.plan_listeners(&cli, &mut change, of_options, &patience)?;
                    plan.is_some()
                }
                "max-connections" => {
                    let most = server.connections_max();
                    // Without a number, it is as many as at start, if there was none then either.
                    let derived = self.config.max_connections.is_none().then_some(most);
                    config.max_connections = config.max_connections.or(derived);
                    config.max_connections.is_some_and(|asked| asked <= most)
                }
                // Without a limit at start, nothing is counted.
                "max-connections-per-address" => self.config.max_connections_per_address.is_some(),
                name => CHANGEABLE.contains(&name),
            };
            if is_possible { &mut changed } else { &mut fixed }.push(change);
        }
        let limits = server.limits();
        if !has(&changed, "max-connections") {
            config.max_connections = Some(limits.max_connections);
        }
        if !has(&changed, "max-connections-per-address") {
            config.max_connections_per_address = limits.max_connections_per_address;
        }
        // First what may fail. Sockets that are bound are closed again if something fails after it.
        self.rates.start(cli.stats_interval, &self.ending).map_err(|failure| failure.text)?;
        let prepare = |plan| {
            let prepared = Listeners::prepare(&plan, server, &cli.settings, &patience)?;
            Ok::<_, String>((plan, prepared))
        };
        let prepared = plan.map(prepare).transpose()?;
        server
            .reconfigure(&config)
            .map_err(|error| Failure::of_start(&error, &cli.settings).text)?;
        if let Some((plan, prepared)) = prepared {
            self.listeners.carry_out(plan, prepared, server, why, &patience);
            if let Some(admin) = &ending.admin {
                admin.set_targets(self.listeners.targets());
            }
        }
        self.rates.set(cli.stats_interval);
        self.ending.set_times(cli.end_times());
        self.log.set(cli.log, cli.log_limit);
        self.running.take_over(&changed, &cli.settings);
        self.generation += 1;
        Ok(Reloaded { changed, fixed })
    }

    /// Checks all settings as a start does, except the addresses, the limit of open files and
    /// memory: what this process uses of these is not free now.
    fn check(&self, cli: &Cli) -> Result<(), String> {
        let mut config = cli.apply(self.config.clone());
        // The other limits follow from it as they did at start.
        config.max_connections.get_or_insert(self.ending.server.connections_max());
        let wrong = |error| Failure::of_start(&error, &cli.settings).text;
        let mut limits = config.check_without_files().map_err(wrong)?;
        let services = cli.services();
        limits.listeners = services.len();
        let wrong = |error| wrong(StartError::Service(error));
        ServiceFactory::check(&OfListener::new(services), &limits).map_err(wrong)
    }
}

/// What a reload has found.
struct Reloaded {
    changed: Vec<Change>,
    /// What needs a restart.
    fixed: Vec<Change>,
}

fn has(changes: &[Change], name: &str) -> bool {
    changes.iter().any(|change| change.name == name)
}

fn list(changes: &[Change]) -> String {
    changes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
