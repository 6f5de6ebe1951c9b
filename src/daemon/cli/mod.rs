//! The daemon's command line: the flags, and the [`Config`] and services that they produce. The
//! flags are also the settings of the environment and the configuration file: see
//! `settings`.
//!
//! This module checks the text of each flag (units, forms of addresses). [`Config::check`] checks
//! the ranges, and which values can be combined. [`url`](crate::builtin::url) parses a service with
//! its options. The flags for these options, in `options`, are generated from the services'
//! declarations.

#[cfg(test)]
use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{ArgAction, ArgMatches, Command, CommandFactory, FromArgMatches};
use log::LevelFilter;

use crate::daemon::log_format::LogFormat;

use super::ending::EndTimes;
use super::inherited;
#[cfg(test)]
use super::settings::Sources;
use super::settings::{Origin, Setting, Settings, Unreadable};
use crate::admin::Admin;
use crate::base::units::{self, parse_duration_or_off};
use crate::builtin::url::{ServiceOptions, Spec};
use crate::config::{Buffers, Config, LOG_SAMPLE_MAX};
use crate::net::bind::{self, ListenAddress, ListenOn};
use crate::net::proxy::ProxyOptions;
use crate::net::transport::{Owner, TransportOptions, UnixOptions};

mod options;
#[cfg(test)]
pub(crate) mod tables;
#[cfg(test)]
mod tests;

