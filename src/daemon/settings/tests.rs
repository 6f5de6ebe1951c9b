//! Tests of the settings: the same effect from each source, which source wins, and each error.

use std::fs;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::Config;
use crate::builtin::{Echo, OfListener};
use crate::daemon::failure::Failure;
use crate::server::Server;

/// A file in the folder for temporary files, which this removes.
pub(crate) struct TempFile(pub(crate) PathBuf);

impl TempFile {
    pub(crate) fn new(contents: impl AsRef<[u8]>) -> TempFile {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-settings-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, contents).expect("writing a configuration file");
        TempFile(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn sources(flags: &[&str], variables: &[(&str, &str)]) -> Sources {
    let args = ["echopool"].iter().chain(flags).map(OsString::from);
    let variable = |(name, value): &(&str, &str)| (OsString::from(name), OsString::from(value));
    Sources::new(args, variables.iter().map(variable))
}

fn read(flags: &[&str], variables: &[(&str, &str)]) -> Cli {
    sources(flags, variables).read().unwrap_or_else(|error| panic!("{error}"))
}

fn read_file(contents: &str, flags: &[&str]) -> Cli {
    let file = TempFile::new(contents);
    read(&[&["--config", file.path()], flags].concat(), &[])
}

/// All that a command line has an effect on.
fn effect(mut cli: Cli) -> String {
    cli.settings = Settings::default();
    cli.without_config();
    format!("{cli:?}")
}

/// A value of each setting that is not its default. A new flag needs one here.
fn sample(name: &str) -> &'static str {
    match name {
        "listen" => "framed://7801?order=big",
        "workers" => "3",
        "max-connections" => "10k",
        "max-connections-per-address" => "12",
        "buffer-size" => "4Ki",
        "buffers" => "2048",
        "memory" => "64MiB",
        "backlog" => "128",
        "idle-timeout" => "1m",
        "send-timeout" => "off",
        "shed-after" => "500ms",
        "linger" => "0s",
        "handshake-timeout" => "5s",
        "drain-timeout" => "3s",
        "drain-delay" => "2s",
        "upgrade-timeout" => "5s",
        "admin" => "127.0.0.1:9000",
        "admin-token-file" => "/run/echopool/token",
        "admin-host" => "metrics.example",
        "stats-interval" => "1s",
        "share-port" | "busy-poll" | "sandbox" => "true",
        "user" => "nobody:adm",
        "log" => "debug",
        "log-format" => "json",
        "log-limit" => "20k",
        "log-sample" => "1/100",
        "order" => "big",
        "max-frame" => "64k",
        "delimiter" => r"\n",
        "after" => "keep",
        "max-message" => "100",
        "show" => "0",
        "queue" => "128k",
        "slow" => "close",
        "notices" => "off",
        "mode" => "0640",
        "owner" => "root:adm",
        "proxy" => "require",
        "proxy-from" => "10.0.0.0/8",
        "cert" => "a.pem,b.pem",
        "key" => "a.key,b.key",
        "client-ca" => "ca.pem",
        "client-auth" => "optional",
        "alpn" => "echo",
        "tls-min" => "1.3",
        "max-datagram" => "1k",
        "source-rate" => "100/s",
        "segmentation" => "off",
        "receive-buffer" => "64k",
        other => panic!("write a value for the setting {other} here"),
    }
}

#[test]
fn each_setting_has_the_same_effect_as_a_flag_in_the_environment_and_in_the_file() {
    let listeners = [
        "echo://1",
        "framed://2",
        "message://3",
        "hub://4",
        "unix:///run/e.sock",
        "tls://5",
        "udp://6",
    ];
    let listen: Vec<&str> = listeners.iter().flat_map(|at| ["--listen", *at]).collect();
    let command = Cli::clap();
    let mut count = 0;
    for (name, arg) in args(&command) {
        let (value, variable) = (sample(name), variable(name));
        let others = if name == "listen" { &[][..] } else { &listen };
        let flag = format!("--{name}={value}");
        let by_flag = effect(read(&[&[&flag[..]], others].concat(), &[]));
        assert_ne!(by_flag, effect(read(others, &[])), "{flag} changes nothing");
        assert_eq!(by_flag, effect(read(others, &[(&variable, value)])), "{variable}={value}");
        let quoted = format!("'{value}'");
        let list = format!("[{quoted}]");
        let is_number = value.bytes().all(|byte| byte.is_ascii_digit()) && !value.starts_with('0');
        let forms = [
            Some(&quoted[..]),
            (is_number || file::is_switch(arg)).then_some(value),
            has_several(arg).then_some(&list[..]),
        ];
        for form in forms.into_iter().flatten() {
            let by_file = effect(read_file(&format!("{name} = {form}"), others));
            assert_eq!(by_flag, by_file, "{name} = {form}");
            count += 1;
        }
    }
    assert!(count > 30, "{count} settings in the file");
}

#[test]
fn flags_take_precedence_over_the_environment_and_the_environment_over_the_file() {
    let file = TempFile::new("workers = 1\nbacklog = 1\nqueue = '1k'\nlisten = ['1', '2']\n");
    let flags = ["--config", file.path(), "--workers", "3"];
    let variables = [("ECHOPOOL_WORKERS", "2"), ("ECHOPOOL_BACKLOG", "2")];
    let settings = read(&flags, &variables).settings;
    let of = |name: &str| settings.get(name).expect(name).values.clone();
    let value = |text: &str, origin| vec![SettingValue { text: text.to_owned(), origin }];
    let line = |line| Origin::File { path: file.0.as_path().into(), line };
    assert_eq!(of("workers"), value("3", Origin::Flag));
    assert_eq!(of("backlog"), value("2", Origin::Environment));
    assert_eq!(of("queue"), value("1k", line(3)));
    assert_eq!(of("linger"), value("2s", Origin::Default));
    assert_eq!(of("listen"), [value("1", line(4)), value("2", line(4))].concat());
    let listen = [("ECHOPOOL_LISTEN", "7801  framed://7802")];
    assert_eq!(read(&flags[..2], &listen).config().unwrap().0.endpoints().len(), 2);
}

#[test]
fn a_switch_of_the_file_can_be_turned_off_by_a_flag() {
    let off = effect(read(&[], &[]));
    let on = effect(read_file("busy-poll = true", &[]));
    assert_ne!(on, off);
    assert_eq!(effect(read_file("busy-poll = true", &["--busy-poll=false"])), off);
    assert_eq!(effect(read_file("busy-poll = false", &["--busy-poll"])), on);
}

#[test]
fn a_setting_replaces_those_of_lower_layers_that_it_cannot_be_combined_with() {
    let of_buffers = effect(read(&["--buffers", "99"], &[]));
    assert_eq!(effect(read_file("memory = '64m'", &["--buffers", "99"])), of_buffers);
    let file = TempFile::new("memory = '64m'");
    let flags = ["--config", file.path()];
    assert_eq!(effect(read(&flags, &[("ECHOPOOL_BUFFERS", "99")])), of_buffers);
}

#[test]
fn the_environment_names_the_file_unless_the_flag_does() {
    let (one, two) = (TempFile::new("workers = 1"), TempFile::new("workers = 2"));
    let variable = [("ECHOPOOL_CONFIG", one.path())];
    let workers = |cli: Cli| cli.config().unwrap().0.workers;
    assert_eq!(workers(read(&[], &variable)), Some(1));
    assert_eq!(workers(read(&["--config", two.path()], &variable)), Some(2));
}

#[test]
fn a_variable_that_is_no_setting_is_warned_of() {
    let variables = [
        ("ECHOPOOL_MAX_CONNECTION", "9"),
        ("ECHOPOOL_max_connections", "9"),
        ("ECHOPOOL_CHECK", "1"),
        ("ECHOPOOL_PORT", "tcp://10.0.0.1:7"),
        ("ECHOPOOL_PORT_7_TCP_ADDR", "10.0.0.1"),
        ("ECHOPOOL_SERVICE_HOST", "10.0.0.1"),
        ("NOT_ECHOPOOL_X", "1"),
    ];
    let cli = read(&[], &variables);
    let expected = [
        "ECHOPOOL_CHECK is not a setting and is ignored",
        "ECHOPOOL_MAX_CONNECTION is not a setting and is ignored; did you mean \
         ECHOPOOL_MAX_CONNECTIONS?",
        "ECHOPOOL_max_connections is not a setting and is ignored; did you mean \
         ECHOPOOL_MAX_CONNECTIONS?",
    ];
    assert_eq!(cli.settings.warnings, expected);
    assert_eq!(effect(cli), effect(read(&[], &[])));
}

/// The error of a start with these sources, as far as a start checks settings before it binds.
fn error(sources: &Sources) -> (u8, String) {
    let cli = match sources.read() {
        Ok(cli) => cli,
        Err(error) => return (error.exit_code(), error.to_string()),
    };
    let (config, options) = cli.config().expect("no name is looked up");
    let error = OfListener::new(options).plan_of(&config).expect_err("something is wrong");
    let Failure { code, text } = Failure::of_start(&error, &cli.settings);
    (code, text)
}

#[test]
fn errors_of_the_environment_name_the_variable() {
    for (name, value, expected) in [
        ("ECHOPOOL_LINGER", "3", "ECHOPOOL_LINGER: a time needs a unit: 3s or 3ms?"),
        ("ECHOPOOL_WORKERS", "65", "ECHOPOOL_WORKERS is 65, but must be from 1 to 64"),
        ("ECHOPOOL_SHARE_PORT", "on", "ECHOPOOL_SHARE_PORT: 'on' must be one of true, false"),
        ("ECHOPOOL_LISTEN", " ", "ECHOPOOL_LISTEN: give at least one value, or unset it"),
        (
            "ECHOPOOL_LISTEN",
            "7801 localhost",
            "ECHOPOOL_LISTEN: 'localhost': 'localhost' is not a port (0 to 65535); write 7777, \
             127.0.0.1:7777, [::1]:7777 or localhost:7777",
        ),
        (
            "ECHOPOOL_LOG",
            "",
            "ECHOPOOL_LOG: '' must be one of off, error, warn, info, debug, trace",
        ),
    ] {
        assert_eq!(error(&sources(&[], &[(name, value)])), (2, expected.to_owned()), "{name}");
    }
    let both = [("ECHOPOOL_MEMORY", "64m"), ("ECHOPOOL_BUFFERS", "99")];
    let expected = "ECHOPOOL_MEMORY: cannot be combined with ECHOPOOL_BUFFERS; omit one of them";
    assert_eq!(error(&sources(&[], &both)), (2, expected.to_owned()));
}

/// Wrong files, each with the whole error behind the path.
const WRONG: &[(&str, &str)] = &[
    // Keys.
    (
        "max-conections = 9",
        ":1: 'max-conections' is not a setting; did you mean 'max-connections'?",
    ),
    (
        "max_connections = 9",
        ":1: 'max_connections' is not a setting; did you mean 'max-connections'?",
    ),
    ("--workers = 2", ":1: '--workers' is not a setting; did you mean 'workers'?"),
    ("Workers = 2", ":1: 'Workers' is not a setting; did you mean 'workers'?"),
    ("colour = 'red'", ":1: 'colour' is not a setting; the settings are the flags of --help"),
    ("\n\n# a comment\nhelp = true", ":4: 'help' is not a setting; use the flag --help"),
    ("config = 'other.toml'", ":1: 'config' is not a setting; use the flag --config"),
    ("check = true", ":1: 'check' is not a setting; use the flag --check"),
    ("version = 1", ":1: 'version' is not a setting; use the flag --version"),
    (
        "until-stdin-closes = true",
        ":1: 'until-stdin-closes' is not a setting; the settings are the flags of --help",
    ),
    (
        "[limits]\nworkers = 2",
        ":1: 'limits' is a section; there are none: write the settings without it",
    ),
    ("[listen]\nat = '7777'", ":1: listen: a section is not allowed here; write one value"),
    ("[[listen]]\nat = '7777'", ":1: listen: a section is not allowed here; write one value"),
    ("log.level = 'info'", ":1: log: a section is not allowed here; write one value"),
    ("workers = 1\nbacklog = 9\nworkers = 2", ":3: the key appears twice; give it once"),
    // What is not TOML.
    (
        "workers 2",
        ":1: not TOML: key with no value, expected `=`; write each setting as name = \"value\"",
    ),
    ("workers = ", ":1: workers: the value is missing; write workers = \"value\""),
    (
        "workers: 2",
        ":1: not TOML: key with no value, expected `=`; write each setting as name = \"value\"",
    ),
    ("log = info", ":1: log: the value is not in quotes; write log = \"info\""),
    (
        "listen = ['7801'",
        ":1: not TOML: unclosed array, expected `]`; write each setting as name = \"value\"",
    ),
    (
        "log = 'info",
        ":1: not TOML: invalid literal string, expected `'`; write each setting as name = \"value\"",
    ),
    (
        "workers = 2 backlog = 9",
        ":1: not TOML: unexpected key or value, expected newline, `#`; write each setting as name = \"value\"",
    ),
    ("workers = 02", ":1: workers: the value is not in quotes; write workers = \"02\""),
    ("linger = 2s", ":1: linger: the value is not in quotes; write linger = \"2s\""),
    (
        "max-connections = 10k",
        ":1: max-connections: the value is not in quotes; write max-connections = \"10k\"",
    ),
    (
        "= 2",
        ":1: not TOML: unquoted keys cannot be empty, expected letters, numbers, `-`, `_`; write each setting as name = \"value\"",
    ),
    (
        "workers = 1\0",
        ":1: not TOML: string values must be quoted, expected literal string; write each setting as name = \"value\"",
    ),
    // Values of another type.
    (
        "workers = 1.5",
        ":1: workers: 1.5 is not a whole number; write a whole one, or a text in quotes",
    ),
    ("workers = true", ":1: workers: true is not allowed here; write a value in quotes"),
    ("workers = [1]", ":1: workers: a list is not allowed here; give one value"),
    ("workers = { count = 1 }", ":1: workers: a section is not allowed here; write one value"),
    ("mode = 0o640", ":1: mode: 0o640 is not decimal; write a decimal number, or a text in quotes"),
    ("idle-timeout = false", ":1: idle-timeout: false is not allowed here; write \"off\""),
    ("notices = true", ":1: notices: true is not allowed here; write \"on\""),
    ("share-port = 1", ":1: share-port: '1' must be one of true, false"),
    ("share-port = 'yes'", ":1: share-port: 'yes' must be one of true, false"),
    ("linger = 1979-05-27", ":1: linger: a date is not allowed here; write a text in quotes"),
    ("listen = []", ":1: listen: the list is empty; give one value or more"),
    ("listen = [['7801']]", ":1: listen: a list in a list is not allowed here; write one list"),
    (
        "listen = [\n  '7801',\n  true,\n]",
        ":3: listen: true is not allowed here; write a value in quotes",
    ),
    // Values.
    ("linger = 2", ":1: linger: a time needs a unit: 2s or 2ms?"),
    (
        "linger = '2 weeks'",
        ":1: linger: ' weeks' is not a unit of a time; a time is a number with ns, us, ms, s, m or h: 250us, 10ms, 2s, 2m, 1h",
    ),
    (
        "buffer-size = '16kB'",
        ":1: buffer-size: 'kB' is not a unit of a size; a size is a number of bytes, with k, m or g (1024s; also Ki, KiB): 512, 16k",
    ),
    (
        "workers = -1",
        ":1: workers: '-1' is not understood; a count is a number, with k (1,000) or m (1,000,000): 250, 10k, 2m",
    ),
    (
        "workers = ''",
        ":1: workers: '' is not understood; a count is a number, with k (1,000) or m (1,000,000): 250, 10k, 2m",
    ),
    ("log = 'loud'", ":1: log: 'loud' must be one of off, error, warn, info, debug, trace"),
    ("log-limit = 0", ":1: log-limit: must be from 1 to 1000000, or off"),
    ("stats-interval = '1ms'", ":1: stats-interval: must be at least 100ms"),
    (
        "max-connections = '5g'",
        ":1: max-connections: 'g' is not a unit of a count; a count is a number, with k (1,000) or m (1,000,000): 250, 10k, 2m",
    ),
    (
        "admin = 'localhost'",
        ":1: admin: 'localhost' is not a TCP address; write 9000 (= 127.0.0.1:9000), [::1]:9000, localhost:9000 or unix:///run/echopool/admin",
    ),
    ("order = 'middle'", ":1: order: 'middle' must be little or big (byte order of numbers)"),
    ("delimiter = ''", ":1: delimiter: a delimiter must have 1 to 16 bytes, not 0"),
    (
        "mode = '0888'",
        ":1: mode: '0888' must be the octal number of permissions, such as 0660; at most 0777",
    ),
    ("max-frame = 0", ":1: max-frame: 0 must be from 1 to 2147483647 bytes"),
    (
        "memory = '64m'\nbuffers = 99",
        ":2: buffers: cannot be combined with memory; omit one of them",
    ),
    // Values out of the range of something else.
    ("workers = 65", ":1: workers is 65, but must be from 1 to 64"),
    ("\nmax-connections = 0", ":2: max-connections is 0, but must be from 1 to 16773120"),
    ("backlog = 65536", ":1: backlog is 65536, but must be from 1 to 65535"),
    ("buffer-size = 255", ":1: buffer-size is 255, but must be from 256 to 1048576"),
    ("buffers = 1\nworkers = 2", ":1: buffers is 1, but must be from 2 to 16777216"),
    (
        "send-timeout = '9000h'",
        ":1: send-timeout is 32400000s, but must be from 1ms to 365 days (8760h), or off",
    ),
    ("linger = '11m'", ":1: linger is 660s, but must be at most 10m"),
    // Listeners.
    (
        "listen = 'localhost'",
        ":1: listen: 'localhost': 'localhost' is not a port (0 to 65535); write 7777, 127.0.0.1:7777, [::1]:7777 or localhost:7777",
    ),
    (
        "listen = [\n  '7801',\n  'framed://7802?order=middle',\n]",
        ":3: listen: 'framed://7802?order=middle': order: 'middle' must be little or big (byte order of numbers)",
    ),
    (
        "listen = 'http://7801'",
        ":1: listen: 'http://7801': 'http' is not a service; the services are echo, discard, chargen, framed, message, hub, delay, timed, stamp (tcp is echo)",
    ),
    (
        "listen = ['7801', '7801']",
        ":1: listen: tcp://[::]:7801 is given twice: give each address once",
    ),
    (
        "listen = ['[::]:7801', '127.0.0.1:7801']",
        ":1: listen: cannot listen on tcp://127.0.0.1:7801: tcp://[::]:7801 takes its connections too; give one",
    ),
    (
        "listen = 'unix://@echo?mode=0600'",
        ":1: listen: cannot listen on unix://@echo with a mode or an owner: an abstract name has no file; omit them, or give a path",
    ),
    (
        "listen = 'hub+udp://7801'",
        ":1: listen: 'hub+udp://7801': hub needs a stream, and udp carries datagrams: only echo, discard, chargen, stamp run over it",
    ),
    (
        "listen = 'hub://7801'\nmax-message = '17k'",
        ":1: listen: 'hub://7801': max-message (line 2): 17k must be from 1 to 16384 bytes",
    ),
    (
        "max-connections = 9\nworkers = 1\nbuffers = 64\nlisten = 'framed://7801'",
        ":3: messages of 1048580 bytes need 132 buffers of 16384, but there are 64: give buffers 132 or --memory 2162688, or a smaller --max-frame",
    ),
];

#[test]
fn each_wrong_file_is_told_the_line_the_reason_and_the_remedy() {
    let mut shown = String::new();
    for (contents, expected) in WRONG {
        let file = TempFile::new(contents);
        let (code, text) = error(&sources(&["--config", file.path()], &[]));
        let text = text.replace(file.path(), "");
        if text != *expected || code != 2 {
            shown += &format!("{code} {contents:?}\n    {text:?}\n");
        }
    }
    assert_eq!(shown, "");
}

#[test]
fn what_is_no_configuration_file_is_told_why() {
    let of = |path: &str| error(&sources(&["--config", path], &[]));
    let folder = std::env::temp_dir();
    let folder = folder.to_str().unwrap();
    let text = format!("cannot read {folder} (--config): Is a directory (os error 21)");
    assert_eq!(of(folder), (1, text));
    let text = "cannot read /no/such (--config): No such file or directory (os error 2)";
    assert_eq!(of("/no/such"), (1, text.to_owned()));
    let latin1 = TempFile::new(b"workers = 2\n# caf\xe9\n");
    let text = format!("{}:2: not UTF-8 text; save the file as UTF-8", latin1.path());
    assert_eq!(of(latin1.path()), (2, text));
    let text = "is larger than 1 MiB; give the path of a configuration file";
    assert_eq!(of("/dev/zero"), (2, format!("/dev/zero (--config) {text}")));
    let largest = TempFile::new("#".repeat(1 << 20));
    assert!(read(&["--config", largest.path()], &[]).settings.has_file);
    let huge = TempFile::new("#".repeat((1 << 20) + 1));
    assert_eq!(of(huge.path()), (2, format!("{} (--config) {text}", huge.path())));
}

#[test]
fn a_file_may_be_empty_or_have_comments_carriage_returns_and_a_mark_of_utf8() {
    let none = effect(read(&[], &[]));
    for contents in ["", "\n\n", "# nothing\n", "\u{feff}", "\r\n"] {
        assert_eq!(effect(read_file(contents, &[])), none, "{contents:?}");
    }
    let three = effect(read(&["--workers", "3"], &[]));
    assert_eq!(effect(read_file("\u{feff}workers = 3 # three\r\n", &[])), three);
    assert_eq!(effect(read_file("'workers' = \"\"\"3\"\"\"", &[])), three);
}

#[test]
fn a_check_shows_each_setting_with_its_source_and_the_memory_sum() {
    let file = TempFile::new("\nworkers = 2\nlisten = ['7801', 'discard://7802']\n");
    let flags = ["--config", file.path(), "--max-connections", "100", "--check"];
    let cli = read(&flags, &[("ECHOPOOL_LINGER", "1s"), ("ECHOPOOL_LINGR", "1s")]);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = crate::daemon::check::run(&cli, &mut out, &mut err);
    assert_eq!(format!("{code:?}"), format!("{:?}", std::process::ExitCode::SUCCESS));
    let (out, err) = (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap());
    let warning = "ECHOPOOL_LINGR is not a setting and is ignored; did you mean ECHOPOOL_LINGER?";
    assert_eq!(err, format!("echopool: {warning}\n"));
    let rows: Vec<String> = out.lines().map(words).collect();
    let line = |line| format!("{}:{line}", file.path());
    for row in [
        "setting value from".to_owned(),
        format!("listen 7801 {}", line(3)),
        format!("listen discard://7802 {}", line(3)),
        format!("workers 2 {}", line(2)),
        "max-connections 100 flag".to_owned(),
        "buffers 128 default".to_owned(),
        "linger 1s environment".to_owned(),
        "admin - default".to_owned(),
        "max-frame - default".to_owned(),
    ] {
        assert!(rows.contains(&row), "{row}\n{out}");
    }
    let settings = args(&Cli::clap()).count();
    assert_eq!(rows.iter().position(String::is_empty), Some(settings + 2), "{out}");
    assert!(out.contains("memory, all of it reserved now"), "{out}");
}

#[test]
fn a_check_shows_what_is_derived_from_the_machine() {
    let cli = read(&["--check"], &[]);
    let (limits, _) = Server::check(&cli.config().unwrap().0, Echo).unwrap();
    let mut out = Vec::new();
    crate::daemon::check::run(&cli, &mut out, &mut Vec::new());
    let out = String::from_utf8(out).unwrap();
    let rows: Vec<String> = out.lines().map(words).collect();
    for (name, value) in [
        ("workers", limits.workers.to_string()),
        ("max-connections", limits.max_connections.to_string()),
        ("buffers", limits.buffers.to_string()),
    ] {
        let row = format!("{name} {value} default");
        assert!(rows.contains(&row), "{row}\n{out}");
    }
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_check_fails_as_the_start_would() {
    for (flags, code, text) in [
        (&["--workers", "65"][..], 2, "--workers is 65, but must be from 1 to 64"),
        (&["--max-connections", "16773120"], 1, "raise it (ulimit -Hn"),
        (&["--listen", "nobody.invalid:7"], 1, "cannot resolve 'nobody.invalid'"),
        (&["--listen", "7801", "--listen", "7801"], 2, "is given twice"),
    ] {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let found = crate::daemon::check::run(&read(flags, &[]), &mut out, &mut err);
        assert_eq!(format!("{found:?}"), format!("{:?}", std::process::ExitCode::from(code)));
        assert!(String::from_utf8(err).unwrap().contains(text), "{text}");
        assert!(out.is_empty());
    }
}

#[test]
fn values_that_are_only_written_in_another_way_have_not_changed() {
    let changes = |old: &str, new: &str| -> Vec<String> {
        let (old, new) = (read_file(old, &[]), read_file(new, &[]));
        let changes = old.settings.changes(&new.settings);
        changes.iter().map(ToString::to_string).collect()
    };
    let old = "max-connections = '10k'\nbuffer-size = '16k'\nlinger = '1s'\nlog-limit = 1000";
    let new = "max-connections = 10_000\nbuffer-size = 16384\nlinger = '1000ms'\n";
    assert_eq!(changes(old, new), [""; 0]);
    assert_eq!(changes(old, "linger = '1s'"), ["max-connections 10k -> default"]);
    assert_eq!(changes("", "idle-timeout = '1h'"), ["idle-timeout off -> 1h"]);
    assert_eq!(
        changes("listen = ['7801', '7802']", "listen = ['7801', 'hub://7802']\nbusy-poll = true"),
        ["listen 7801 7802 -> 7801 hub://7802", "busy-poll false -> true"]
    );
}

#[test]
fn a_file_that_can_be_read_only_once_is_not_read_again() {
    let error = sources(&["--config", "/dev/null"], &[]).read_again().map(drop).unwrap_err();
    let text = "is not a regular file, so it cannot be read again; restart the daemon";
    assert_eq!(error.to_string(), format!("/dev/null (--config) {text}"));
}

#[test]
fn files_are_kept_free_for_further_listeners_only_if_a_file_can_have_them() {
    let file = TempFile::new("linger = '1s'");
    let with_listeners = TempFile::new("listen = ['127.0.0.1:0']");
    let (path, of_file) = (file.path(), with_listeners.path());
    let listen = ["--listen", "127.0.0.1:0"];
    for (flags, variables, expected) in [
        (&[][..], &[][..], false),
        (&listen, &[], false),
        (&["--config", path], &[], true),
        (&[], &[("ECHOPOOL_CONFIG", path)], true),
        (&["--config", of_file], &[], true),
        (&["--config", of_file], &[("ECHOPOOL_LISTEN", "127.0.0.1:0")], false),
        (&["--config", of_file, "--listen", "127.0.0.1:0"], &[], false),
    ] {
        let config = read(flags, variables).apply(Config::new());
        assert_eq!(config.gains_listeners, expected, "{flags:?} {variables:?}");
    }
}
