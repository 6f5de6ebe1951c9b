//! Tests of the flags: the effect of each on the configuration, and each error.

use super::*;
use crate::base::endpoint::Endpoint;
use crate::builtin::url::{After, Defaults, FramedOptions, HubOptions, MessageOptions, Slow};
use crate::protocol::framing::{ByteOrder, Delimiter};

fn parse(flags: &[&str]) -> Result<Cli, Unreadable> {
    Cli::read(["echopool"].iter().chain(flags).map(OsString::from))
}

fn services(flags: &[&str]) -> (Config, Vec<ServiceOptions>) {
    parse(flags).unwrap_or_else(|error| panic!("{error}")).config().unwrap()
}

fn config(flags: &[&str]) -> Config {
    services(flags).0
}

fn error(flags: &[&str]) -> String {
    let error = parse(flags).expect_err("a usage error");
    assert_eq!(error.exit_code(), 2);
    error.to_string()
}

#[test]
fn the_command_is_consistent() {
    Cli::clap().debug_assert();
}

#[test]
fn the_addresses_of_a_name_are_listened_on_together() {
    let config = config(&["--listen", "localhost:0", "--listen", "127.0.0.1:0"]);
    let [of_name, 1] = config.names[..] else { panic!("{:?}", config.names) };
    assert_eq!(of_name + 1, config.endpoints().len());
}

#[test]
fn the_defaults_of_the_flags_are_those_of_the_library() {
    let with_flags = config(&[]);
    let mut library = Config::new().listen("[::]:7777");
    // A program that uses the library has no other process that takes over.
    assert!(!library.is_replaceable);
    library.is_replaceable = true;
    assert_eq!(format!("{with_flags:?}"), format!("{library:?}"));
    let cli = parse(&[]).unwrap();
    assert_eq!((cli.drain_delay, cli.drain_timeout), (Duration::ZERO, Duration::from_secs(10)));
    assert_eq!(cli.upgrade_timeout, Duration::from_secs(30));
    assert_eq!(cli.admin, None);
    assert_eq!((cli.stats_interval, cli.log, cli.until_stdin_closes), (None, None, false));
    assert_eq!(cli.log_limit, Some(1_000));
}

#[test]
fn every_flag_reaches_the_configuration() {
    let text = "--listen 127.0.0.1:1 --listen [::1]:2 --workers 3 --max-connections 10k \
                --max-connections-per-address 12 \
                --buffer-size 4k --buffers 2k --backlog 128 --idle-timeout 1m \
                --send-timeout off --shed-after 500ms --linger 0s --share-port --busy-poll";
    let flags: Vec<_> = text.split_whitespace().collect();
    let address = |text: &str| Endpoint::Tcp(text.parse().unwrap());
    let config = config(&flags);
    assert_eq!(config.endpoints(), [address("127.0.0.1:1"), address("[::1]:2")]);
    assert_eq!((config.workers, config.max_connections), (Some(3), Some(10_000)));
    assert_eq!(config.max_connections_per_address, Some(12));
    assert_eq!((config.buffer_size, config.backlog), (4096, 128));
    assert!(matches!(config.buffers, Buffers::Count(2000)));
    assert_eq!(config.idle_timeout, Some(Duration::from_secs(60)));
    assert_eq!(config.send_timeout, None);
    assert_eq!(config.shed_after, Some(Duration::from_millis(500)));
    assert_eq!((config.linger, config.share_port), (Duration::ZERO, true));
    assert!(config.busy_poll);
}

#[test]
fn memory_takes_the_place_of_buffers() {
    assert!(matches!(config(&["--memory", "64MiB"]).buffers, Buffers::Bytes(0x400_0000)));
    assert!(error(&["--memory", "64m", "--buffers", "9"]).contains("cannot be used with"));
}

#[test]
fn flags_for_the_daemon_itself() {
    let flags = ["--drain-timeout", "3s", "--stats-interval", "1s", "--log", "debug"].as_slice();
    let more = ["--until-stdin-closes", "--drain-delay", "2s", "--admin", "9000"];
    let cli = parse(&[flags, &more].concat()).unwrap();
    assert_eq!(cli.drain_timeout, Duration::from_secs(3));
    assert_eq!(cli.drain_delay, Duration::from_secs(2));
    assert_eq!(cli.stats_interval, Some(Duration::from_secs(1)));
    assert_eq!((cli.log, cli.until_stdin_closes), (Some(LevelFilter::Debug), true));
    assert!(error(&["--stats-interval", "99ms"]).contains("100ms"));
    let shortest = parse(&["--stats-interval", "100ms"]).unwrap().stats_interval;
    assert_eq!(shortest, Some(Duration::from_millis(100)));
    assert!(error(&["--log", "loud"]).contains("debug"), "the levels are named");
}