fn after_help() -> String {
    format!(
        "\
Commands (see also echopool COMMAND --help):
  serve    the server that is described here; the default command
  connect  an interactive client: sends the lines that you type, shows what arrives
  ctl      shows and changes what a running daemon does, through its --admin
  cert     makes a self-signed certificate and its key, for trying TLS

An address to listen on is [SERVICE[+TRANSPORT]://]ADDRESS[?OPTION=VALUE&...]; an address alone, \
or after TRANSPORT://, is echo:
{}
Transports:
{}
Counts take k and m (thousands), sizes k, m and g (1024s), times ns, us, ms, s, m and h.

Examples: at most 10,000 clients, on this machine only, with rates once per second:
  echopool --listen localhost:7777 --max-connections 10k --stats-interval 1s
Three services at once, one of them lines:
  echopool --listen 7777 --listen framed://7778 --listen 'message://7779?delimiter=\\n&after=keep'",
        options::services(),
        options::transports()
    )
}

/// A time that may be off. An alias, because clap treats a field of type `Option` as a flag without
/// a default.
type TimeOrOff = Option<Duration>;

/// A count that may be off.
type CountOrOff = Option<u32>;

/// Sends back every byte that its clients send (RFC 862), and serves frames, messages and more,
/// from memory that is allocated at start.
#[derive(clap::Parser, Debug)]
#[command(name = "echopool", version, after_help = after_help(), next_line_help = true)]
pub(crate) struct Cli {
    /// 7777 (= [::]:7777, IPv4 too), 127.0.0.1:7777, [::1]:7777, localhost:7777, fd:NAME (a socket of
    /// systemd); with a service: framed://7777?order=big (see below); may be repeated
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:7777")]
    listen: Vec<String>,

    /// The parsed addresses, with the services and their options.
    #[arg(skip)]
    listeners: Vec<(ServiceOptions, Where)>,

    /// Worker threads, 1 to 64 [default: number of processors, at most 64]
    #[arg(long, value_name = "COUNT", value_parser = count::<usize>)]
    workers: Option<usize>,

    /// Open connections; further clients wait, 1 to 16773120 [default: what the hard limit of open
    /// files allows, at most 65536]
    #[arg(long, value_name = "COUNT", value_parser = count::<u32>)]
    max_connections: Option<u32>,

    /// Open connections of one client address (IPv6: of one /64); further ones are reset, 1 to
    /// 16773120 [default: no limit]
    #[arg(long, value_name = "COUNT", value_parser = count::<u32>)]
    max_connections_per_address: Option<u32>,

    /// Bytes per buffer, 256 to 1Mi
    #[arg(long, value_name = "SIZE", default_value = "16Ki", value_parser = size::<usize>)]
    buffer_size: usize,

    /// Buffers, 1 per worker to 16777216 [default: 1 per connection, at most 4096, at least 64 per
    /// worker]
    #[arg(long, value_name = "COUNT", value_parser = count::<u32>)]
    buffers: Option<u32>,

    /// As many buffers as fit into this many bytes
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, conflicts_with = "buffers")]
    memory: Option<u64>,

    /// Connections that may wait at each listening socket, 1 to 65535
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = count::<u32>)]
    backlog: u32,

    /// Close a connection that has neither received nor sent anything for this long, 1ms to 8760h,
    /// or off
    #[arg(long, value_name = "TIME", default_value = "off", value_parser = parse_duration_or_off)]
    idle_timeout: TimeOrOff,

    /// Close a connection whose client reads no output for this long, 1ms to 8760h, or off
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration_or_off)]
    send_timeout: TimeOrOff,

    /// When clients have waited for a buffer for this long, close the slowest reader, 1ms to 8760h,
    /// or off
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = parse_duration_or_off)]
    shed_after: TimeOrOff,

    /// Continue to read from a closed connection for this long, so that no sent data is lost, 0s to
    /// 10m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::parse_duration)]
    linger: Duration,

    /// Close a connection whose TLS handshake, or whose PROXY header, takes longer than this, 1ms
    /// to 8760h
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    handshake_timeout: Duration,

    /// Time for clients to finish after SIGTERM or SIGINT
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    pub(crate) drain_timeout: Duration,

    /// Fail /readyz for this long after SIGTERM or SIGINT before the drain begins, so that a load
    /// balancer sends no further clients
    #[arg(long, value_name = "TIME", default_value = "0s", value_parser = units::parse_duration)]
    pub(crate) drain_delay: Duration,

    /// Time for a new process to become ready in an upgrade (SIGUSR2); after that, the running
    /// process continues, 100ms to 1m
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = upgrade_timeout)]
    pub(crate) upgrade_timeout: Duration,

    /// Serve metrics, health, clients and control over HTTP, and a page at /: 9000 (= 127.0.0.1:9000),
    /// [::1]:9000, unix:///run/echopool/admin; name any other address in full: 0.0.0.0:9000 [default:
    /// off]
    #[arg(long, value_name = "ADDRESS", value_parser = admin_address)]
    pub(crate) admin: Option<ListenAddress>,

    /// Allow changes through --admin to clients that send the token in the first line of this file:
    /// 16 to 512 printable ASCII characters [default: nothing can be changed]
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_token_file: Option<PathBuf>,

    /// A name by which --admin may be called, besides localhost and IP addresses; may be repeated
    #[arg(long, value_name = "NAME", value_parser = host_name)]
    pub(crate) admin_host: Vec<String>,

    /// Become this user once everything is open that only root may open, such as ports below 1024:
    /// USER, USER:GROUP, or numbers [default: the user stays]
    #[arg(long, value_name = "USER[:GROUP]", value_parser = user)]
    pub(crate) user: Option<Owner>,

    /// Give up all files and system calls that the daemon does not need (Landlock, seccomp); an
    /// upgrade does not end this
    #[arg(long, value_name = "WHETHER", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true")]
    pub(crate) sandbox: bool,

    /// Log the rates at this interval, at least 100ms [default: never]
    #[arg(long, value_name = "TIME", value_parser = stats_interval)]
    pub(crate) stats_interval: Option<Duration>,

    /// Let other processes of this user listen on the same port; each gets a share of the clients
    #[arg(long, value_name = "WHETHER", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true")]
    share_port: bool,

    /// Never sleep, to avoid wake-up latency; each worker uses a whole processor
    #[arg(long, value_name = "WHETHER", action = ArgAction::Set, num_args = 0..=1)]
    #[arg(require_equals = true, default_value = "false", default_missing_value = "true")]
    busy_poll: bool,

    /// off, error, warn, info, debug, trace [default: RUST_LOG if it is set, else info]
    #[arg(long, value_name = "LEVEL", value_parser = log_level(), hide_possible_values = true)]
    pub(crate) log: Option<LevelFilter>,

    /// Format of a log line: text, json (an object), or journal (for systemd)
    #[arg(long, value_name = "FORMAT", default_value = "text", hide_possible_values = true)]
    pub(crate) log_format: LogFormat,

    /// Log lines per second and level that clients may cause; the others are counted. 1 to 1m, or
    /// off
    #[arg(long, value_name = "COUNT", default_value = "1000", value_parser = count_or_off)]
    pub(crate) log_limit: CountOrOff,

    /// Log the start and the end of only one connection in N, at level debug: 1/100, 1/1 to
    /// 1/1000000
    #[arg(long, value_name = "1/N", default_value = "1/1", value_parser = sample)]
    log_sample: u32,

    /// Read the settings that are not given as flags or in the environment (ECHOPOOL_WORKERS=2) from
    /// this TOML file; its keys are the names of the flags [default: no file]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,

    /// Check all settings, print each with its origin, print the memory sum, and exit
    #[arg(long)]
    pub(crate) check: bool,

    /// Stop when standard input ends: for a parent process that may die.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,

    /// Every setting with where it comes from.
    #[arg(skip)]
    pub(crate) settings: Settings,
}

