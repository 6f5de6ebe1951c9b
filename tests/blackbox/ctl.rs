//! `echopool ctl`, as a shell uses it.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::admin::connect;
use crate::control::{TOKEN, TokenFile, start};
use crate::harness::{Client, Daemon, binary, eventually};

/// What a call has written, and its exit code.
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

/// Calls `echopool ctl` with this input and these variables.
fn call(words: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Said {
    let mut command = Command::new(binary());
    let of_ours = std::env::vars_os().map(|(name, _)| name);
    for name in of_ours.filter(|name| name.to_string_lossy().starts_with("ECHOPOOL_")) {
        command.env_remove(name);
    }
    command.arg("ctl").args(words).envs(variables.iter().copied());
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starting ctl");
    let _ = child.stdin.take().expect("it is piped").write_all(input);
    let output = child.wait_with_output().expect("its end");
    let text = |bytes| String::from_utf8(bytes).expect("text");
    Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Calls it for this daemon with the token. Returns what it has written.
fn ctl(daemon: &Daemon, words: &[&str]) -> String {
    let at = daemon.admin().to_string();
    let variables = [("ECHOPOOL_ADMIN", &at[..]), ("ECHOPOOL_CTL_TOKEN", TOKEN)];
    let said = call(words, &variables, b"");
    assert_eq!((said.code, &said.err[..]), (Some(0), ""), "{words:?}: {}", said.out);
    said.out
}

#[test]
fn each_command_does_what_it_says() {
    let hub = ["--listen", "127.0.0.1:0", "--listen", "hub://127.0.0.1:0"];
    let mut daemon = start(&[&hub[..], &["--drain-timeout", "60s"]].concat());
    let mut client = Client::connect(daemon.address());
    client.ping(1_000);
    let status = ctl(&daemon, &["status"]);
    for line in ["ready        yes", "connections  1 of ", "received     1000 B"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    assert_eq!(ctl(&daemon, &["health"]), "ok\n");
    let json: Value = serde_json::from_str(&ctl(&daemon, &["--json", "status"])).expect("JSON");
    assert_eq!(json["total"]["bytes_sent"], 1_000);
    let listeners = ctl(&daemon, &["listeners"]);
    let lines: Vec<&str> = listeners.lines().collect();
    assert!(
        lines[1].starts_with("0 ") && lines[1].ends_with("  1        accepting"),
        "{listeners}"
    );
    assert!(lines[2].contains("hub://127.0.0.1:") && lines.len() == 3, "{listeners}");
    let clients = ctl(&daemon, &["clients", "--sort", "bytes_sent", "--order", "desc"]);
    let line = clients.lines().nth(1).expect("a client");
    let id = line.split_whitespace().next().expect("its id");
    assert!(
        line.contains(" 127.0.0.1:") && line.contains("echo") && line.contains("1000 B"),
        "{line}"
    );
    assert!(clients.ends_with("1 of 1 shown, 1 connected\n"), "{clients}");
    let none = ctl(&daemon, &["clients", "--filter", "hub & more"]);
    assert!(none.ends_with("0 of 0 shown, 1 connected\n"), "{none}");

    // A member of the hub: WELCOME, then the message of the server.
    let mut member = connect(daemon.addresses()[1]);
    member.read_exact(&mut [0; 13]).expect("WELCOME");
    assert_eq!(ctl(&daemon, &["message", "--listener", "1", "hello"]), "queued 1, refused 0\n");
    let mut frame = [0; 19];
    member.read_exact(&mut frame).expect("MESSAGE");
    let expected = [&[15, 0, 0, 0, 130, 1, 0, 0, 0, 0, 0, 0, 0, 0][..], b"hello"].concat();
    assert_eq!(frame[..], expected[..]);
    let (at, token) = (daemon.admin().to_string(), [("ECHOPOOL_CTL_TOKEN", TOKEN)]);
    let said = call(&["--admin", &at, "message", "--to", id], &token, b"from stdin");
    assert_eq!((said.code, &said.out[..]), (Some(0), "queued 1, refused 0\n"), "{}", said.err);

    assert_eq!(ctl(&daemon, &["stop", "0"]), "listener 0 has stopped accepting\n");
    assert!(ctl(&daemon, &["listeners"]).contains("stopped"));
    assert!(ctl(&daemon, &["status"]).contains("no: accepting is stopped"));
    assert_eq!(ctl(&daemon, &["start", "0"]), "listener 0 accepts again\n");
    assert_eq!(ctl(&daemon, &["disconnect", id]), format!("disconnected {id}\n"));
    assert!(ctl(&daemon, &["reload"]).starts_with("reloaded, generation=2: nothing has changed"));
    drop(client);
    eventually("it is gone", || ctl(&daemon, &["clients"]).contains("1 of 1 shown"));
    assert_eq!(ctl(&daemon, &["drain"]), "draining\n");
    drop(member);
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.tail());
    assert!(daemon.tail().contains(" disconnected=1"), "{}", daemon.tail());
}

#[test]
fn failures_have_their_exit_code_and_the_remedy() {
    let daemon = start(&[]);
    let at = daemon.admin().to_string();
    let file = TokenFile::new(TOKEN);
    let wrong = TokenFile::new("the-wrong-token-of-these-tests");
    for (words, variables, code, text) in [
        (&["status"][..], &[][..], 2, "ECHOPOOL_ADMIN"),
        (&["--admin", "x", "status"], &[], 2, "write 9000"),
        (&["--admin", &at], &[], 2, "Usage"),
        (&["--admin", &at, "stop"], &[], 2, "<LISTENER>"),
        (&["--admin", &at, "message", "x"], &[], 2, "--to <ID>"),
        (&["--admin", "127.0.0.1:1", "status"], &[], 1, "cannot query http://127.0.0.1:1: "),
        (&["--admin", "/nowhere/admin", "status"], &[], 1, "cannot query unix:///nowhere/admin: "),
        (&["--admin", &at, "stop", "0"], &[], 1, "give it with --token-file FILE"),
        (&["--admin", &at, "--token-file", wrong.path(), "stop", "0"], &[], 1, "wrong token"),
        (&["--admin", &at, "--token-file", "/nowhere/token", "drain"], &[], 1, "/nowhere/token"),
        (&["--admin", &at, "--token-file", file.path(), "stop", "7"], &[], 1, "no such listener"),
        (&["--admin", &at, "--token-file", file.path(), "disconnect", "7"], &[], 1, "is gone"),
        (&["--admin", &at, "clients", "--sort", "colour"], &[], 1, "unknown variant"),
    ] {
        let said = call(words, variables, b"");
        assert_eq!((said.code, &said.out[..]), (Some(code), ""), "{words:?}: {}", said.err);
        assert!(said.err.contains(text), "{words:?}: {}", said.err);
    }
    // The file of the daemon's own variable.
    let variables = [("ECHOPOOL_ADMIN", &at[..]), ("ECHOPOOL_ADMIN_TOKEN_FILE", file.path())];
    assert_eq!(call(&["stop", "0"], &variables, b"").code, Some(0));
    daemon.finish();
}

#[test]
fn an_admin_address_can_be_a_unix_socket_whose_file_is_removed_at_the_end() {
    let path = std::env::temp_dir().join(format!("echopool-admin-{}.sock", std::process::id()));
    let at = format!("unix://{}", path.display());
    let token = TokenFile::new(TOKEN);
    let daemon = Daemon::start(&["--admin", &at, "--admin-token-file", token.path()]);
    let mut client = Client::connect(daemon.address());
    client.ping(100);
    let status = call(&["--admin", &at, "status"], &[], b"");
    assert!(status.out.contains("connections  1 of"), "{}{}", status.out, status.err);
    let stopped = call(&["--admin", &at, "--token-file", token.path(), "stop", "0"], &[], b"");
    assert_eq!(stopped.code, Some(0), "{}", stopped.err);
    let (path, status) = (path.to_str().expect("text"), status.code);
    assert_eq!((status, std::path::Path::new(path).exists()), (Some(0), true));
    client.close();
    daemon.finish();
    assert!(!std::path::Path::new(path).exists(), "the file is left");
}
