//! Looking up names, on a thread of its own: the system's resolver blocks.

use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::{io, thread};

use super::error::Error;
use super::submission::{Answer, Submission};

/// A name to be looked up, for a client of the loop.
pub(crate) struct Question {
    pub(crate) slot: u32,
    pub(crate) epoch: u32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Starts the thread. It ends when the sender is dropped, after what it is looking up just then:
/// that cannot be interrupted, so nobody waits for it.
pub(super) fn start(
    submission: Arc<Submission>,
    clients: usize,
) -> io::Result<SyncSender<Question>> {
    let (send, questions) = sync_channel(clients);
    thread::Builder::new()
        .name("client-resolver".into())
        .spawn(move || answer_all(&questions, &submission))?;
    Ok(send)
}

fn answer_all(questions: &Receiver<Question>, submission: &Submission) {
    for Question { slot, epoch, host, port } in questions {
        let addresses = look_up(host, port);
        submission.resolved(Answer { slot, epoch, addresses });
    }
}

fn look_up(host: String, port: u16) -> Result<Vec<SocketAddr>, Error> {
    let found = (host.as_str(), port).to_socket_addrs().map(Vec::from_iter);
    let reason = match found {
        Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
        Ok(_) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::Resolve { host, reason })
}
