//! The daemon's executable. Everything it does is in the library, [`echopool::daemon`], so that the
//! load generator can start a server of its own.

use std::process::ExitCode;

fn main() -> ExitCode {
    echopool::daemon::run(std::env::args_os())
}
