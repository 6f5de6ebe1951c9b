//! What can be changed through the admin address, and who may: seen by HTTP clients.

use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::admin::{connect, converse, get, schema, status};
use crate::harness::{Client, Daemon, eventually, run_to_end};

pub const TOKEN: &str = "the-token-of-these-tests";

/// A file with the token, which is removed at the end.
pub struct TokenFile(PathBuf);

impl TokenFile {
    pub fn new(text: &str) -> TokenFile {
        static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = format!("echopool-token-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).expect("writing the token");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("its mode");
        TokenFile(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().expect("text")
    }
}

impl Drop for TokenFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A daemon with an admin address and a token.
pub fn start(flags: &[&str]) -> Daemon {
    start_under("true", flags)
}

/// The same, after a shell command in the same process.
pub fn start_under(shell: &str, flags: &[&str]) -> Daemon {
    let token = TokenFile::new(&format!("{TOKEN}\n"));
    let admin = ["--admin", "127.0.0.1:0", "--admin-token-file", token.path()];
    Daemon::start_under(shell, &[&admin[..], flags].concat())
}

/// Sends a POST with these header fields. Returns the status and the body.
fn post(to: SocketAddr, path: &str, fields: &str, body: &[u8]) -> (u16, String) {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\n{fields}Content-Length: {}\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    let reply = converse(to, &[head.as_bytes(), body].concat());
    let (head, body) = reply.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{reply:?}"));
    (status(head), body.to_owned())
}

pub fn authorized(daemon: &Daemon, path: &str, body: &[u8]) -> (u16, String) {
    post(daemon.admin(), path, &format!("Authorization: Bearer {TOKEN}\r\n"), body)
}

/// The JSON of a reply, which conforms to the schema.
fn page(name: &str, text: &str) -> Value {
    let value = serde_json::from_str(text).expect("it is JSON");
    let errors: Vec<_> = schema(name).iter_errors(&value).map(|e| e.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}\n{value:#}");
    value
}

#[test]
fn each_change_takes_effect_and_its_reply_conforms_to_the_schema() {
    // A drained client has time to be slow.
    let listen = ["--listen", "127.0.0.1:0", "--listen", "framed://127.0.0.1:0"];
    let mut daemon = start(&[&listen[..], &["--linger", "60s"]].concat());
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    let (_, text) = get(&daemon, "/api/v1/clients");
    let clients = page("clients", &text);
    let id = clients["clients"][0]["id"].as_str().expect("an id").to_owned();

    let mut quiet = connect(daemon.address());
    eventually("both are listed", || {
        page("clients", &get(&daemon, "/api/v1/clients").1)["total"] == 2
    });
    let all = page("clients", &get(&daemon, "/api/v1/clients?sort=bytes_sent").1);
    let quiet_id = all["clients"][0]["id"].as_str().expect("an id");
    let (code, text) = authorized(&daemon, &format!("/api/v1/message?to={quiet_id}"), b"hello");
    assert_eq!((code, page("sent", &text)), (200, json!({ "queued": 1, "refused": 0 })));
    let mut hello = [0; 5];
    quiet.read_exact(&mut hello).expect("the message");
    assert_eq!(&hello, b"hello");

    let (code, text) = authorized(&daemon, &format!("/api/v1/clients/{id}/disconnect"), b"");
    assert_eq!((code, page("disconnected", &text)), (200, json!({ "disconnected": id })));
    client.expect_fin();
    drop(client);
    eventually("it is closed for its reason", || {
        get(&daemon, "/metrics").1.contains("{reason=\"disconnected\"} 1\n")
    });

    let (code, text) = authorized(&daemon, "/api/v1/listeners/0/stop", b"");
    assert_eq!((code, &page("accepting", &text)["accepting"]), (200, &json!(false)));
    assert_eq!(get(&daemon, "/readyz").0, 503);
    let mut waits = Client::connect(daemon.address());
    let mut other = connect(daemon.addresses()[1]);
    other.write_all(&[1, 0, 0, 0, 9]).expect("a frame");
    other.read_exact(&mut [0; 5]).expect("the other listener serves");
    assert_eq!(daemon.stat("accepted"), 3, "it waits in the backlog");
    let (code, text) = authorized(&daemon, "/api/v1/listeners/0/start", b"");
    assert_eq!((code, &page("accepting", &text)["accepting"]), (200, &json!(true)));
    waits.ping(1_000);

    let (code, text) = authorized(&daemon, "/api/v1/reload", b"");
    assert_eq!((code, &page("reloaded", &text)["applied"]), (200, &json!(true)));
    assert_eq!(daemon.wait_lines(1, "admin: reloaded, generation=2").len(), 1, "{}", daemon.tail());

    let (code, text) = authorized(&daemon, "/api/v1/drain", b"");
    assert_eq!((code, page("draining", &text)), (202, json!({ "draining": true })));
    waits.expect_fin();
    assert_eq!(authorized(&daemon, "/api/v1/drain", b"").0, 202, "again: nothing happens");
    drop((waits, quiet, other));
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.lines_with("admin: draining, 10s at most").len(), 1, "{}", daemon.tail());
    for done in [
        "disconnecting id=",
        "accepting stopped at listener=0",
        "accepting again at",
        &format!("message id={quiet_id} bytes=5"),
    ] {
        assert_eq!(daemon.lines_with(done).len(), 1, "{done}: {}", daemon.tail());
    }
    assert!(!daemon.log().contains(TOKEN), "the log shows the token");
}

/// Only a second signal stops at once.
#[test]
fn drains_that_are_asked_for_at_the_same_time_are_one() {
    let mut daemon = start(&["--listen", "127.0.0.1:0", "--linger", "60s"]);
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(authorized(&daemon, "/api/v1/drain", b"").0, 202));
        }
    });
    client.expect_fin();
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert_eq!(daemon.lines_with("admin: draining, 10s at most").len(), 1, "{}", daemon.tail());
    assert_eq!(daemon.lines_with("stopping at once").len(), 0, "{}", daemon.tail());
}

