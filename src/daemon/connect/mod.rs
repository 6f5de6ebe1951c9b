//! `echopool connect`: a client for people and for pipes. Sends what is typed and shows what
//! arrives. The state of the connection goes to standard error.
//!
//! A separate thread reads standard input, and the loop of [`client`](crate::client) runs the
//! connection. The main thread gets everything that happens as a `ConsoleEvent`. At most `LINES_AHEAD`
//! lines are read before they are sent, so piped input waits in the pipe.
//!
//! * here: the command line, and the main loop from the first event to the exit code
//! * `input`: standard input, in chunks or lines; `line`: what a line means
//! * `owed`: whether the reply is what was sent
//! * `show`: what is written

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::{CommandFactory, Parser};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::base::endpoint::Endpoint;
use crate::base::units;
use crate::builtin::url::ServiceOptions;
use crate::client::target::Target;
use crate::client::with_remedy;
use crate::client::{
    Client, ClientLoop, Error, Failed, LoopLimits, Options, Reconnect, State, Unsent,
};
use crate::daemon::{FAILED, USAGE, arguments, inherited};
use crate::protocol::framing::{ByteOrder, Framing};

mod input;
mod line;
mod owed;
mod show;
#[cfg(test)]
mod tests;

use input::Input;
use line::{LineCommand, hub_frame, hub_request, messages_in};
use owed::Owed;
use show::Show;

/// Maximum number of lines, or chunks of input, that are read before the first of them is sent.
const LINES_AHEAD: usize = 32;

/// How long to wait for the other side to close after this one. Short, because a person or the end
/// of a pipe waits for it.
const LINGER: Duration = Duration::from_millis(500);

/// Exit code: 128 plus the number of SIGINT, as in a shell.
const INTERRUPTED: u8 = 130;

const EXAMPLES: &str = "\
The service determines how a line is sent. echo (tcp://, or none), discard, chargen: as bytes;
framed: as a frame, without the newline; message: as a message, with the delimiter in place of the
newline; hub: as a message to all, or a command: /list, /to ID TEXT, /quit (// for a leading slash).

At the end of input the client closes its sending side and shows what still arrives. With framed and
message it waits for a reply to each line. On a terminal, control characters are escaped.

Exit codes: 0 all sent, with all replies; 1 failure; 2 wrong usage; 130 interrupted.

Examples:
  echo hi | echopool connect 127.0.0.1:7777
  echopool connect framed://localhost:7778?order=big
  printf 'one\\ntwo\\n' | echopool connect 'message://[::1]:7779?delimiter=\\n'
  echopool connect 'tls://localhost:7443?ca=cert.pem'
  echopool connect hub://localhost:7780";

/// Connects to a server, sends the lines that you type, and shows what arrives.
#[derive(Parser, Debug)]
#[command(name = "echopool connect", bin_name = "echopool connect", version)]
#[command(after_help = EXAMPLES)]
struct Args {
    /// [SERVICE[+TRANSPORT]://]HOST:PORT[?OPTION=VALUE&...], as in the ready line of the server
    #[arg(value_name = "TARGET")]
    target: String,

    /// Time limit for connecting and, after the end of input, for more data to arrive
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = units::parse_duration)]
    timeout: Duration,

    /// Reconnect when the connection is lost [default: if input is a terminal]
    #[arg(long, conflicts_with = "no_reconnect")]
    reconnect: bool,

    /// Do not reconnect
    #[arg(long)]
    no_reconnect: bool,

    /// Write nothing to standard error except the reason of a failure
    #[arg(long, short)]
    quiet: bool,
}

/// The command line.
pub(super) fn command() -> clap::Command {
    Args::command()
}

/// Runs the client. `args` are the arguments of the process without the word `connect`.
pub fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Args = match arguments(args) {
        Ok(args) => args,
        Err(code) => return code,
    };
    let target = match Target::parse(&args.target) {
        Ok(target) => target,
        Err(error) => {
            complain(&error);
            return ExitCode::from(USAGE);
        }
    };
    match Talk::begin(&args, target).map(Talk::run) {
        Ok(code) => ExitCode::from(code),
        Err(text) => {
            complain(&text);
            ExitCode::from(FAILED)
        }
    }
}

/// Writes a line to standard error. Ignores errors, because there is nowhere else to report them.
fn complain(what: &dyn std::fmt::Display) {
    let _ = writeln!(io::stderr(), "echopool: {what}");
}

