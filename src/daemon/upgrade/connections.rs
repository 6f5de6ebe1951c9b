//! The connections that go from the old process to the new one, after the listeners. Each worker of
//! the old process has a channel, its *line*, to a thread of the new process:
//!
//! ```text
//! old worker (Line)                       thread of the new process (take_over)
//!   a batch of connections ─────────────► takes a place for each: a service that is the same, a
//!                                         permit; otherwise refuses it
//!   goes on with those refused ◄───────── Taken
//!   Commit ─────────────────────────────► gives the others to its workers
//!   closes its descriptors
//! ```
//!
//! Until Commit is in the new process's queue, the connections belong to the old process. If the
//! new process dies before that, or does not reply, the old process continues with them and closes
//! the line, and the new process then forgets them. If the new process dies later, they end with
//! it, like all its other connections.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use crate::base::endpoint::Peer;
use crate::base::time::Time;
use crate::server::Taker;
use crate::shared::moved::{Facts, Moved, Passed, Passing, Successor};
use crate::shared::permits::Permit;

/// How long the new process has to reply. The worker serves nobody meanwhile.
const REPLY_TIME: Duration = Duration::from_secs(2);

/// A connection that is offered. Its socket comes with the message.
#[derive(Serialize, Deserialize, Debug)]
struct Record {
    /// The service of its listener with all options, and the address. Empty if `resumes` has it.
    listener: String,
    /// The listener of a connection that its service does not begin anew. A version that does not know
    /// of this finds no listener, and refuses the connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resumes: Option<Resumes>,
    peer: PeerRecord,
    since_ns: u64,
    active_at_ns: u64,
    bytes_received: u64,
    bytes_sent: u64,
}

#[derive(Serialize, Deserialize, Debug)]
struct Resumes {
    listener: String,
    /// What the service goes on from.
    from: u64,
}

#[derive(Serialize, Deserialize, Debug)]
enum PeerRecord {
    Tcp(std::net::SocketAddr),
    Unix { pid: u32, uid: u32, gid: u32 },
}

/// For each connection of a batch, whether the new process has a place for it.
#[derive(Serialize, Deserialize, Debug)]
struct Taken(Vec<bool>);

/// The places are to be used.
#[derive(Serialize, Deserialize, Debug)]
struct Commit;

impl Record {
    fn new(listener: &str, facts: &Facts) -> Record {
        let peer = match facts.peer {
            Peer::Tcp(address) => PeerRecord::Tcp(address),
            Peer::Unix { pid, uid, gid } => PeerRecord::Unix { pid, uid, gid },
        };
        let name = listener.to_owned();
        let (listener, resumes) = match facts.continuation {
            0 => (name, None),
            from => (String::new(), Some(Resumes { listener: name, from })),
        };
        Record {
            listener,
            resumes,
            peer,
            since_ns: facts.since.as_nanos(),
            active_at_ns: facts.active_at.as_nanos(),
            bytes_received: facts.bytes_received,
            bytes_sent: facts.bytes_sent,
        }
    }

    /// The name of its listener, and what its service goes on from.
    fn resumes(&self) -> (&str, u64) {
        match &self.resumes {
            None => (&self.listener, 0),
            Some(Resumes { listener, from }) => (listener, *from),
        }
    }

    fn facts(self, listener: u64) -> Facts {
        Facts {
            listener,
            continuation: self.resumes().1,
            peer: match self.peer {
                PeerRecord::Tcp(address) => Peer::Tcp(address),
                PeerRecord::Unix { pid, uid, gid } => Peer::Unix { pid, uid, gid },
            },
            since: Time::from_nanos(self.since_ns),
            active_at: Time::from_nanos(self.active_at_ns),
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
        }
    }
}

/// A worker's line to the new process.
struct Line {
    channel: Channel,
    /// The listeners of this process, by their numbers.
    listeners: Arc<[String]>,
}

/// The workers' ends of their lines, in the order of the workers.
pub(super) type Successors = Vec<Box<dyn Successor>>;

