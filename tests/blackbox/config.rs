//! The configuration file, the environment and `--check`, as the daemon's users see them.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::harness::{Client, Daemon, run_to_end};

/// A configuration file, which this removes.
struct ConfigFile(PathBuf);

impl ConfigFile {
    fn new(contents: &str) -> ConfigFile {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("echopool-config-{}-{number}.toml", std::process::id());
        let file = ConfigFile(std::env::temp_dir().join(name));
        file.write(contents);
        file
    }

    fn write(&self, contents: &str) {
        fs::write(&self.0, contents).expect("writing a configuration file");
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a path in UTF-8")
    }
}

impl Drop for ConfigFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn a_daemon_runs_with_the_settings_of_its_file_environment_and_flags() {
    let file = ConfigFile::new("workers = 3\nmax-connections = 70\nbacklog = 9\n");
    let environment = "export ECHOPOOL_BACKLOG=8 ECHOPOOL_MAX_CONNECTIONS=60 ECHOPOOL_BAKLOG=7";
    let flags = ["--config", file.path(), "--max-connections", "50"];
    let daemon = Daemon::start_under(environment, &flags);
    let limits = daemon.lines_with("limits: ").pop().expect("the line of the limits");
    for part in ["workers=3 ", "max_connections=50 ", "backlog=8"] {
        assert!(limits.contains(part), "{part} is not in {limits}");
    }
    let warnings = daemon.lines_with("ECHOPOOL_BAKLOG is not a setting and is ignored");
    assert_eq!(warnings.len(), 1, "{}", daemon.log());
    Client::connect(daemon.address()).ping(100);
    daemon.finish();
}

#[test]
fn a_wrong_file_is_exit_code_2_and_one_that_cannot_be_read_is_1() {
    let file = ConfigFile::new("# a comment\nlinger = 3\n");
    let (code, stdout, stderr) = run_to_end("true", &["--config", file.path()]);
    let expected =
        format!("echopool: {}:2: linger: a time needs a unit: 3s or 3ms?\n", file.path());
    assert_eq!((code, &stdout[..], stderr), (Some(2), "", expected));
    let (code, _, stderr) = run_to_end("true", &["--config", "/no/such/file"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.starts_with("echopool: cannot read /no/such/file (--config): "), "{stderr}");
}

#[test]
fn a_check_binds_nothing_and_has_the_exit_code_of_the_start() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("its address").to_string();
    let file = ConfigFile::new(&format!("listen = '{taken}'\nworkers = 2\n"));
    let (code, stdout, stderr) = run_to_end("true", &["--check", "--config", file.path()]);
    assert_eq!((code, &stderr[..]), (Some(0), ""));
    assert!(stdout.contains(&taken) && stdout.contains("kernel, estimated"), "{stdout}");
    file.write("workers = 65");
    let (code, stdout, stderr) = run_to_end("true", &["--check", "--config", file.path()]);
    let expected =
        format!("echopool: {}:1: workers is 65, but must be from 1 to 64\n", file.path());
    assert_eq!((code, &stdout[..], stderr), (Some(2), "", expected));
    let (code, _, stderr) = run_to_end("ulimit -n 50", &["--check", "--max-connections", "100"]);
    assert_eq!(code, Some(1), "{stderr}");
    let (code, _, stderr) = run_to_end("ulimit -v 100000", &["--check", "--memory", "1g"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(stderr.contains("the sum of memory (buffers 1.0 GiB"), "{stderr}");
}
