//! Tests that every option of every service can be set in a URL and with a flag, and that `--help`
//! and the documents agree with its declaration.

use std::ffi::OsString;

use super::*;
use crate::builtin::option::{About, Allowed};
use crate::builtin::url::Spec;
use crate::daemon::cli::Cli;
use crate::daemon::cli::tables::{assert_flags_are_documented, rows};

/// Queries that set an option, each to a different value.
fn queries(service: &str, about: &About) -> Vec<String> {
    let values: Vec<String> = match (service, about.name, about.allowed) {
        // A message cannot be shorter than its delimiter.
        ("message", "max-message", Allowed::Size(_, max)) => vec!["16".into(), max.to_string()],
        // A request cannot be longer than `hold`.
        ("delay", "size", Allowed::Size(min, _)) => vec![min.to_string(), "262144".into()],
        (_, _, Allowed::Words(words)) => words.iter().map(|word| word.to_string()).collect(),
        (_, _, Allowed::Size(min, max) | Allowed::Count(min, max)) => {
            vec![min.to_string(), max.to_string()]
        }
        (_, "seed", _) => vec!["0".into(), u64::MAX.to_string()],
        (_, "delimiter", _) => vec![r"\n".into(), r"a\\\x1f%FF&".replace('&', "%26")],
        (_, "fixed" | "exp" | "delay", _) => vec!["1us".into(), "3600s".into()],
        (_, "uniform", _) => vec!["0s-1ms".into(), "5ms-5ms".into()],
        (_, "bimodal", _) => vec!["1ms:90,20ms:1000000".into()],
        (_, "dist", _) => vec!["exp".into()],
        (_, "mean", _) => return vec!["dist=exp&mean=7ms".into(), "mean=1s&dist=exp".into()],
        (_, "stall", _) => vec!["100ms/1s".into()],
        (_, name, _) => panic!("write values for the option {name} of {service} here"),
    };
    values.iter().map(|value| format!("{}={value}", about.name)).collect()
}

/// Each service with each of its options.
fn declared() -> impl Iterator<Item = (ServiceOptions, &'static About, String)> {
    ServiceOptions::all().into_iter().flat_map(|service| {
        let declared = service.options().about().iter();
        declared.map(move |about| (service, about, about.default_text(service.options())))
    })
}

fn listener(flags: &[&str]) -> ServiceOptions {
    let cli = Cli::read(["echopool"].iter().chain(flags).map(OsString::from));
    cli.unwrap_or_else(|error| panic!("{flags:?}: {error}")).listeners[0].0
}

#[test]
fn every_option_is_read_back_from_what_is_written() {
    for (service, about, default) in declared() {
        let name = service.name();
        let plain: Spec = format!("{name}://h:7").parse().unwrap();
        let mut different = 0;
        for query in queries(name, about) {
            let spec: Spec = format!("{name}://h:7?{query}")
                .parse()
                .unwrap_or_else(|error| panic!("{name}, {query}: {error}"));
            assert_eq!(spec.to_string().parse(), Ok(spec.clone()), "{name}, {query}");
            assert_eq!(spec.to_string() == plain.to_string(), spec == plain, "{name}, {query}");
            different += usize::from(spec != plain);
        }
        assert!(different > 0, "{name}: {} changes nothing", about.name);
        if !["", "what"].contains(&default.split(' ').next().unwrap()) && about.name != "mean" {
            let mut service = service;
            assert_eq!(service.set(about.name, default.as_bytes()), Some(Ok(())), "{name}");
            assert_eq!(service, plain.service, "{name}: the default of {}", about.name);
        }
    }
}

#[test]
fn no_option_takes_a_number_out_of_its_range() {
    let mut checked = 0;
    for (service, about, _) in declared() {
        let (min, max) = match about.allowed {
            Allowed::Size(min, max) | Allowed::Count(min, max) => (u64::from(min), u64::from(max)),
            _ => continue,
        };
        for wrong in [min.checked_sub(1), Some(max + 1)].into_iter().flatten() {
            let text = format!("{}://h:7?{}={wrong}", service.name(), about.name);
            let error = text.parse::<Spec>().expect_err(&text).to_string();
            let range = format!("{}: {wrong} must be from {min} to {max}", about.name);
            assert!(error.contains(&range), "{text}: {error}");
            checked += 1;
        }
    }
    assert!(checked >= 12, "{checked}");
}