/// A line for each worker, and the new process's ends of them.
pub(super) fn lines(
    workers: usize,
    listeners: &[String],
) -> std::io::Result<(Successors, Vec<Channel>)> {
    let listeners: Arc<[String]> = listeners.into();
    let (mut own, mut others) = (Successors::new(), Vec::new());
    for _ in 0..workers {
        let (channel, other) = Channel::pair(REPLY_TIME)?;
        own.push(Box::new(Line { channel, listeners: listeners.clone() }));
        others.push(other);
    }
    Ok((own, others))
}

impl Successor for Line {
    fn take(&mut self, connections: &[(Facts, Passing<'_>)]) -> Result<Vec<bool>, String> {
        let record = |(facts, _): &(Facts, _)| {
            let listener = self.listeners.get(facts.listener as usize);
            Record::new(listener.map_or("", |listener| listener), facts)
        };
        let batch: Vec<Record> = connections.iter().map(record).collect();
        let sockets: Vec<BorrowedFd<'_>> =
            connections.iter().filter_map(|(_, socket)| socket.descriptor()).collect();
        let failed =
            |error: std::io::Error| format!("the new process accepts no more connections: {error}");
        self.channel.send(&batch, &sockets).map_err(failed)?;
        let reply = self.channel.receive::<Taken>(Some(REPLY_TIME)).map_err(failed)?;
        let Some((Taken(taken), _)) = reply.filter(|(taken, _)| taken.0.len() == batch.len())
        else {
            return Err("the new process accepts no more connections".to_owned());
        };
        self.channel.send(&Commit, &[]).map_err(failed)?;
        Ok(taken)
    }
}

/// The lines of the old process, in the new one. Dropping it closes them and waits until what was
/// committed is taken over.
pub(super) struct Lines {
    channels: Vec<Channel>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Lines {
    /// Takes over what comes through these lines, for the listeners with these names.
    ///
    /// # Errors
    /// The system refuses a thread or a descriptor.
    pub(super) fn take_over(
        sockets: Vec<OwnedFd>,
        listeners: &[String],
        taker: &Taker,
    ) -> std::io::Result<Lines> {
        let mut lines = Lines { channels: Vec::new(), threads: Vec::new() };
        let listeners: Arc<[String]> = listeners.into();
        for (worker, socket) in sockets.into_iter().enumerate() {
            let channel = Channel::inherited(socket)?;
            lines.channels.push(channel.another()?);
            let (listeners, taker) = (listeners.clone(), taker.clone());
            let thread = thread::Builder::new()
                .name(format!("take over {worker}"))
                .stack_size(crate::daemon::HELPER_STACK_BYTES)
                .spawn(move || {
                    while take_over(&channel, worker, &listeners, &taker) {}
                    // The other process does not wait for a reply that will not come.
                    channel.shut_down();
                })?;
            lines.threads.push(thread);
        }
        Ok(lines)
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.channels.iter().for_each(Channel::shut_down);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Takes over a batch. Returns false at the end of the line.
fn take_over(channel: &Channel, worker: usize, listeners: &[String], taker: &Taker) -> bool {
    let Ok(Some((batch, sockets))) = channel.receive::<Vec<Record>>(None) else { return false };
    if batch.len() != sockets.len() {
        let (all, came) = (batch.len(), sockets.len());
        log::warn!("of {all} connections {came} arrived: too few open files; the others stay");
        return false;
    }
    let place = |record: Record| -> Option<(Facts, Permit)> {
        let (its, _) = record.resumes();
        let is_its = |name: &String| !name.is_empty() && *name == its;
        let listener = listeners.iter().position(is_its)?;
        let facts = record.facts(listener as u64);
        Some((facts, taker.place(facts.peer)?))
    };
    let places: Vec<_> = batch.into_iter().map(place).collect();
    let taken = places.iter().map(Option::is_some).collect();
    if channel.send(&Taken(taken), &[]).is_err() {
        return false;
    }
    // Without it, the old process goes on with all of them.
    if !matches!(channel.receive::<Commit>(None), Ok(Some(_))) {
        return false;
    }
    for (place, socket) in places.into_iter().zip(sockets) {
        if let Some((facts, permit)) = place {
            let socket = Passed::Descriptor(socket);
            taker.go_on_with(worker, Moved { facts, socket, permit });
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use super::*;
    use crate::builtin::Echo;
    use crate::server::ServerHandle;
    use crate::{Config, Server};

    const NAME: &str = "echo at an address";
    /// Longer than any reply takes. A channel that says nothing fails the test after it.
    const GUARD: Duration = Duration::from_secs(10);

    /// A server that takes over, and the old process's end of the line to it.
    fn taking() -> (ServerHandle, Lines, Channel) {
        let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let config = Config::new().listen(anywhere).workers(1).max_connections(4);
        let server = Server::start(config, Echo).unwrap();
        let (old, new) = Channel::pair(GUARD).unwrap();
        let socket = new.as_fd().try_clone_to_owned().unwrap();
        drop(new);
        let names = [NAME.to_owned()];
        let lines = Lines::take_over(vec![socket], &names, &server.taker()).unwrap();
        (server, lines, old)
    }

    /// A client, and the connection to it that another process has accepted.
    fn accepted() -> (TcpStream, TcpStream, Record) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, address) = listener.accept().unwrap();
        let facts = Facts {
            listener: 0,
            peer: Peer::Tcp(address),
            since: Time::from_nanos(1),
            active_at: crate::engine::sys::monotonic_now(),
            bytes_received: 3,
            bytes_sent: 3,
            continuation: 0,
        };
        socket.set_nonblocking(true).unwrap();
        (client, socket, Record::new(NAME, &facts))
    }

    #[test]
    fn a_connection_is_taken_over_when_that_is_committed_and_not_before() {
        let (server, lines, old) = taking();
        let (mut client, socket, record) = accepted();
        client.write_all(b"text").unwrap();
        old.send(&[record], &[socket.as_fd()]).unwrap();
        let taken = old.receive::<Taken>(Some(GUARD)).unwrap().unwrap();
        assert_eq!(taken.0.0, [true]);
        assert_eq!(server.stats().total().connections, 0, "it is the old process's");
        old.send(&Commit, &[]).unwrap();
        drop(socket);
        client.read_exact(&mut [0; 4]).unwrap();
        assert_eq!(server.stats().total().taken_over, 1);
        drop((client, lines));
    }

    #[test]
    fn a_batch_of_which_not_all_descriptors_came_is_not_taken_and_ends_the_line_at_once() {
        let (server, _lines, old) = taking();
        let ((_one, first, record), (_other, _second, another)) = (accepted(), accepted());
        old.send(&[record, another], &[first.as_fd()]).unwrap();
        // The old process does not wait for a reply.
        let reply = old.receive::<Taken>(Some(GUARD));
        assert!(matches!(reply, Ok(None)), "{reply:?}");
        assert_eq!(server.stats().total().taken_over, 0);
        assert!(old.send(&Commit, &[]).is_err(), "nothing more goes through");
    }

    /// Such a version would begin it anew: it knows `listener` alone, and takes nothing without it.
    #[test]
    fn a_connection_that_is_not_begun_anew_has_no_listener_for_an_older_version() {
        let (_client, _socket, record) = accepted();
        let text = serde_json::to_string(&record).unwrap();
        assert!(!text.contains("resumes"), "{text}");
        let record: Record = serde_json::from_str(&text).unwrap();
        assert_eq!(record.resumes(), (NAME, 0));
        let facts = Facts { continuation: 7, ..record.facts(0) };
        let record = Record::new(NAME, &facts);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["listener"], "");
        let record: Record = serde_json::from_value(json).unwrap();
        assert_eq!(record.resumes(), (NAME, 7));
        assert_eq!(record.facts(0), facts);
    }

    #[test]
    fn a_process_that_is_to_end_takes_no_connection() {
        let (server, _lines, old) = taking();
        // It does not end while this client is connected.
        let address = server.local_endpoints()[0].socket_addr().unwrap();
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(b"text").unwrap();
        client.read_exact(&mut [0; 4]).unwrap();
        server.begin_drain(Duration::from_secs(60));
        let (_client, socket, record) = accepted();
        old.send(&[record], &[socket.as_fd()]).unwrap();
        let taken = old.receive::<Taken>(Some(GUARD)).unwrap().unwrap();
        assert_eq!(taken.0.0, [false]);
    }
}
