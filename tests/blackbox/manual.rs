//! The manual pages and the completions of shells.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use crate::harness::{binary, run_to_end};

/// The long flags in the output of `--help`.
fn flags(args: &[&str]) -> Vec<String> {
    let (code, help, _) = run_to_end("true", &[args, &["--help"]].concat());
    assert_eq!(code, Some(0));
    let words = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let name = |word: &str| {
        let end = word.find(|c: char| c != '-' && !c.is_ascii_alphanumeric());
        word[..end.unwrap_or(word.len())].to_owned()
    };
    words.map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn manual_pages_and_completions_name_every_flag() {
    let directory = std::env::temp_dir().join(format!("echopool-manual-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory");
    let read = |name: &str| fs::read_to_string(directory.join(name)).expect(name);
    let made = Command::new(binary()).arg("__manual").arg(&directory).output().expect("it runs");
    assert!(made.status.success() && made.stderr.is_empty(), "{made:?}");
    let (daemon, connect) = (flags(&[]), flags(&["connect"]));
    let (ctl, cert) = (flags(&["ctl"]), flags(&["cert"]));
    assert!(daemon.len() > 40 && daemon.contains(&"log-limit".to_owned()), "{daemon:?}");
    assert!(connect.contains(&"quiet".to_owned()), "{connect:?}");
    for (page, flags) in [
        ("echopool.8", &daemon),
        ("echopool-connect.1", &connect),
        ("echopool-ctl.1", &ctl),
        ("echopool-cert.1", &cert),
    ] {
        let text = read(page).replace('\\', "");
        assert!(text.contains(".TH echopool"), "{page}");
        for flag in flags {
            assert!(text.contains(&format!("--{flag}")), "{page} does not name --{flag}");
        }
        assert!(!text.contains("until-stdin-closes"), "{page}");
    }
    for (script, form) in [("echopool.bash", "--"), ("_echopool", "--"), ("echopool.fish", "-l ")] {
        let text = read(script);
        for flag in daemon.iter().chain(&connect).chain(&ctl).chain(&cert) {
            assert!(text.contains(&format!("{form}{flag}")), "{script} does not name --{flag}");
        }
    }
    let bash = directory.join("echopool.bash");
    let checked = Command::new("bash").arg("-n").arg(&bash).output().expect("bash");
    assert!(checked.status.success(), "{checked:?}");
    fs::remove_dir_all(&directory).expect("removing the directory");
    let missing = PathBuf::from("/no/such/directory");
    let failed = Command::new(binary()).arg("__manual").arg(missing).output().expect("it runs");
    assert_eq!(failed.status.code(), Some(1));
}