/// The events that the main thread receives.
enum ConsoleEvent {
    Input(Input),
    Connected(Result<Endpoint, Failed>),
    /// A line was sent. The second value is the number of messages in it.
    Sent(Result<Vec<u8>, Failed>, u64),
    Received(Result<Vec<u8>, Failed>),
    HalfClosed,
    State(State),
    Interrupted,
}

/// How lines are sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    /// As plain bytes.
    Bytes,
    /// As one message each, with a reply to each.
    Messages,
    /// As a message to all, or as a command.
    Hub(ByteOrder),
}

impl Mode {
    fn of(target: &Target) -> Mode {
        match target.service {
            ServiceOptions::Hub(hub) => Mode::Hub(hub.order),
            _ if target.framing.is_some() => Mode::Messages,
            _ => Mode::Bytes,
        }
    }
}

/// A conversation, from the first event to the exit code.
struct Talk {
    client: Client,
    _loop: ClientLoop,
    events: Receiver<ConsoleEvent>,
    teller: Sender<ConsoleEvent>,
    /// Allows the reader of standard input to read the next line.
    credits: Sender<()>,
    show: Show,
    mode: Mode,
    quiet: bool,
    timeout: Duration,
    reconnects: bool,
    is_terminal: bool,
    input_ended: bool,
    /// The connection is gone and there will be no reconnect.
    closed: bool,
    /// A line was not sent or not understood.
    failed: bool,
    sending: u64,
    /// Lines sent. With a delimiter, messages: a line that contains the delimiter is several
    /// messages.
    lines: u64,
    /// The bytes after the last delimiter in the lines sent so far, as the server divides them.
    carry: Vec<u8>,
    replies: u64,
    /// What an echoing service owes. `None` for other services. Also `None` after a lost
    /// connection, because the bytes that the service still had to send back are not known.
    owed: Option<Owed>,
    /// When to stop waiting for more data.
    give_up: Option<Instant>,
}

impl Talk {
    fn begin(args: &Args, target: Target) -> Result<Talk, String> {
        let is_terminal = io::stdin().is_terminal();
        let reconnects = (is_terminal || args.reconnect) && !args.no_reconnect;
        let (teller, events) = channel();
        let (credits, credit) = channel();
        for _ in 0..LINES_AHEAD {
            let _ = credits.send(());
        }
        on_signals(teller.clone())
            .map_err(|error| format!("cannot catch signals: {}", with_remedy(&error)))?;
        let limits = LoopLimits { linger: LINGER, ..LoopLimits::for_clients(1) };
        let own_loop =
            ClientLoop::start(limits).map_err(|e| Error::cannot_start(&e).to_string())?;
        let states = teller.clone();
        let mut options = Options::new()
            .connect_timeout(args.timeout)
            .unsent(Unsent::Keep)
            .on_state(move |state| drop(states.send(ConsoleEvent::State(state.clone()))));
        if reconnects {
            options = options.reconnect(Reconnect::default());
        }
        let mode = Mode::of(&target);
        let owed = Owed::by(&target.service, target.framing);
        let line_max = target.framing.map(|framing| framing.wire_max());
        let text = target.literal.is_empty().then(|| format!("{}:{}", target.host, target.port));
        let insecure = target.tls.as_ref().is_some_and(|tls| tls.client.insecure);
        let client = own_loop.client(&args.target, options).map_err(|error| error.to_string())?;
        if insecure && !args.quiet {
            complain(&"the certificate of the server is not verified (insecure=on)");
        }
        input::start(teller.clone(), credit, line_max).map_err(|error| error.to_string())?;
        if let Some(text) = text
            && !args.quiet
        {
            complain(&format_args!("looking up {text}"));
        }
        Ok(Talk {
            client,
            _loop: own_loop,
            events,
            teller,
            credits,
            show: Show::new(),
            mode,
            quiet: args.quiet,
            timeout: args.timeout,
            reconnects,
            is_terminal,
            input_ended: false,
            closed: false,
            failed: false,
            sending: 0,
            lines: 0,
            carry: Vec::new(),
            replies: 0,
            owed,
            give_up: None,
        })
    }

    fn run(mut self) -> u8 {
        let limit = if self.reconnects { Duration::MAX } else { self.timeout };
        let teller = self.teller.clone();
        self.client
            .connect(limit)
            .on_complete(move |address| drop(teller.send(ConsoleEvent::Connected(address))));
        self.receive(Vec::new());
        let code = loop {
            if let Some(code) = self.next_event().and_then(|event| self.hear(event)) {
                break code;
            }
        };
        if code == 0 {
            // Closes in order. Errors from the other side no longer matter.
            let _ = self.client.disconnect().wait_timeout(LINGER);
        }
        code
    }