/// Listeners for datagrams have numbers, too.
#[test]
fn the_listener_of_the_given_number_is_stopped() {
    let tcp = ["--listen", "127.0.0.1:0", "--listen", "discard://127.0.0.1:0"];
    let daemon = start(&[&["--listen", "udp://127.0.0.1:0"], &tcp[..]].concat());
    assert_eq!(authorized(&daemon, "/api/v1/listeners/0/stop", b"").0, 409);
    assert_eq!(authorized(&daemon, "/api/v1/listeners/2/stop", b"").0, 200);
    let listeners = page("listeners", &get(&daemon, "/api/v1/listeners").1);
    let accepting = |number: usize| listeners["listeners"][number]["accepting"] == true;
    assert_eq!([accepting(0), accepting(1), accepting(2)], [true, true, false]);
    let mut client = Client::connect(daemon.addresses()[1]);
    let discarding = connect(daemon.addresses()[2]);
    client.ping(1_000);
    assert_eq!(daemon.stat("accepted"), 1);
    let listeners = page("listeners", &get(&daemon, "/api/v1/listeners").1);
    assert_eq!(listeners["listeners"][1]["connections"], 1);
    assert_eq!(authorized(&daemon, "/api/v1/listeners/2/start", b"").0, 200);
    eventually("it accepts again", || daemon.stat("accepted") == 2);
    drop(discarding);
    client.close();
    daemon.finish();
}

#[test]
fn a_reload_of_a_wrong_file_tells_what_is_wrong() {
    let file = TokenFile::new("linger = '1s'\n");
    let daemon = start(&["--config", file.path()]);
    fs::write(file.path(), "linger = '1 week'\n").expect("writing the file");
    let (code, text) = authorized(&daemon, "/api/v1/reload", b"");
    let reloaded = page("reloaded", &text);
    assert_eq!((code, &reloaded["applied"]), (422, &json!(false)));
    assert!(reloaded["text"].as_str().expect("a text").contains(":1: linger: "), "{reloaded}");
    daemon.finish();
}

