//! An upgrade: a new process of the program takes over from the running one, and no client notices.
//!
//! ```text
//! running process (upgrader)                    new process (takeover)
//!   starts it with --upgrade-from=DESCRIPTOR ──► reads its settings anew
//!   Opening, and a Group for each address ─────► binds nothing that it is given; starts all threads
//!   waits, at most --upgrade-timeout ◄────────── Ready (which groups it has taken), or Failed
//!   Go ────────────────────────────────────────► accepts
//!   closes its listeners ◄────────────────────── Serving
//!   Moves: a line for each worker ─────────────► takes over the connections
//!   ends when its connections have ended or moved
//! ```
//!
//! The listening sockets themselves are passed on (SCM_RIGHTS), so a connection that waits in a
//! backlog is served by either process, and none is lost. Until Serving, the running process
//! continues to accept. If anything fails before that, it kills the new process and continues. A
//! version of the program without upgrades rejects the argument and exits.
//!
//! * `channel`: messages between the two, with sockets
//! * `upgrader`: the running process's part
//! * `takeover`: the new one's part
//! * `changes`: reloads and similar changes, which exclude upgrades
//! * `connections`: moves the connections to the new process afterwards

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::admin::Upgrades;

mod changes;
mod channel;
mod connections;
mod takeover;
mod upgrader;

pub(super) use takeover::Takeover;
pub(super) use upgrader::{Upgrader, program};

/// The version of the messages. A process that does not know it takes nothing over.
const VERSION: u32 = 1;

/// How the first argument of a process that takes over begins. The number of the channel's descriptor
/// follows.
const ARGUMENT: &str = "--upgrade-from=";

/// The first message.
#[derive(Serialize, Deserialize, Debug)]
struct Opening {
    version: u32,
    /// The process that runs.
    process: u32,
    upgrades: Upgrades,
    /// How many groups follow.
    groups: usize,
    /// Whether the process is in a [sandbox](super::sandbox), which the new one then is in too. Versions
    /// without sandboxes do not say.
    #[serde(default)]
    is_sandboxed: bool,
}

/// The sockets of an address. They come with the message.
#[derive(Serialize, Deserialize, Debug)]
struct Group {
    role: Role,
    /// The endpoint as it is configured; of passed sockets, their name.
    endpoint: String,
    file: Option<File>,
    /// Whether the listener was told to accept nothing.
    is_stopped: bool,
}

/// What the sockets are for.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Listen,
    Admin,
    /// A service manager has passed them.
    Passed,
}

/// A socket file.
#[derive(Serialize, Deserialize, Debug)]
struct File {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// The new process is to accept.
#[derive(Serialize, Deserialize, Debug)]
struct Go;

/// The last message of the running process: the lines for the connections, one for each worker.
#[derive(Serialize, Deserialize, Debug)]
struct Moves;

/// A message of the new process.
#[derive(Serialize, Deserialize, Debug)]
enum Reply {
    /// It can accept. It has taken the groups with these numbers.
    Ready { taken: Vec<usize> },
    /// It accepts.
    Serving,
    /// It ends.
    Failed { text: String },
}
