//! `echopool cert`: makes a self-signed certificate and its key, for trying TLS.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{CommandFactory, Parser};
use rcgen::{CertificateParams, DnType, KeyPair, date_time_ymd};

use super::{FAILED, arguments};

const EXAMPLES: &str = "\
The certificate is its own authority: give it to clients as the one to trust.

Exit codes: 0 both files are written; 1 failure; 2 wrong usage.

Examples:
  echopool cert
  echopool --listen 'tls://7443?cert=cert.pem&key=key.pem'
  openssl s_client -connect localhost:7443 -CAfile cert.pem -quiet";

/// Makes a self-signed certificate and its key, for trying TLS.
#[derive(Parser, Debug)]
#[command(name = "echopool cert", bin_name = "echopool cert", version)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// The names and addresses that the certificate is for
    #[arg(value_name = "NAME", default_values = ["localhost", "127.0.0.1", "::1"])]
    names: Vec<String>,

    /// The file of the certificate; it must not exist
    #[arg(long, value_name = "FILE", default_value = "cert.pem")]
    cert: PathBuf,

    /// The file of the key, readable by its owner alone; it must not exist
    #[arg(long, value_name = "FILE", default_value = "key.pem")]
    key: PathBuf,

    /// Days until the certificate is no longer valid
    #[arg(long, value_name = "COUNT", default_value = "365")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
}

/// The command line.
pub(super) fn command() -> clap::Command {
    Args::command()
}

/// Makes the files. `args` are the arguments of the process without the command's name. Exit codes:
/// 0, 1 (failure), 2 (wrong usage).
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Args = match arguments(args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    match make(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(io::stderr(), "echopool cert: {text}");
            ExitCode::from(FAILED)
        }
    }
}

fn make(args: &Args) -> Result<(), String> {
    let (cert, key) = pem(&args.names, args.days).map_err(|error| error.to_string())?;
    write(&args.key, 0o600, &key)?;
    write(&args.cert, 0o644, &cert).inspect_err(|_| {
        // It was made just now, and is of no use alone.
        let _ = std::fs::remove_file(&args.key);
    })?;
    let (cert, key) = (args.cert.display(), args.key.display());
    let _ = writeln!(
        io::stdout(),
        "wrote {cert} and {key}, for {}, valid for {} days; try:\n  \
         echopool --listen 'tls://7443?cert={cert}&key={key}'",
        args.names.join(", "),
        args.days,
    );
    Ok(())
}

/// A certificate for these names, and its key.
fn pem(names: &[String], days: u32) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let day = Duration::from_secs(24 * 3600);
    params.not_before = date_time_ymd(1970, 1, 1) + now.saturating_sub(day);
    params.not_after = date_time_ymd(1970, 1, 1) + now + day * days;
    params.distinguished_name.push(DnType::CommonName, "echopool, self-signed");
    let key = KeyPair::generate()?;
    Ok((params.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), String> {
    let mut options = OpenOptions::new();
    let made = options.write(true).create_new(true).mode(mode).open(path);
    made.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            format!("{} exists: remove it, or name another file", path.display())
        }
        _ => format!("cannot write {}: {error}", path.display()),
    })
}
