//! What starting the daemon returns when it cannot start.

use super::*;
use crate::config::Config;
use crate::error::SettingError;

// These cases end while the command line is parsed. Later steps would set a logger and catch signals
// for the whole test process.
fn code(flags: &[&str]) -> String {
    format!("{:?}", run(["echopool"].iter().chain(flags).map(OsString::from)))
}

fn expected(code: u8) -> String {
    format!("{:?}", ExitCode::from(code))
}

#[test]
fn a_command_line_that_cannot_be_read_is_2_and_help_is_0() {
    assert_eq!(code(&["--no-such-flag"]), expected(2));
    assert_eq!(code(&["--linger", "3"]), expected(2));
    assert_eq!(code(&["--help"]), expected(0));
    assert_eq!(code(&["--version"]), expected(0));
}

#[test]
fn a_command_line_that_is_wrong_on_every_machine_is_2_and_other_failures_are_1() {
    let endpoint = || Endpoint::Tcp("127.0.0.1:7".parse().unwrap());
    let code = |error: StartError| Failure::of_start(&error, &Settings::default()).code;
    let wrong = Config::new().listen(endpoint()).workers(65).check().unwrap_err();
    assert_eq!(code(wrong), 2);
    let wrong = Config::new().listen(endpoint()).idle_timeout(Some(Duration::ZERO));
    assert_eq!(code(wrong.check().unwrap_err()), 2);
    assert_eq!(code(StartError::NothingToListenOn), 2);
    assert_eq!(code(StartError::ListenedTwice(endpoint())), 2);
    assert_eq!(code(StartError::NoFile(endpoint())), 2);
    let service = SettingError::new("buffers", 1, "too few");
    assert_eq!(code(StartError::Service(service)), 2);
    assert_eq!(code(StartError::AddressInUse(endpoint())), 1);
    let what = "buffers";
    assert_eq!(code(StartError::Resource { what, error: io::Error::other("none") }), 1);
}

#[test]
fn fields_of_the_library_are_shown_as_flags() {
    let config = Config::new().listen("127.0.0.1:7").max_connections(9).buffers(64);
    let wrong = config.clone().workers(65).check().unwrap_err();
    assert_eq!(wrong.to_string(), "`workers` is 65, but must be from 1 to 64");
    assert_eq!(
        Failure::of_start(&wrong, &Settings::default()).text,
        "--workers is 65, but must be from 1 to 64"
    );
    let wrong = config.clone().idle_timeout(Some(Duration::ZERO)).check().unwrap_err();
    assert!(
        Failure::of_start(&wrong, &Settings::default())
            .text
            .starts_with("--idle-timeout is 0ns, but")
    );
    let framed = "framed://7".parse::<Spec>().unwrap().service;
    let error = OfListener::new(vec![framed]).start(config).map(drop).unwrap_err();
    let StartError::Service(setting) = &error else { panic!("{error}") };
    assert_eq!((setting.field(), setting.value()), ("max_frame", "1048576"));
    let text = Failure::of_start(&error, &Settings::default()).text;
    assert!(text.contains("give --buffers 132 or --memory 2162688, or a smaller --max-frame"));
}

#[test]
fn ready_lines_name_each_endpoint_and_its_service() {
    let endpoints = ["[::]:7777", "127.0.0.1:80", "127.0.0.1:81"]
        .map(|address| Endpoint::Tcp(address.parse().unwrap()));
    let unix = Endpoint::Unix("@e".parse().unwrap());
    let on =
        ["7", "framed://80?order=big", "discard://7?proxy=require", "discard+unix://@e?mode=600"]
            .map(|text| text.parse::<Spec>().unwrap())
            .map(|spec| {
                let mut on = ListenOn::from(unix);
                (on.transport, on.proxy) = (spec.transport, spec.proxy);
                (spec.service, on)
            });
    let mut out = Vec::new();
    let endpoints = [&endpoints[..], &[unix]].concat();
    let admin = ["127.0.0.1:9000".parse::<std::net::SocketAddr>().unwrap().into()];
    say_ready(&targets(&endpoints, on.into_iter()), &admin, &mut out);
    let expected = "echopool listening on tcp://[::]:7777\n\
                    echopool listening on framed://127.0.0.1:80?order=big\n\
                    echopool listening on discard://127.0.0.1:81?proxy=require\n\
                    echopool listening on discard+unix://@e?mode=0600\n\
                    echopool admin on http://127.0.0.1:9000\n";
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn a_closed_standard_output_is_survived() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let endpoint = Endpoint::Tcp("[::]:1".parse().unwrap());
    let on = [(ServiceOptions::Echo, ListenOn::from(endpoint))].into_iter();
    say_ready(&targets(&[endpoint], on), &[], &mut Closed);
}

#[test]
fn the_documented_settings_of_a_reload_are_those_that_can_change() {
    let rows = cli::tables::rows("operations.md", "reloaded setting");
    let documented: Vec<&str> = rows.iter().flat_map(|row| row[0].split(", ")).collect();
    assert_eq!(documented, reload::CHANGEABLE);
    let known = Cli::clap();
    for name in documented {
        assert!(known.get_arguments().any(|flag| flag.get_long() == Some(name)), "{name}");
    }
}

#[test]
fn nobody_is_served_before_rights_are_given_up() {
    let stopped = |flags: &[&str]| {
        let flags = ["echopool"].iter().chain(flags).map(OsString::from);
        starts_stopped(&Cli::read(flags).unwrap(), None)
    };
    assert!(!stopped(&[]));
    assert!(stopped(&["--user", "nobody"]) && stopped(&["--sandbox"]));
    assert!(stopped(&["--user", "nobody", "--sandbox"]));
}