#[test]
fn names_of_the_admin_address_and_users_are_taken_as_they_are() {
    let flags = ["--admin", "9000", "--admin-host", "a-1.example", "--admin-host", "b_2"];
    assert_eq!(parse(&flags).unwrap().admin_host, ["a-1.example", "b_2"]);
    for wrong in ["", "http://a", "a:80", "a b"] {
        let error = error(&["--admin", "9000", "--admin-host", wrong]);
        assert!(error.contains(&format!("'{wrong}' is not a name")), "{error}");
    }
    let user = |text: &str| parse(&["--user", text]).unwrap().user.unwrap().to_string();
    assert_eq!([user("12:34"), user("56")], ["12:34", "56"]);
    assert!(error(&["--user", ":34"]).contains("':34' has no user"));
}

#[test]
fn the_admin_address_is_of_the_loopback_interface_unless_it_is_named() {
    let admin = |text: &str| {
        let at = parse(&["--admin", text]).unwrap().admin.unwrap();
        at.resolve().unwrap()[0].endpoint.to_string()
    };
    assert_eq!(admin("9000"), "tcp://127.0.0.1:9000");
    assert_eq!(admin(":9000"), "tcp://127.0.0.1:9000");
    assert_eq!(admin("[::1]:0"), "tcp://[::1]:0");
    assert_eq!(admin("0.0.0.0:9000"), "tcp://0.0.0.0:9000");
    assert_eq!(admin("[::]:9000"), "tcp://[::]:9000");
    for wrong in ["unix:/run/admin", "localhost", "http://1.2.3.4:5", "70000"] {
        assert!(error(&["--admin", wrong]).contains("write 9000"), "{wrong}");
    }
}

#[test]
fn the_limit_of_the_log_is_a_count_or_off() {
    let limit = |text| parse(&["--log-limit", text]).map(|cli| cli.log_limit).ok();
    let limits = ["1", "20k", "1m", "off"].map(limit);
    assert_eq!(limits, [Some(Some(1)), Some(Some(20_000)), Some(Some(1_000_000)), Some(None)]);
    assert_eq!(["0", "1000001", "5g", "never"].map(limit), [None; 4]);
}

#[test]
fn the_sample_of_the_log_is_one_in_a_number() {
    let sample = |text| parse(&["--log-sample", text]).map(|cli| cli.log_sample).ok();
    assert_eq!(["1/1", "1/100", "1/1000000"].map(sample), [Some(1), Some(100), Some(1_000_000)]);
    assert_eq!(["0", "1", "100", "2/3", "1/0", "1/1000001", "1/", "1/x"].map(sample), [None; 8]);
    assert_eq!(config(&["--log-sample", "1/7"]).log_sample, 7);
}

#[test]
fn a_number_without_its_unit_is_told_the_remedy() {
    for flag in ["--idle-timeout", "--send-timeout", "--shed-after", "--linger"] {
        let error = error(&[flag, "30"]);
        assert!(error.contains("30s") && error.contains(flag), "{error}");
    }
}

#[test]
fn addresses_may_be_written_in_several_ways() {
    let endpoint = |text: &str| config(&["--listen", text]).endpoints()[0].to_string();
    assert_eq!(endpoint("7777"), "tcp://[::]:7777");
    assert_eq!(endpoint(":7777"), "tcp://[::]:7777");
    assert_eq!(endpoint("tcp://7777"), "tcp://[::]:7777");
    assert_eq!(endpoint("127.0.0.1:0"), "tcp://127.0.0.1:0");
    assert_eq!(endpoint("[::1]:7777"), "tcp://[::1]:7777");
    assert_eq!(endpoint("tcp://[::1]:7777"), "tcp://[::1]:7777");
    assert_eq!(endpoint("unix:///run/e.sock"), "unix:///run/e.sock");
}

#[test]
fn what_is_no_address_is_told_the_forms() {
    for bad in [
        "",
        "70000",
        "-1",
        "localhost",
        "localhost:",
        "::1:7",
        "[::1]",
        "tcp://framed://7",
        "a/b:7",
    ] {
        let error = error(&[&format!("--listen={bad}")]);
        assert!(error.contains("write 7777") && error.contains("--listen"), "{bad}: {error}");
    }
}