    /// The next event. `None` if the client loop has ended. If the time-out passes, the event is a
    /// receive that timed out.
    fn next_event(&mut self) -> Option<ConsoleEvent> {
        let Some(give_up) = self.give_up else {
            // `self.teller` keeps the channel open.
            return self.events.recv().ok();
        };
        let left = give_up.saturating_duration_since(Instant::now());
        match self.events.recv_timeout(left) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                self.give_up = None;
                let failed = Failed::from(Error::TimedOut);
                Some(ConsoleEvent::Received(Err(failed)))
            }
        }
    }

    /// Handles an event. Returns the exit code if it is the last one.
    fn hear(&mut self, event: ConsoleEvent) -> Option<u8> {
        match event {
            // Nothing is sent after /quit.
            ConsoleEvent::Input(_) if self.input_ended => None,
            ConsoleEvent::Input(Input::Line(line)) => self.send_line(line),
            ConsoleEvent::Input(Input::TooLong(max)) => {
                complain(&format_args!(
                    "a line of more than {max} bytes was not sent; raise max-frame or max-message"
                ));
                self.failed = true;
                self.credit();
                None
            }
            ConsoleEvent::Input(Input::Failed(error)) => {
                complain(&format_args!("cannot read standard input: {error}"));
                self.failed = true;
                self.end_of_input()
            }
            ConsoleEvent::Input(Input::End) => self.end_of_input(),
            ConsoleEvent::Connected(Err(failed)) => {
                complain(&failed);
                Some(FAILED)
            }
            ConsoleEvent::Connected(Ok(_)) | ConsoleEvent::HalfClosed => None,
            ConsoleEvent::Sent(result, messages) => self.sent(result, messages),
            ConsoleEvent::Received(Ok(bytes)) => self.received(bytes),
            ConsoleEvent::Received(Err(failed)) => self.receive_failed(failed),
            ConsoleEvent::State(state) => {
                self.tell_state(&state);
                None
            }
            ConsoleEvent::Interrupted => Some(INTERRUPTED),
        }
    }

    fn credit(&self) {
        // If the reader has ended, there is no more input.
        let _ = self.credits.send(());
    }

    fn send_line(&mut self, line: Vec<u8>) -> Option<u8> {
        let data = match self.mode {
            Mode::Hub(order) => match hub_request(&line) {
                Ok(LineCommand::Quit) => return self.end_of_input(),
                Ok(LineCommand::Ask(request, payload)) => hub_frame(request, payload, order),
                Err(text) => {
                    complain(&text);
                    self.failed = true;
                    self.credit();
                    return None;
                }
            },
            _ => line,
        };
        let messages = match self.client.framing() {
            Some(Framing::Delimiter { delimiter, .. }) => {
                messages_in(&mut self.carry, &data, delimiter.bytes())
            }
            _ => 1,
        };
        self.sending += 1;
        self.lines += messages;
        if let Some(owed) = &mut self.owed {
            owed.sent(&data);
        }
        let teller = self.teller.clone();
        let tell = move |sent| drop(teller.send(ConsoleEvent::Sent(sent, messages)));
        self.client.send(data).on_complete(tell);
        None
    }

    fn sent(&mut self, result: Result<Vec<u8>, Failed>, messages: u64) -> Option<u8> {
        self.sending -= 1;
        self.credit();
        if let Err(failed) = result {
            complain(&format_args!("not sent: {failed}"));
            self.failed = true;
            // No reply to it is expected.
            self.lines -= messages;
            if self.closed {
                return Some(FAILED);
            }
        }
        self.end_if_done()
    }

    /// Nothing more will be sent.
    fn end_of_input(&mut self) -> Option<u8> {
        self.input_ended = true;
        self.wait_again();
        if self.closed {
            return Some(self.final_code());
        }
        if self.mode != Mode::Messages {
            let teller = self.teller.clone();
            self.client
                .half_close()
                .on_complete(move |_| drop(teller.send(ConsoleEvent::HalfClosed)));
        }
        self.end_if_done()
    }

    /// With messages, ends after the last reply. Otherwise the other side's close is the end.
    fn end_if_done(&mut self) -> Option<u8> {
        let answered = self.sending == 0 && self.replies >= self.lines;
        (self.input_ended && self.mode == Mode::Messages && answered).then(|| self.final_code())
    }

    fn code(&self) -> u8 {
        if self.failed { FAILED } else { 0 }
    }

    /// Returns the exit code after the whole reply. Reports a reply that differs from the bytes
    /// that were sent.
    fn final_code(&self) -> u8 {
        match self.owed.as_ref().and_then(Owed::complaint) {
            Some(complaint) if !self.failed => {
                complain(&complaint);
                FAILED
            }
            _ => self.code(),
        }
    }

    /// Restarts the time-out, when data has arrived or the wait for it starts.
    fn wait_again(&mut self) {
        if self.input_ended {
            self.give_up = Instant::now().checked_add(self.timeout);
        }
    }

    fn receive(&mut self, buffer: Vec<u8>) {
        let teller = self.teller.clone();
        let pending = match self.mode {
            Mode::Bytes => self.client.receive(buffer),
            Mode::Messages | Mode::Hub(_) => self.client.receive_message(buffer),
        };
        pending.on_complete(move |received| drop(teller.send(ConsoleEvent::Received(received))));
    }

    fn received(&mut self, bytes: Vec<u8>) -> Option<u8> {
        let shown = match self.mode {
            Mode::Bytes => self.show.bytes(&bytes),
            Mode::Messages => self.show.line(&bytes),
            Mode::Hub(order) => self.show.hub_event(&bytes, order),
        };
        match shown {
            Ok(()) => {}
            // The process at the other end of the pipe has closed it, which is not an error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Some(self.code()),
            Err(error) => {
                complain(&format_args!("cannot write to standard output: {error}"));
                return Some(FAILED);
            }
        }
        self.replies += 1;
        if let Some(owed) = &mut self.owed {
            owed.received(&bytes);
        }
        self.wait_again();
        self.receive(bytes);
        self.end_if_done()
    }

    fn receive_failed(&mut self, failed: Failed) -> Option<u8> {
        let ended_in_order = failed.error == Error::ClosedByPeer && failed.buffer.is_empty();
        if self.input_ended || failed.error == Error::TimedOut {
            return Some(self.last_words(&failed, ended_in_order));
        }
        if self.reconnects {
            self.owed = None;
            // The state event reports the reason. This receive is for the next connection.
            self.receive(Vec::new());
            return None;
        }
        if !ended_in_order || self.unanswered() > 0 {
            return Some(self.last_words(&failed, false));
        }
        // On a terminal this is the end. Piped input must still be sent or fail.
        self.closed = true;
        self.is_terminal.then(|| self.final_code())
    }

    /// Lines that were not sent, or with messages, lines without a reply.
    fn unanswered(&self) -> u64 {
        match self.mode {
            Mode::Messages => self.lines.saturating_sub(self.replies),
            _ => self.sending,
        }
    }

    /// Reports what is missing when no more data can arrive. Returns the exit code.
    fn last_words(&self, failed: &Failed, ended_in_order: bool) -> u8 {
        let unanswered = self.unanswered();
        if ended_in_order && unanswered == 0 {
            return self.final_code();
        }
        let what = match (self.mode, unanswered) {
            (_, 0) => String::new(),
            (Mode::Messages, n) => {
                format!(" ({n} of {} lines without a reply)", self.lines)
            }
            (_, n) => format!(" ({n} of {} not sent)", self.lines),
        };
        complain(&format_args!("{failed}{what}"));
        FAILED
    }

    fn tell_state(&self, state: &State) {
        if self.quiet {
            return;
        }
        match state {
            State::Connected { address } => {
                complain(&format_args!("connected to {}", address.address()))
            }
            State::Waiting { until, attempt, why } => {
                let left = until.saturating_duration_since(Instant::now()).as_secs_f64();
                complain(&format_args!("{why}; attempt {attempt} in {left:.1} s"));
            }
            State::Closed { why: Error::ClosedByPeer } if !self.input_ended => {
                complain(&"the peer has closed the connection");
            }
            State::Connecting | State::Closed { .. } => {}
        }
    }
}

/// The first signal ends in order, the second one at once.
fn on_signals(teller: Sender<ConsoleEvent>) -> io::Result<()> {
    let mut signals = inherited::catch(&[SIGINT, SIGTERM])?;
    thread::Builder::new().name("signals".into()).spawn(move || {
        for nth in 0.. {
            if signals.forever().next().is_none() || nth > 0 {
                std::process::exit(INTERRUPTED.into());
            }
            let _ = teller.send(ConsoleEvent::Interrupted);
        }
    })?;
    Ok(())
}