impl Cli {
    /// The command, with the flags of the services.
    pub(super) fn clap() -> Command {
        Cli::command().args(options::args())
    }

    /// Reads a command line without an environment. `args` are the arguments of the process,
    /// including its name.
    #[cfg(test)]
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, Unreadable> {
        Sources::new(args, []).read()
    }

    /// Forgets the path of the configuration file.
    #[cfg(test)]
    pub(crate) fn without_config(&mut self) {
        self.config = None;
    }

    /// Parses the listeners. `matches` has the value of each of `settings`.
    ///
    /// # Errors
    /// A listener is wrong.
    pub(super) fn of(matches: &ArgMatches, settings: Settings) -> Result<Cli, Unreadable> {
        let mut cli = Cli::from_arg_matches(matches)?;
        let defaults = options::defaults(matches, |name| {
            settings.get(name).map_or_else(|| format!("--{name}"), Setting::cited)
        });
        let values = settings.get("listen").map_or(&[][..], |listen| &listen.values);
        for value in values {
            let listener = Spec::parse(&value.text, &defaults)
                .map_err(|error| error.to_string())
                .and_then(|spec| {
                    let at = Where::parse(spec.transport, spec.proxy, &spec.address)?;
                    Ok((spec.service, at))
                })
                .map_err(|error| wrong_listener(&value.text, &value.origin, &error))?;
            cli.listeners.push(listener);
        }
        cli.settings = settings;
        Ok(cli)
    }

    /// Returns the configuration from the flags, and the service of each of its listeners. Resolves
    /// names; each address of a name becomes a listener.
    ///
    /// # Errors
    /// A name cannot be resolved, or a service manager has passed no socket of a name.
    pub(crate) fn config(&self) -> Result<(Config, Vec<ServiceOptions>), String> {
        let endpoints = |(_, at): &(ServiceOptions, Where)| match at {
            Where::Address(at) => at.resolve().map_err(|error| error.to_string()),
            Where::Passed(name, transport, proxy) => {
                Ok(passed_on(inherited::sockets(name)?, transport, proxy))
            }
        };
        let mut all: Vec<Vec<ListenOn>> =
            self.listeners.iter().map(endpoints).collect::<Result<_, _>>()?;
        for (_, endpoint) in bind::leave_out_ipv6_wildcards(&mut all) {
            bind::log_left_out(endpoint);
        }
        let mut services = Vec::new();
        let mut config = Config::new();
        for ((service, _), endpoints) in self.listeners.iter().zip(all) {
            services.extend(endpoints.iter().map(|_| *service));
            config = config.listen(endpoints);
        }
        Ok((self.apply(config), services))
    }

