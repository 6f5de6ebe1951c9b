//! The flags that set defaults of the options of services and transports, and the text of `--help`
//! about these. Both are generated from their declarations.

use clap::{Arg, ArgMatches};

use crate::builtin::ServiceOptions;
use crate::builtin::option::{About, Options};
use crate::builtin::url::Defaults;
use crate::net::proxy::ProxyOptions;
use crate::net::transport::TransportOptions;

/// The heading of the flags.
const HEADING: &str = "Defaults of the options of services and transports";

/// The meaning of an option, for all services and transports that declare it the same way.
pub(super) struct Meaning {
    owners: String,
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

fn meanings(name: &str, options: &dyn Options) -> Vec<Meaning> {
    let meaning = |about: &'static About| Meaning {
        owners: name.to_owned(),
        about,
        default: about.default_text(options),
    };
    options.about().iter().map(meaning).collect()
}

/// All flags, in the order in which the services and the transports declare them, each with its
/// meanings. Each flag has at least one.
pub(super) fn flags() -> Vec<Vec<Meaning>> {
    let mut flags: Vec<Vec<Meaning>> = Vec::new();
    let services = ServiceOptions::all();
    let with_flags = services.iter().filter(|service| service.options().has_flags());
    let of_services = with_flags.flat_map(|one| meanings(one.name(), one.options()));
    let transports = TransportOptions::all();
    let groups = transports.iter().map(|one| (one.name(), one.options()));
    let of_transports = groups.flat_map(|(name, groups)| {
        let with_flags = groups.into_iter().filter(|group| group.has_flags());
        with_flags.flat_map(move |one| meanings(name, one))
    });
    let streams = transports.iter().filter(|one| !one.is_datagram());
    let streams = streams.map(TransportOptions::name).collect::<Vec<_>>().join(", ");
    let of_streams = meanings(&streams, &ProxyOptions::default());
    for one in of_services.chain(of_transports).chain(of_streams) {
        match flags.iter_mut().find(|flag| flag[0].about.name == one.about.name) {
            None => flags.push(vec![one]),
            Some(flag) => match flag.iter_mut().find(|other| other.help() == one.help()) {
                None => flag.push(one),
                Some(same) => same.owners += &format!(", {}", one.owners),
            },
        }
    }
    flags
}

/// The flags.
pub(super) fn args() -> impl Iterator<Item = Arg> {
    flags().into_iter().map(|flag| {
        let About { name, value, .. } = *flag[0].about;
        let line = |one: &Meaning| format!("{}: {}", one.owners, one.help());
        let help = flag.iter().map(line).collect::<Vec<_>>().join("\n");
        let tried = move |text: &str| {
            Defaults::default().set(name, text.as_bytes(), "").map(|()| text.to_owned())
        };
        let arg = Arg::new(name).long(name).value_name(value).value_parser(tried);
        arg.help(help).help_heading(HEADING)
    })
}

/// The defaults that the flags of a command line set. `source` names a flag in an error of a listener
/// that cannot take its value.
pub(super) fn defaults(matches: &ArgMatches, source: impl Fn(&str) -> String) -> Defaults {
    let mut defaults = Defaults::default();
    for name in flags().iter().map(|flag| flag[0].about.name) {
        if let Some(text) = matches.get_one::<String>(name) {
            let done = defaults.set(name, text.as_bytes(), &source(name));
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
        let without_flags = || meanings(service.name(), options);
        for one in (!options.has_flags()).then(without_flags).into_iter().flatten() {
            let About { name, value, .. } = one.about;
            text += &format!("    {name}={value}\n      {}\n", one.help());
        }
    }
    text
}

/// One line for each transport: what it is, and its options. Then the options that all with streams
/// take.
pub(super) fn transports() -> String {
    let line = |one: &TransportOptions| {
        let names = one.option_names().join(", ");
        let mark = if names.is_empty() { "" } else { "; " };
        format!("  {:<9}{}{mark}{names}\n", one.name(), one.what())
    };
    let of_streams: Vec<&str> =
        ProxyOptions::default().about().iter().map(|about| about.name).collect();
    let lines: String = TransportOptions::all().iter().map(line).collect();
    lines + &format!("  {:<9}{}\n", "not udp", of_streams.join(", "))
}

#[cfg(test)]
mod tests;
