//! Runs over Unix sockets, against the daemon in a process of its own.

mod common;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;

use common::{Running, loadgen, program, start, until};
use serde_json::Value;

/// A directory for a socket that is removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Directory {
        let path = std::env::temp_dir().join(format!("loadgen-{name}-{}", std::process::id()));
        std::fs::create_dir(&path).expect("a new directory");
        Directory(path)
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.file().display())
    }

    fn file(&self) -> PathBuf {
        self.0.join("socket")
    }

    /// Starts the daemon with this service, and waits until it listens.
    fn serve(&self, scheme: &str) -> Running {
        let server = start(program(&format!("__serve --log=warn --listen {}", self.url(scheme))));
        until("the server listens", || UnixStream::connect(self.file()).ok());
        server
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A run in which every connection is served and every byte is right.
#[track_caller]
fn run(flags: &str) -> Value {
    let json = loadgen(&format!("{flags} --output-format json")).expect(0).json();
    let connections = &json["connections"];
    assert_eq!(connections["served"], connections["asked"], "{flags}");
    assert_eq!((&connections["lost"], &json["mismatched_connections"]), (&0.into(), &0.into()));
    assert_eq!(json["errors"], serde_json::json!({}), "{flags}");
    assert!(json["requests_completed"].as_u64() > connections["asked"].as_u64(), "{flags}");
    json
}

#[test]
fn thousands_of_clients_are_served_and_verified() {
    let directory = Directory::new("unix-echo");
    let _server = directory.serve("unix");
    let target = directory.url("unix");
    let json = run(&format!("{target} -c 3000 -d 2s -l 100"));
    assert_eq!(json["connections"]["established"], 3000);
    assert_eq!(json["target"], target);
    // Much data, short lives, and rude clients.
    run(&format!("{target} -c 50 -d 1s -l 200k --pipeline 4"));
    run(&format!("{target} -c 50 -d 1s --lifetime 10"));
    run(&format!("{target} -c 50 -d 1s --with idle:20,reset:20"));
    // A busy machine may prevent the generator from keeping its schedule.
    let rated = loadgen(&format!("{target} -c 10 -R 500 -n 250 --output-format json"));
    assert!([Some(0), Some(4)].contains(&rated.code), "{}", rated.stderr);
    assert_eq!(rated.json()["replies"], 250);
}

#[test]
fn each_service_is_driven_over_a_unix_socket() {
    for scheme in ["framed+unix", "message+unix", "delay+unix"] {
        let directory = Directory::new(scheme);
        let _server = directory.serve(scheme);
        run(&format!("{} -c 200 -n 20000", directory.url(scheme)));
    }
    let directory = Directory::new("hub+unix");
    let _server = directory.serve("hub+unix");
    let flags = format!("{} -c 20 -n 200 --output-format json", directory.url("hub+unix"));
    let json = loadgen(&flags).expect(0).json();
    assert_eq!(json["hub"]["deliveries"], 200 * 20);
    assert_eq!(json["hub"]["deliveries_missing"], 0);
}

#[test]
fn a_target_where_nobody_listens_is_told_with_the_remedy() {
    let directory = Directory::new("unix-none");
    let target = directory.url("unix");
    loadgen(&target).expect(1).complains("No such file").complains("check the path");
    drop(UnixListener::bind(directory.file()).expect("a socket"));
    loadgen(&target).expect(1).complains("refused").complains("start the server");
}