#[test]
fn a_listener_that_is_wrong_is_told_what_is_right() {
    for (bad, part) in [
        ("http://host:80", "echo, discard, chargen, framed, message, hub"),
        ("framed://7?after=keep", "framed takes order, max-frame"),
        ("framed://7?order=big&max-frame=9&max-frame=9", "twice"),
    ] {
        let error = error(&["--listen", "1", "--listen", bad]);
        assert!(error.contains(part) && error.contains("--listen"), "{bad}: {error}");
    }
    let error = error(&["--listen", "hub://7", "--max-message", "17k"]);
    assert!(error.contains("16384"), "a flag is checked where it is used: {error}");
    assert!(parse(&["--listen", "7", "--max-message", "17k"]).is_ok());
}

#[test]
fn each_listener_has_its_service() {
    let text = "--listen 127.0.0.1:1 --listen framed://127.0.0.1:2?order=big \
                --listen discard://127.0.0.1:3";
    let (config, services) = services(&text.split_whitespace().collect::<Vec<_>>());
    let names: Vec<_> = services.iter().map(ServiceOptions::name).collect();
    assert_eq!(names, ["echo", "framed", "discard"]);
    let ports = config.listen.iter().map(|at| at.endpoint.socket_addr().unwrap().port());
    assert_eq!(ports.collect::<Vec<_>>(), [1, 2, 3]);
}

#[test]
fn the_flags_are_the_defaults_of_the_options() {
    let text = r"--listen framed://1 --listen framed://2?order=little&max-frame=5 \
                 --listen message://3 --listen message://4?show=5&delimiter=%2E \
                 --listen hub://5 --listen hub://6?queue=9 \
                 --order big --max-frame 4 --delimiter \n --after keep --max-message 100 \
                 --show 7 --queue 8 --slow close --notices off";
    let flags: Vec<_> = text.split_whitespace().filter(|flag| *flag != "\\").collect();
    let (_, services) = services(&flags);
    let framed = FramedOptions { order: ByteOrder::Big, max_frame: 4 };
    let message = MessageOptions {
        delimiter: Delimiter::new(b"\n").unwrap(),
        after: After::Keep,
        max_message: 100,
        show: 7,
    };
    let hub = HubOptions {
        order: ByteOrder::Big,
        max_message: Some(100),
        queue: 8,
        slow: Slow::Close,
        notices: false,
    };
    let other = FramedOptions { order: ByteOrder::Little, max_frame: 5 };
    let full_stop = Delimiter::new(b".").unwrap();
    let expected = [
        ServiceOptions::Framed(framed),
        ServiceOptions::Framed(other),
        ServiceOptions::Message(message),
        ServiceOptions::Message(MessageOptions { show: 5, delimiter: full_stop, ..message }),
        ServiceOptions::Hub(hub),
        ServiceOptions::Hub(HubOptions { queue: 9, ..hub }),
    ];
    assert_eq!(services, expected);
}

#[test]
fn without_flags_the_options_are_those_of_the_grammar() {
    let matches = Cli::clap().try_get_matches_from(["echopool"]).unwrap();
    assert_eq!(options::defaults(&matches, str::to_owned), Defaults::default());
}

#[test]
fn help_names_every_service_and_option() {
    let help = Cli::clap().render_help().to_string();
    for name in ["serve", "connect", "framed", "message", "hub", "chargen", "discard"] {
        assert!(help.contains(name), "{name}");
    }
}

#[test]
fn a_name_stands_for_all_its_addresses_each_with_the_service() {
    let (config, services) = services(&["--listen", "discard://localhost:7"]);
    assert!(!config.listen.is_empty());
    assert_eq!(services, vec![ServiceOptions::Discard; config.listen.len()]);
    for endpoint in &config.endpoints() {
        let address = endpoint.socket_addr().unwrap();
        assert!(address.ip().is_loopback() && address.port() == 7, "{endpoint}");
    }
}

#[test]
fn a_name_that_nobody_has_is_an_error() {
    // RFC 6761 reserves the name: it never resolves.
    let cli = parse(&["--listen", "nobody.invalid:7"]).unwrap();
    let error = cli.config().unwrap_err();
    assert!(error.contains("nobody.invalid"), "{error}");
}

#[test]
fn a_passed_socket_is_named_and_has_a_service() {
    let cli = parse(&["--listen", "framed://fd:web?order=big", "--listen", "fd:echo"]).unwrap();
    assert_eq!(cli.passed_sockets(), ["web", "echo"]);
    assert_eq!(cli.listeners[0].0.name(), "framed");
    let error = cli.config().unwrap_err();
    assert_eq!(
        error,
        "cannot listen on fd:web: no socket was passed (LISTEN_FDS); start the daemon by its socket \
         unit"
    );
    assert!(error_of_listen("fd:").contains("write the name of a socket behind fd:"));
    assert!(error_of_listen("hub+unix://fd:web").contains("without a transport"));
}

fn error_of_listen(listen: &str) -> String {
    error(&["--listen", listen])
}