#[test]
fn every_flag_does_what_the_option_in_a_url_does() {
    let mut checked = 0;
    for (service, about, _) in declared() {
        let (name, flag) = (service.name(), format!("--{}", about.name));
        if !service.options().has_flags() {
            continue;
        }
        for query in queries(name, about).iter().filter(|query| !query.contains('%')) {
            let value = query.split_once('=').unwrap().1;
            let by_flag = listener(&["--listen", &format!("{name}://7"), &flag, value]);
            assert_eq!(by_flag, listener(&["--listen", &format!("{name}://7?{query}")]), "{query}");
            checked += 1;
        }
    }
    assert!(checked >= 20, "{checked}");
}

#[test]
fn options_without_flags_are_not_set_by_the_flags_of_others() {
    let flags = ["--listen", "delay://7", "--queue", "1m"];
    assert_eq!(listener(&flags), listener(&["--listen", "delay://7"]));
}

#[test]
fn a_flag_that_only_some_services_take_is_an_error_for_the_others() {
    let read = |listen| {
        let args = ["echopool", "--listen", listen, "--max-message", "17k"];
        Cli::read(args.map(OsString::from)).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(read("message://7"), Ok(()));
    assert_eq!(read("hub://7?max-message=9"), Ok(()), "the flag is not used");
    let error = read("hub://7").unwrap_err();
    assert!(error.contains("--max-message: 17k must be from 1 to 16384"), "{error}");
}

#[test]
fn help_shows_every_service_and_option_with_range_and_default() {
    let help = Cli::clap().render_help().to_string();
    for service in ServiceOptions::all() {
        assert!(help.contains(&format!("  {:<9}{}", service.name(), service.what())), "{help}");
    }
    for (service, about, default) in declared() {
        let form = match service.options().has_flags() {
            true => format!("--{} <{}>", about.name, about.value),
            false => format!("{}={}", about.name, about.value),
        };
        assert!(help.contains(&form), "{form}");
        let mut text = format!("{} ({})", about.help, about.allowed);
        if !default.is_empty() {
            text += &format!(" [default: {default}]");
        }
        assert!(help.contains(&text), "{form}: {text}");
    }
}

#[test]
fn the_documents_have_every_option_as_it_is_declared() {
    let documents =
        [("services.md", rows("services.md", "option")), ("delay.md", rows("delay.md", "option"))];
    for (service, about, default) in declared() {
        let form = format!("{}={}", about.name, about.value);
        let (document, rows) = &documents[usize::from(service.name() == "delay")];
        let range = about.allowed.to_string();
        let is_it = |row: &&Vec<String>| {
            row[..3] == [&form[..], &default, &range] && row[3].starts_with(about.help)
        };
        assert!(
            rows.iter().any(|row| is_it(&row)),
            "docs/{document} needs, for {}: | `{form}` | {default} | {range} | {} |",
            service.name(),
            about.help
        );
    }
    let count: usize = documents.iter().map(|(_, rows)| rows.len()).sum();
    assert_eq!(count, declared().count(), "a document has a row for an option that is not there");
}

#[test]
fn the_documents_have_every_service() {
    let rows = rows("services.md", "service");
    for service in ServiceOptions::all() {
        let name = format!("[{0}](#{0})", service.name());
        let what = service.what().split(" (RFC").next().unwrap();
        let is_it = |row: &Vec<String>| row[..2] == [&name[..], what];
        assert!(rows.iter().any(is_it), "docs/services.md needs: | {name} | {what} | |");
    }
}

#[test]
fn the_operations_manual_has_every_flag() {
    assert_flags_are_documented(&Cli::clap(), "operations.md");
    let rows = rows("operations.md", "flag");
    for meanings in flags() {
        let cell = |of: &dyn Fn(&Meaning) -> String| match &meanings[..] {
            [one] => of(one),
            several => {
                let parts = several.iter().map(|one| format!("{}: {}", one.owners, of(one)));
                parts.collect::<Vec<_>>().join("; ")
            }
        };
        let About { name, value, .. } = meanings[0].about;
        let uses = meanings.iter().map(|one| format!("{}: {}", one.owners, one.about.help));
        let expected = [
            format!("--{name} {value}"),
            cell(&|one| one.default.clone()),
            cell(&|one| one.about.allowed.to_string()),
            uses.collect::<Vec<_>>().join("; "),
        ];
        let row = expected.join(" | ");
        assert!(rows.contains(&expected.to_vec()), "docs/operations.md needs: | {row} |");
    }
}

/// Each transport with each of its options, or with those only that have flags.
fn of_transports(with_flags: bool) -> Vec<(&'static str, &'static About, String)> {
    let transports = TransportOptions::all();
    let groups = |one: &TransportOptions| {
        let groups = one.options();
        let wanted = groups.iter().filter(|group| group.has_flags() || !with_flags);
        let rows = wanted.flat_map(|&group| meanings(one.name(), group));
        rows.map(|row| (one.name(), row.about, row.default)).collect::<Vec<_>>()
    };
    let of_all = meanings("tcp", &ProxyOptions::default());
    let of_all = of_all.into_iter().map(|row| ("tcp", row.about, row.default));
    transports.iter().flat_map(groups).chain(of_all).collect()
}

#[test]
fn a_flag_of_a_transport_does_what_the_option_in_a_url_does() {
    let spec = |flags: &[&str]| {
        let cli = Cli::read(["echopool"].iter().chain(flags).map(OsString::from)).unwrap();
        cli.config().unwrap().0.listen
    };
    for (transport, about, _) in of_transports(true) {
        // With what it needs beside it.
        let query = match about.name {
            "mode" => "mode=0640",
            "owner" => "owner=root:adm",
            "cert" | "key" => "cert=a.pem,b.pem&key=a.key,b.key",
            "client-ca" | "client-auth" => "client-auth=optional&client-ca=ca.pem",
            "alpn" => "alpn=echo,h2",
            "tls-min" => "tls-min=1.3",
            "max-datagram" => "max-datagram=1k",
            "source-rate" => "source-rate=100/s",
            "segmentation" => "segmentation=off",
            "receive-buffer" => "receive-buffer=64k",
            "proxy" | "proxy-from" => "proxy=require&proxy-from=10.0.0.0/8",
            other => panic!("write a value for the option {other} of {transport} here"),
        };
        assert!(query.contains(about.name));
        let at = if transport.starts_with("unix") { "/run/e.sock" } else { "127.0.0.1:7777" };
        let url = format!("{transport}://{at}");
        let flags: Vec<String> = query.split('&').map(|option| format!("--{option}")).collect();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let by_flag = spec(&[&["--listen", &url, "--listen", "7"], &flags[..]].concat());
        let query = format!("{url}?{query}");
        let by_option = spec(&["--listen", &query, "--listen", "7"]);
        // All transports have the options for proxies, so the flag changes the other listener too.
        let listeners = if about.name.starts_with("proxy") { 1 } else { 2 };
        assert_eq!(by_flag[..listeners], by_option[..listeners], "{query}");
        assert_ne!(by_flag, spec(&["--listen", &url, "--listen", "7"]), "{query}");
    }
}

#[test]
fn the_documents_and_help_have_every_transport_with_its_options() {
    let help = Cli::clap().render_help().to_string();
    for one in TransportOptions::all() {
        assert!(help.contains(&format!("  {:<9}{}", one.name(), one.what())), "{help}");
        let is_it = |row: &Vec<String>| row[0] == one.name();
        assert!(rows("transports.md", "transport").iter().any(is_it), "{}", one.name());
    }
    let rows = rows("transports.md", "option");
    for (transport, about, default) in of_transports(false) {
        let form = format!("{}={}", about.name, about.value);
        let row = [&form[..], &default, &about.allowed.to_string()].join(" | ");
        let is_it =
            |cells: &Vec<String>| cells[..3].join(" | ") == row && cells[3].starts_with(about.help);
        assert!(rows.iter().any(is_it), "{transport} needs: | {row} | {} |", about.help);
    }
    let all = of_transports(false);
    let mut names: Vec<&str> = all.iter().map(|(_, about, _)| about.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(rows.len(), names.len(), "a row for an option that is not there");
}
