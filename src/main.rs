//! The executable: `echopool serve` (or no command) is the daemon, `echopool connect` the client,
//! `echopool ctl` controls a daemon, and `echopool cert` makes a certificate. `echopool __manual`
//! writes manual pages and completions, for packages. Everything they do is in the library,
//! [`echopool::daemon`], so that the load generator can start a server of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Err(code) = echopool::daemon::check_memory() {
        return code;
    }
    let mut args: Vec<_> = std::env::args_os().collect();
    let command = args.get(1).and_then(|word| word.to_str());
    match command {
        Some("connect") => {
            args.remove(1);
            echopool::daemon::connect::run(args)
        }
        Some("ctl") => {
            args.remove(1);
            echopool::daemon::ctl::run(args)
        }
        Some("cert") => {
            args.remove(1);
            echopool::daemon::cert::run(args)
        }
        Some("__manual") => {
            args.remove(1);
            echopool::daemon::manual::run(args)
        }
        Some("serve") => {
            args.remove(1);
            echopool::daemon::run(args)
        }
        _ => echopool::daemon::run(args),
    }
}