    /// The listeners, each with its service. A name is one of them.
    pub(super) fn listeners(&self) -> &[(ServiceOptions, Where)] {
        &self.listeners
    }

    /// Whether a setting is a default of the options of services and transports.
    pub(super) fn is_of_options(name: &str) -> bool {
        options::args().any(|arg| arg.get_long() == Some(name))
    }

    /// Whether a reload can change the listeners: the flags and the environment stay as they are.
    fn listeners_can_change(&self) -> bool {
        let listen = self.settings.get("listen");
        let is_fixed = |origin| matches!(origin, &Origin::Flag | &Origin::Environment);
        self.settings.has_file && !listen.is_some_and(|listen| is_fixed(listen.origin()))
    }

    /// The service of each listener, whatever its name resolves to.
    pub(crate) fn services(&self) -> Vec<ServiceOptions> {
        self.listeners.iter().map(|(service, _)| *service).collect()
    }

    /// The names of the passed sockets that are listened on.
    pub(super) fn passed_sockets(&self) -> Vec<&str> {
        let names = self.listeners.iter().filter_map(|(_, at)| match at {
            Where::Passed(name, ..) => Some(&name[..]),
            Where::Address(_) => None,
        });
        names.collect()
    }

    /// The times of a drain and of an upgrade.
    pub(super) fn end_times(&self) -> EndTimes {
        let (delay, timeout) = (self.drain_delay, self.drain_timeout);
        EndTimes { delay, timeout, upgrade: self.upgrade_timeout }
    }

    /// Sets all of a configuration but its addresses.
    pub(crate) fn apply(&self, config: Config) -> Config {
        let mut config = config
            .max_connections_per_address(self.max_connections_per_address)
            .buffer_size(self.buffer_size)
            .backlog(self.backlog)
            .idle_timeout(self.idle_timeout)
            .send_timeout(self.send_timeout)
            .shed_after(self.shed_after)
            .linger(self.linger)
            .handshake_timeout(self.handshake_timeout)
            .log_sample(self.log_sample)
            .share_port(self.share_port)
            .busy_poll(self.busy_poll)
            .reserve_files(self.admin.as_ref().map_or(0, |_| Admin::FILES));
        config.is_replaceable = true;
        config.gains_listeners = self.listeners_can_change();
        config.workers = self.workers;
        config.max_connections = self.max_connections;
        config.buffers = Buffers::Derived;
        if let Some(count) = self.buffers {
            config = config.buffers(count);
        }
        if let Some(bytes) = self.memory {
            config = config.memory(bytes);
        }
        config
    }
}

/// Where to listen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Where {
    /// At an address.
    Address(ListenAddress),
    /// At the sockets of this name that a service manager passes.
    Passed(String, TransportOptions, ProxyOptions),
}

impl Where {
    fn parse(
        transport: TransportOptions,
        proxy: ProxyOptions,
        text: &str,
    ) -> Result<Where, String> {
        match text.strip_prefix("fd:") {
            Some("") => Err("write the name of a socket behind fd:".to_owned()),
            Some(_) if transport.is_unix() => {
                Err("write fd:NAME without a transport: the socket has one".to_owned())
            }
            Some(name) => Ok(Where::Passed(name.to_owned(), transport, proxy)),
            None => ListenAddress::parse(transport, proxy, text).map(Where::Address),
        }
    }
}

/// Passed sockets with what the URL says beside their name. The socket itself says whether it is of
/// TCP or Unix.
fn passed_on(
    mut sockets: Vec<ListenOn>,
    transport: &TransportOptions,
    proxy: &ProxyOptions,
) -> Vec<ListenOn> {
    for on in &mut sockets {
        on.proxy = proxy.clone();
        if let TransportOptions::Tls(tls) = transport {
            on.transport = match on.transport {
                TransportOptions::Unix(_) => {
                    TransportOptions::UnixTls(Default::default(), tls.clone())
                }
                _ => transport.clone(),
            };
        }
    }
    sockets
}

