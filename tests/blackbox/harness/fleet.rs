//! Many clients on one thread, with nonblocking sockets and epoll. Shares no code with the server.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::{GUARD, PIECE, eventually, payload};

/// The state of a client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Connecting,
    Up,
    /// The server sent FIN, and this side lost nothing before it.
    Fin,
    /// Refused, reset, or timed out.
    Failed(io::ErrorKind),
}

struct Member {
    stream: TcpStream,
    id: u64,
    sent: u64,
    received: u64,
    fate: Fate,
    interest: epoll::EventFlags,
}

/// Clients that are driven together. Each sends its own stream of bytes and checks the echo.
pub struct Fleet {
    epoll: OwnedFd,
    members: Vec<Member>,
    /// The stream offset up to which each client sends and receives.
    goal: u64,
    /// Most bytes that a client may have in transit.
    window: u64,
    /// Number of members that are connecting, or up and below the goal.
    unfinished: usize,
    buffer: Vec<u8>,
}

impl Fleet {
    /// Starts `count` connects as fast as it can.
    pub fn begin(to: SocketAddr, count: usize) -> Fleet {
        super::files();
        let mut fleet = Fleet {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll"),
            members: Vec::with_capacity(count),
            goal: 0,
            window: u64::MAX,
            unfinished: 0,
            buffer: vec![0; PIECE],
        };
        (0..count).for_each(|_| fleet.add(to));
        fleet
    }

    /// Connects `count` clients. Fails unless the kernel accepts all.
    pub fn connect(to: SocketAddr, count: usize) -> Fleet {
        let mut fleet = Fleet::begin(to, count);
        fleet.drive("connecting");
        assert_eq!(fleet.count(Fate::Up), count, "not all connected: {:?}", fleet.fates());
        fleet
    }

