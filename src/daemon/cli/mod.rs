//! The daemon's command line: the flags, and the [`Config`] and the services that they make.
//!
//! What a flag may say is checked here as far as its own text goes (units, forms of addresses);
//! ranges and what belongs together are checked by [`Config::check`]. How a service and its options
//! are written is the business of [`spec`](crate::builtin::url).

use std::ffi::OsString;
use std::time::Duration;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::error::ErrorKind;
use clap::{Command, CommandFactory, FromArgMatches};
use log::LevelFilter;

use crate::base::units;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::config::Config;
use crate::error::AddressError;
use crate::net::bind::ListenAddress;

mod options;
#[cfg(test)]
pub(crate) mod tables;
#[cfg(test)]
mod tests;

fn after_help() -> String {
    format!(
        "\
Commands (echopool COMMAND --help tells more):
  serve    what is described here; the default, so that the word may be left out
  connect  a client for people: it sends the lines that are typed and shows what arrives

An address to listen on is [SERVICE://]ADDRESS[?OPTION=VALUE&...]; an address alone is echo:
{}
Counts take k and m (thousands), sizes k, m and g (1024s), times ns, us, ms, s, m and h.

Examples: at most 10,000 clients, on the local machine only, and rates once a second:
  echopool --listen localhost:7777 --max-connections 10k --stats-interval 1s
Three services at once, one of them lines:
  echopool --listen 7777 --listen framed://7778 --listen 'message://7779?delimiter=\\n&after=keep'",
        options::services()
    )
}

/// A time that may be off. An alias, because clap takes a plain `Option` for a flag without default.
type TimeOrOff = Option<Duration>;

/// Sends back every byte that its clients send (RFC 862), and serves frames, messages and more, out
/// of memory that is fixed at start.
#[derive(clap::Parser, Debug)]
#[command(name = "echopool", version, after_help = after_help(), next_line_help = true)]
pub(crate) struct Cli {
    /// 7777 (= [::]:7777, IPv4 too), 127.0.0.1:7777, [::1]:7777, localhost:7777; with a service:
    /// framed://7777?order=big (see below); may be repeated
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:7777")]
    listen: Vec<String>,

    /// What the addresses and the defaults of the options say together.
    #[arg(skip)]
    listeners: Vec<(ServiceOptions, ListenAddress)>,

    /// Worker threads, 1 to 64 [default: the processors there are, 64 at most]
    #[arg(long, value_name = "COUNT", value_parser = count::<usize>)]
    workers: Option<usize>,

    /// Connections at once, others wait [default: what open files allow, 65536 at most]
    #[arg(long, value_name = "COUNT", value_parser = count::<u32>)]
    max_connections: Option<u32>,

    /// Size of a buffer, 256 to 1Mi
    #[arg(long, value_name = "SIZE", default_value = "16Ki", value_parser = size::<usize>)]
    buffer_size: usize,

    /// Buffers, 16777216 at most [default: 1 per connection, 4096 at most, 64 per worker at least]
    #[arg(long, value_name = "COUNT", value_parser = count::<u32>)]
    buffers: Option<u32>,

    /// As many buffers as fit into this much memory
    #[arg(long, value_name = "SIZE", value_parser = units::parse_size, conflicts_with = "buffers")]
    memory: Option<u64>,

    /// Connections that may wait at each listening socket, 1 to 65535
    #[arg(long, value_name = "COUNT", default_value = "4096", value_parser = count::<u32>)]
    backlog: u32,

    /// Close a connection that was silent for this long, 1ms to 8760h, or off
    #[arg(long, value_name = "TIME", default_value = "off", value_parser = units::parse_duration_or_off)]
    idle_timeout: TimeOrOff,

    /// Close a connection whose client takes no output for this long, or off
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = units::parse_duration_or_off)]
    send_timeout: TimeOrOff,

    /// With no buffer free and others waiting this long, close the slowest reader, or off
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = units::parse_duration_or_off)]
    shed_after: TimeOrOff,

    /// Read on this long after closing, so that nothing sent before is lost, 0s to 10m
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = units::parse_duration)]
    linger: Duration,

    /// On SIGTERM or SIGINT give the clients this long to finish
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    pub(crate) drain_timeout: Duration,

    /// Log the rates this often, at least 100ms apart [default: never]
    #[arg(long, value_name = "TIME", value_parser = stats_interval)]
    pub(crate) stats_interval: Option<Duration>,

    /// Let other processes of this user listen on the same port, each taking a share
    #[arg(long)]
    share_port: bool,

    /// Never sleep: each worker takes a whole processor, and no time to wake up
    #[arg(long)]
    busy_poll: bool,

    /// off, error, warn, info, debug, trace [default: RUST_LOG if it is set, else info]
    #[arg(long, value_name = "LEVEL", value_parser = log_level(), hide_possible_values = true)]
    pub(crate) log: Option<LevelFilter>,

    /// End when standard input does: for a parent process that may die.
    #[arg(long, hide = true)]
    pub(crate) until_stdin_closes: bool,
}

