//! The flags that set defaults of the services' options, and the text of `--help` about the
//! services. Both are generated from the services' declarations.

use clap::{Arg, ArgMatches};

use crate::builtin::ServiceOptions;
use crate::builtin::option::About;
use crate::builtin::url::Defaults;

/// The heading of the flags.
const HEADING: &str = "Defaults of the services' options";

/// The meaning of an option, for all services that declare it the same way.
pub(super) struct Meaning {
    services: String,
    about: &'static About,
    default: String,
}

impl Meaning {
    fn help(&self) -> String {
        let Meaning { about: About { help, allowed, .. }, default, .. } = self;
        match &default[..] {
            "" => format!("{help} ({allowed})"),
            default => format!("{help} ({allowed}) [default: {default}]"),
        }
    }
}

fn meanings(service: &ServiceOptions) -> impl Iterator<Item = Meaning> {
    service.options().about().iter().map(|about| Meaning {
        services: service.name().to_owned(),
        about,
        default: about.default_text(service.options()),
    })
}

/// All flags, in the order in which the services declare them, each with its meanings. Each flag
/// has at least one.
pub(super) fn flags() -> Vec<Vec<Meaning>> {
    let mut flags: Vec<Vec<Meaning>> = Vec::new();
    let services = ServiceOptions::all();
    let with_flags = services.iter().filter(|service| service.options().has_flags());
    for one in with_flags.flat_map(meanings) {
        match flags.iter_mut().find(|flag| flag[0].about.name == one.about.name) {
            None => flags.push(vec![one]),
            Some(flag) => match flag.iter_mut().find(|other| other.help() == one.help()) {
                None => flag.push(one),
                Some(same) => same.services += &format!(", {}", one.services),
            },
        }
    }
    flags
}

/// The flags.
pub(super) fn args() -> impl Iterator<Item = Arg> {
    flags().into_iter().map(|flag| {
        let About { name, value, .. } = *flag[0].about;
        let line = |one: &Meaning| format!("{}: {}", one.services, one.help());
        let help = flag.iter().map(line).collect::<Vec<_>>().join("\n");
        let tried = move |text: &str| {
            Defaults::default().set(name, text.as_bytes(), "").map(|()| text.to_owned())
        };
        let arg = Arg::new(name).long(name).value_name(value).value_parser(tried);
        arg.help(help).help_heading(HEADING)
    })
}

/// The defaults that the flags of a command line set.
pub(super) fn defaults(matches: &ArgMatches) -> Defaults {
    let mut defaults = Defaults::default();
    for name in flags().iter().map(|flag| flag[0].about.name) {
        if let Some(text) = matches.get_one::<String>(name) {
            let done = defaults.set(name, text.as_bytes(), &format!("--{name}"));
            done.expect("the value parser has accepted it");
        }
    }
    defaults
}

/// One line for each service: what it does, and its options. Options without a flag have lines of
/// their own.
pub(super) fn services() -> String {
    let mut text = String::new();
    for service in &ServiceOptions::all() {
        let (options, what) = (service.options(), service.what());
        let names = options.about().iter().map(|about| about.name).filter(|_| options.has_flags());
        let names = names.collect::<Vec<_>>().join(", ");
        let mark = if names.is_empty() { "" } else { "; " };
        text += &format!("  {:<9}{what}{mark}{names}\n", service.name());
        for one in meanings(service).filter(|_| !options.has_flags()) {
            let About { name, value, .. } = one.about;
            text += &format!("    {name}={value}\n      {}\n", one.help());
        }
    }
    text
}

#[cfg(test)]
mod tests;