/// The error for a wrong listener; for that of a flag, in the form of clap's errors.
fn wrong_listener(text: &str, origin: &Origin, error: &str) -> Unreadable {
    if matches!(origin, Origin::File { .. } | Origin::Environment) {
        let at = origin.names("listen");
        return Unreadable::wrong(format_args!("{at}: '{text}': {error}"));
    }
    let text = format!("invalid value '{text}' for '--listen <ADDRESS>': {error}");
    Cli::clap().error(ErrorKind::ValueValidation, text).into()
}

fn count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(units::parse_count(text)?).map_err(|_| format!("{text} is too large"))
}

fn size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(units::parse_size(text)?).map_err(|_| format!("{text} is too large"))
}

/// The address of `--admin`. A port alone is one of the loopback interface, because whoever can reach
/// the address can read it.
fn admin_address(text: &str) -> Result<ListenAddress, String> {
    let port = text.strip_prefix(':').unwrap_or(text);
    let plain =
        |text: &str| ListenAddress::parse(TransportOptions::Tcp, ProxyOptions::default(), text);
    let forms =
        "write 9000 (= 127.0.0.1:9000), [::1]:9000, localhost:9000 or unix:///run/echopool/admin";
    if let Some(path) = text.strip_prefix("unix://") {
        let unix = TransportOptions::Unix(UnixOptions::default());
        return ListenAddress::parse(unix, ProxyOptions::default(), path);
    }
    if let Ok(port) = port.parse::<u16>() {
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        return plain(&loopback.to_string());
    }
    let address = text.strip_prefix("tcp://").unwrap_or(text);
    plain(address).map_err(|_| format!("'{text}' is not a TCP address; {forms}"))
}

/// A name of `--admin-host`.
fn host_name(text: &str) -> Result<String, String> {
    let is_of_name = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    match !text.is_empty() && text.bytes().all(is_of_name) {
        true => Ok(text.to_owned()),
        false => Err(format!(
            "'{text}' is not a name; write it without scheme and port: metrics.example"
        )),
    }
}

/// The user of `--user`.
fn user(text: &str) -> Result<Owner, String> {
    let owner = Owner::new(text)?;
    match owner.user() {
        Some(_) => Ok(owner),
        None => Err(format!("'{text}' has no user; write USER or USER:GROUP")),
    }
}

/// The largest `--log-limit`.
const LOG_LIMIT_MAX: u32 = 1_000_000;

fn count_or_off(text: &str) -> Result<Option<u32>, String> {
    if text == "off" {
        return Ok(None);
    }
    match count(text)? {
        lines @ 1..=LOG_LIMIT_MAX => Ok(Some(lines)),
        _ => Err(format!("must be from 1 to {LOG_LIMIT_MAX}, or off")),
    }
}

fn sample(text: &str) -> Result<u32, String> {
    let one_in = text.strip_prefix("1/").and_then(|number| number.parse().ok());
    let one_in = one_in.filter(|one_in| (1..=LOG_SAMPLE_MAX).contains(one_in));
    one_in.ok_or_else(|| format!("write one in how many: 1/100; 1/1 to 1/{LOG_SAMPLE_MAX}"))
}

fn stats_interval(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        interval if interval < Duration::from_millis(100) => {
            Err("must be at least 100ms".to_owned())
        }
        interval => Ok(interval),
    }
}

/// The longest `--upgrade-timeout`: as long as a request at the admin address can take.
pub(super) const UPGRADE_TIMEOUT_MAX: Duration = Duration::from_secs(60);

fn upgrade_timeout(text: &str) -> Result<Duration, String> {
    let time = units::parse_duration(text)?;
    let allowed = Duration::from_millis(100)..=UPGRADE_TIMEOUT_MAX;
    allowed.contains(&time).then_some(time).ok_or_else(|| "must be from 100ms to 1m".to_owned())
}

fn log_level() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|text| text.parse().expect("one of the levels"))
}