impl Cli {
    /// The command, with the flags of the services.
    fn clap() -> Command {
        Cli::command().args(options::args())
    }

    /// Reads the command line. `args` are those of the process, its name included.
    ///
    /// # Errors
    /// A flag or what it says is wrong; or help is asked for.
    pub(crate) fn read(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
        let matches = Cli::clap().try_get_matches_from(args)?;
        let mut cli = Cli::from_arg_matches(&matches)?;
        let defaults = options::defaults(&matches);
        for text in &cli.listen {
            let listener = Spec::parse(text, &defaults)
                .map_err(|error| error.to_string())
                .and_then(|spec| Ok((spec.service, spec.address.parse()?)))
                .map_err(|error| wrong_listener(text, &error))?;
            cli.listeners.push(listener);
        }
        Ok(cli)
    }

    /// The configuration that the flags ask for, and the service of each listener in it. Names are
    /// looked up here: each address of a name is a listener of its own.
    pub(crate) fn config(&self) -> Result<(Config, Vec<ServiceOptions>), AddressError> {
        let mut services = Vec::new();
        let mut config = Config::new()
            .buffer_size(self.buffer_size)
            .backlog(self.backlog)
            .idle_timeout(self.idle_timeout)
            .send_timeout(self.send_timeout)
            .shed_after(self.shed_after)
            .linger(self.linger)
            .share_port(self.share_port)
            .busy_poll(self.busy_poll);
        for (service, at) in &self.listeners {
            for endpoint in at.resolve()? {
                config = config.listen(endpoint);
                services.push(*service);
            }
        }
        config.workers = self.workers;
        config.max_connections = self.max_connections;
        if let Some(count) = self.buffers {
            config = config.buffers(count);
        }
        if let Some(bytes) = self.memory {
            config = config.memory(bytes);
        }
        Ok((config, services))
    }
}

/// A `--listen` that is wrong, as clap reports any other flag.
fn wrong_listener(text: &str, error: &str) -> clap::Error {
    let text = format!("invalid value '{text}' for '--listen <ADDRESS>': {error}");
    Cli::clap().error(ErrorKind::ValueValidation, text)
}

fn count<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(units::parse_count(text)?).map_err(|_| format!("{text} is too large"))
}

fn size<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    T::try_from(units::parse_size(text)?).map_err(|_| format!("{text} is too large"))
}

fn stats_interval(text: &str) -> Result<Duration, String> {
    match units::parse_duration(text)? {
        interval if interval < Duration::from_millis(100) => Err("the least is 100ms".to_owned()),
        interval => Ok(interval),
    }
}

fn log_level() -> impl TypedValueParser<Value = LevelFilter> {
    PossibleValuesParser::new(["off", "error", "warn", "info", "debug", "trace"])
        .map(|text| text.parse().expect("one of the levels"))
}
