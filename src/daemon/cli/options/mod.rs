//! The flags that are defaults of the services' options, and what `--help` says of the services.
//! Both are made from what the services declare.

use clap::{Arg, ArgMatches, Command};

use crate::builtin::ServiceOptions;
use crate::builtin::url::Defaults;

/// The heading of the flags.
const HEADING: &str = "Defaults of the services' options";

/// The values of the flags that are given.
#[derive(Clone, Debug, Default)]
pub(super) struct OptionFlags(pub(super) Defaults);

impl clap::Args for OptionFlags {
    fn augment_args(command: Command) -> Command {
        command.args(flags().into_iter().map(|flag| {
            Arg::new(flag.name)
                .long(flag.name)
                .value_name(flag.value)
                .help(flag.help())
                .help_heading(HEADING)
                .value_parser(move |text: &str| {
                    let done = Defaults::default().set(flag.name, text.as_bytes(), "");
                    done.map(|()| text.to_owned())
                })
        }))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for OptionFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<OptionFlags, clap::Error> {
        let mut defaults = Defaults::default();
        for Flag { name, .. } in flags() {
            if let Some(text) = matches.get_one::<String>(name) {
                let done = defaults.set(name, text.as_bytes(), &format!("--{name}"));
                done.expect("clap has tried it");
            }
        }
        Ok(OptionFlags(defaults))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = OptionFlags::from_arg_matches(matches)?;
        Ok(())
    }
}

/// A flag, and what it means to each service that has the option.
#[derive(Clone)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) value: &'static str,
    pub(super) meanings: Vec<Meaning>,
}

/// The services that declare an option in the same way.
#[derive(Clone)]
pub(super) struct Meaning {
    pub(super) services: Vec<&'static str>,
    pub(super) help: &'static str,
    pub(super) allowed: String,
    pub(super) default: String,
}

impl Flag {
    /// A line for each meaning.
    fn help(&self) -> String {
        let lines = self.meanings.iter().map(|meaning| {
            let Meaning { services, help, allowed, default } = meaning;
            format!("{}: {help} ({allowed}) [default: {default}]", services.join(", "))
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

/// All flags, in the order in which the services declare them.
pub(super) fn flags() -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    for service in ServiceOptions::all().iter().filter(|service| service.options().has_flags()) {
        for (about, default) in service.options().about() {
            let at = flags.iter().position(|flag| flag.name == about.name).unwrap_or(flags.len());
            if at == flags.len() {
                flags.push(Flag { name: about.name, value: about.value, meanings: Vec::new() });
            }
            let (meanings, allowed) = (&mut flags[at].meanings, about.allowed.to_string());
            let same = meanings.iter_mut().find(|other| {
                (other.help, &other.allowed, &other.default) == (about.help, &allowed, &default)
            });
            match same {
                Some(same) => same.services.push(service.name()),
                None => meanings.push(Meaning {
                    services: vec![service.name()],
                    help: about.help,
                    allowed,
                    default,
                }),
            }
        }
    }
    flags
}

/// A line for each service: what it does, and its options. Options that have no flag have a line
/// each.
pub(super) fn services() -> String {
    let mut text = String::new();
    for service in ServiceOptions::all() {
        text.push_str(&format!("  {:<9}{}", service.name(), service.what()));
        let options = service.options().about();
        if service.options().has_flags() {
            let names: Vec<&str> = options.iter().map(|(about, _)| about.name).collect();
            let mark = if names.is_empty() { "" } else { "; " };
            text.push_str(&format!("{mark}{}\n", names.join(", ")));
            continue;
        }
        text.push_str("; its options have no flags:\n");
        for (about, default) in options {
            let (name, value, allowed, help) = (about.name, about.value, about.allowed, about.help);
            let default = match &default[..] {
                "" => String::new(),
                default => format!(" [default: {default}]"),
            };
            text.push_str(&format!("    {name}={value}\n      {help} ({allowed}){default}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests;