#[test]
fn without_the_token_or_from_elsewhere_nothing_changes_and_echoes_go_on() {
    let daemon = start(&[]);
    let mut client = Client::connect(daemon.address());
    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    for (fields, expected) in [
        (String::new(), 401),
        (format!("Authorization: Bearer {TOKEN}{TOKEN}\r\n"), 403),
        (format!("{right}Origin: http://evil.example\r\n"), 403),
        (format!("{right}Sec-Fetch-Site: cross-site\r\n"), 403),
    ] {
        for path in ["listeners/0/stop", "drain", "reload", "message?listener=0"] {
            let (code, text) = post(daemon.admin(), &format!("/api/v1/{path}"), &fields, b"x");
            assert_eq!(code, expected, "{path} with {fields:?}: {text}");
            client.ping(1_000);
        }
    }
    let rebound =
        b"GET /api/v1/clients HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n";
    assert_eq!(status(&converse(daemon.admin(), rebound)), 421);
    client.close();
    daemon.finish();
}

#[test]
fn messages_that_are_huge_or_slow_are_refused_and_echoes_go_on() {
    let daemon = start(&[]);
    let mut client = Client::connect(daemon.address());
    assert_eq!(authorized(&daemon, "/api/v1/message?listener=0", &[b'x'; 1 << 20]).0, 413);
    let endless = format!(
        "POST /api/v1/message?listener=0 HTTP/1.1\r\nHost: localhost\r\n\
         Authorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(1 << 16));
    let reply = converse(daemon.admin(), [endless.clone(), chunk.repeat(20)].concat().as_bytes());
    assert!(reply.is_empty() || status(&reply) == 413, "{reply}");
    let mut slow = connect(daemon.admin());
    slow.write_all(endless.as_bytes()).expect("sending");
    slow.write_all(b"1\r\nx\r\n").expect("sending");
    client.ping(1_000);
    let mut reply = String::new();
    let _ = slow.read_to_string(&mut reply);
    assert_eq!(status(&reply), 408, "{reply}");
    client.ping(1_000);
    client.close();
    daemon.finish();
}

#[test]
fn a_token_file_that_cannot_be_used_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "16 to 512 bytes, not 0"),
        ("too-short\n", "16 to 512 bytes, not 9"),
        ("it has spaces, and is long\n", "no space"),
        ("one-line-of-the-file\nand-another-line", "no space"),
    ] {
        let file = TokenFile::new(text);
        let flags = ["--admin", "0", "--listen", "127.0.0.1:0", "--admin-token-file", file.path()];
        for more in [&[][..], &["--check"]] {
            let (code, out, err) = run_to_end("true", &[&flags[..], more].concat());
            assert_eq!((code, &out[..]), (Some(1), ""), "{text:?}: {err}");
            assert!(err.contains("--admin-token-file") && err.contains(reason), "{text:?}: {err}");
        }
    }
    let flags = ["--admin", "0", "--admin-token-file", "/nowhere/token"];
    let (code, _, err) = run_to_end("true", &flags);
    assert!(code == Some(1) && err.contains("/nowhere/token"), "{err}");
    let (code, _, err) = run_to_end("true", &["--admin", "0", "--admin-host", "http://x"]);
    assert!(code == Some(2) && err.contains("--admin-host"), "{err}");
}

#[test]
fn a_name_of_admin_host_is_allowed() {
    let daemon = start(&["--admin-host", "one.example", "--admin-host", "two.example"]);
    for (name, expected) in [("one.example", 200), ("two.example:80", 200), ("x.example", 421)] {
        let request = format!("GET /readyz HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
        assert_eq!(status(&converse(daemon.admin(), request.as_bytes())), expected, "{name}");
    }
    daemon.finish();
}