    fn add(&mut self, to: SocketAddr) {
        let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)
            .expect("a socket for a client");
        match rustix::net::connect(&socket, &to) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => panic!("client {}: connect: {error}", self.members.len()),
        }
        let index = self.members.len() as u64;
        let interest = epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(index), interest)
            .expect("adding a client to epoll");
        let (stream, fate) = (TcpStream::from(socket), Fate::Connecting);
        self.members.push(Member { stream, id: index, sent: 0, received: 0, fate, interest });
        self.unfinished += 1;
    }

    /// Limits the bytes in transit of each client from now on.
    pub fn set_window(&mut self, bytes: u64) {
        self.window = bytes;
    }

    /// Each client sends `count` more bytes and receives them back, all at the same time. Fails if
    /// the server has closed any client.
    pub fn echo(&mut self, count: u64) {
        self.set_goal(self.goal + count);
        self.drive(&format!("echoing {count} bytes each"));
        let up = self.count(Fate::Up);
        assert_eq!(up, self.members.len(), "clients lost: {:?}", self.fates());
    }

    /// Each client sends endlessly from now on.
    pub fn set_endless(&mut self) {
        self.set_goal(u64::MAX);
    }

    /// Stops sending. Bytes in transit are still received.
    pub fn stop_sending(&mut self) {
        self.set_window(0);
    }

    fn set_goal(&mut self, goal: u64) {
        self.goal = goal;
        self.unfinished = 0;
        for index in 0..self.members.len() {
            if self.members[index].fate == Fate::Up {
                self.unfinished += usize::from(self.members[index].received < goal);
                self.arm(index);
            }
        }
    }

    /// Handles events until each client has reached the goal or has been closed.
    pub fn drive(&mut self, what: &str) {
        let start = Instant::now();
        while self.unfinished > 0 {
            assert!(
                start.elapsed() < GUARD,
                "{what}: {} of {} clients unfinished: {:?}",
                self.unfinished,
                self.members.len(),
                self.fates()
            );
            self.turn(Duration::from_millis(100));
        }
    }

    /// Handles events for `time`.
    pub fn drive_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while let Some(left) = end.checked_duration_since(Instant::now()) {
            self.turn(left);
        }
    }

    fn turn(&mut self, wait: Duration) {
        let wait = Timespec::try_from(wait).expect("a short time");
        let mut events = Vec::with_capacity(1024);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => return,
            Err(error) => panic!("epoll_wait: {error}"),
        }
        for event in events {
            self.handle(event.data.u64() as usize, event.flags);
        }
    }

    fn handle(&mut self, index: usize, ready: epoll::EventFlags) {
        let finished_before = self.is_finished(index);
        if self.members[index].fate == Fate::Connecting {
            let error = self.members[index].stream.take_error().expect("reading SO_ERROR");
            self.members[index].fate = error.map_or(Fate::Up, |error| Fate::Failed(error.kind()));
        }
        if ready.intersects(epoll::EventFlags::IN | epoll::EventFlags::ERR | epoll::EventFlags::HUP)
        {
            self.receive(index);
        }
        self.send(index);
        self.arm(index);
        self.unfinished -= usize::from(!finished_before && self.is_finished(index));
    }

    fn is_finished(&self, index: usize) -> bool {
        let member = &self.members[index];
        match member.fate {
            Fate::Connecting => false,
            Fate::Up => member.received >= self.goal,
            Fate::Fin | Fate::Failed(_) => true,
        }
    }

    fn receive(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.fate != Fate::Up {
            return;
        }
        match member.stream.read(&mut self.buffer) {
            Ok(0) => member.fate = Fate::Fin,
            Ok(got) => {
                let expected = &payload(member.id, member.received)[..got];
                let (id, at) = (member.id, member.received);
                assert!(self.buffer[..got] == *expected, "client {id}: a wrong byte at {at}");
                member.received += got as u64;
                assert!(member.received <= member.sent, "client {id}: more than was sent");
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => member.fate = Fate::Failed(error.kind()),
        }
    }

    fn send(&mut self, index: usize) {
        let member = &mut self.members[index];
        if member.fate != Fate::Up {
            return;
        }
        let end = self.goal.min(member.received.saturating_add(self.window));
        let mut budget = 4;
        while member.sent < end && budget > 0 {
            budget -= 1;
            let count = (end - member.sent).min(PIECE as u64) as usize;
            match member.stream.write(&payload(member.id, member.sent)[..count]) {
                Ok(taken) => member.sent += taken as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    member.fate = Fate::Failed(error.kind());
                    return;
                }
            }
        }
    }

    /// Registers what this member waits for with epoll, or removes it when it has ended.
    fn arm(&mut self, index: usize) {
        let member = &mut self.members[index];
        let end = self.goal.min(member.received.saturating_add(self.window));
        let wanted = match member.fate {
            Fate::Connecting => epoll::EventFlags::OUT,
            Fate::Up if member.sent < end => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Fate::Up => epoll::EventFlags::IN,
            Fate::Fin | Fate::Failed(_) => {
                let _ = epoll::delete(&self.epoll, &member.stream);
                return;
            }
        };
        if wanted != member.interest {
            member.interest = wanted;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &member.stream, data, wanted).expect("epoll_ctl");
        }
    }

    /// Each client writes until the kernel accepts no more, and reads nothing. Returns the bytes
    /// sent.
    pub fn fill(&mut self) -> u64 {
        let before: u64 = self.members.iter().map(|member| member.sent).sum();
        (self.goal, self.window) = (u64::MAX, u64::MAX);
        for index in 0..self.members.len() {
            let mut last = u64::MAX;
            while last != self.members[index].sent {
                last = self.members[index].sent;
                self.send(index);
            }
        }
        self.members.iter().map(|member| member.sent).sum::<u64>() - before
    }

    /// Repeats [`Fleet::fill`] until the server reads no more from any client. Returns the bytes
    /// sent.
    pub fn fill_until_stuck(&mut self) -> u64 {
        let (mut sent, mut quiet) = (0, 0);
        eventually("the server stops reading", || {
            let more = self.fill();
            sent += more;
            quiet = if more == 0 { quiet + 1 } else { 0 };
            quiet == 20
        });
        sent
    }

    pub fn count(&self, fate: Fate) -> usize {
        self.members.iter().filter(|member| member.fate == fate).count()
    }

    /// Number of clients of each fate, for failure messages.
    pub fn fates(&self) -> Vec<(Fate, usize)> {
        let mut fates: Vec<(Fate, usize)> = Vec::new();
        for member in &self.members {
            match fates.iter_mut().find(|(fate, _)| *fate == member.fate) {
                Some((_, count)) => *count += 1,
                None => fates.push((member.fate, 1)),
            }
        }
        fates
    }

    /// Number of bytes received by all clients.
    pub fn received(&self) -> u64 {
        self.members.iter().map(|member| member.received).sum()
    }

    /// Local address, bytes sent and bytes received of each client.
    pub fn books(&self) -> Vec<(SocketAddr, u64, u64)> {
        let local = |member: &Member| member.stream.local_addr().expect("the local address");
        self.members.iter().map(|member| (local(member), member.sent, member.received)).collect()
    }

    /// Number of clients that have received at least `bytes`.
    pub fn served(&self, bytes: u64) -> usize {
        self.members.iter().filter(|member| member.received >= bytes).count()
    }

    /// Sets a goal without waiting for it: see [`Fleet::drive_for`] and [`Fleet::served`].
    pub fn aim(&mut self, count: u64) {
        self.set_goal(self.goal + count);
    }

    /// Closes one client that has received at least `bytes`. Returns whether there was one.
    pub fn drop_one_served(&mut self, bytes: u64) -> bool {
        let Some(index) = self.members.iter().position(|member| member.received >= bytes) else {
            return false;
        };
        let last = self.members.len() - 1;
        self.unfinished -= usize::from(!self.is_finished(index));
        self.members.swap_remove(index);
        if index < last {
            // The member that takes its place keeps its stream, and gets a new index in epoll.
            let member = &self.members[index];
            let data = epoll::EventData::new_u64(index as u64);
            epoll::modify(&self.epoll, &member.stream, data, member.interest).expect("epoll_ctl");
        }
        true
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }
}
