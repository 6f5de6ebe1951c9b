//! Another thread that uses the server: it sends messages to one client or to all, and disconnects
//! clients, at any moment, through the same inboxes and receipts as `ServerHandle`. Here it polls
//! for its receipts instead of blocking. Each receipt must arrive once and be correct.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::external_message::{EXTERNAL_MIN, external_message};
use super::marks::Mark;
use super::service::Seen;
use super::world::World;
use crate::base::key::ConnectionId;
use crate::buffer::Reserve;
use crate::server::messaging::{ClientAccess, NotTaken};
use crate::shared::directory::Directory;
use crate::shared::mailbox::Mailboxes;
use crate::shared::receipt::{Answers, SendError, Tally};

/// The most messages that are sent while a worker is in its turn.
const FLOODS_MAX: u32 = 300;

/// A thread outside of all workers.
pub(super) struct External {
    clients: ClientAccess,
    /// Longest pause between two requests.
    pub(super) pause_max: Duration,
    next: u64,
    /// How many more messages it sends while a worker is in its turn, and the draws for these.
    floods: u32,
    rng: fastrand::Rng,
    /// Requests whose receipts have not arrived yet.
    waiting: Vec<(Wish, Answers)>,
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Send(u64),
    Broadcast(u64),
    Disconnect,
}

impl External {
    pub(super) fn new(
        mailboxes: Arc<Mailboxes>,
        directory: Arc<Directory>,
        reserve: Arc<Reserve>,
        pause_max: Duration,
        mut rng: fastrand::Rng,
    ) -> External {
        let clients = ClientAccess { mailboxes, directory, reserve, next: AtomicU64::new(1) };
        let floods = if rng.u8(0..4) == 0 { rng.u32(1..=FLOODS_MAX) } else { 0 };
        External { clients, pause_max, next: 0, floods, rng, waiting: Vec::new() }
    }

    /// A worker is in its turn: another thread may send to all clients meanwhile.
    pub(super) fn act_meanwhile(&mut self, world: &mut World) {
        if self.floods > 0 && self.rng.bool() {
            self.floods -= 1;
            self.next += 1;
            world.mark(Mark::ExternalMeanwhile);
            self.broadcast(world, self.next, EXTERNAL_MIN);
        }
    }

    /// It sends nothing more.
    pub(super) fn calm_down(&mut self) {
        self.floods = 0;
    }

    /// Makes one request.
    pub(super) fn act(&mut self, world: &mut World, seen: &Rc<RefCell<Seen>>, len_max: usize) {
        let wish = world.rng.u8(0..16);
        let len = world.rng.usize(EXTERNAL_MIN..=len_max);
        self.next += 1;
        let number = self.next;
        match wish {
            0 => self.disconnect(world, seen),
            1..=5 => self.broadcast(world, number, len),
            6 => self.too_long(world, number, len_max),
            _ => self.send(world, seen, number, len),
        }
    }

    /// Picks a connected client, or now and then one that may be gone.
    fn someone(&self, world: &mut World, seen: &Rc<RefCell<Seen>>) -> Option<ConnectionId> {
        let mut ids: Vec<ConnectionId> = match world.rng.u8(0..8) {
            0 => seen.borrow().ids.iter().copied().collect(),
            _ => self.clients.directory.list().iter().map(|client| client.id).collect(),
        };
        // The iteration order of a set differs from run to run.
        ids.sort();
        world.rng.choice(ids)
    }

    fn send(&mut self, world: &mut World, seen: &Rc<RefCell<Seen>>, number: u64, len: usize) {
        let Some(id) = self.someone(world, seen) else { return };
        world.trace(60, number as usize, id.to_bits(), || {
            format!("external message {number} to {id}")
        });
        match self.clients.begin_send_to(id, &external_message(number, len)) {
            Ok(answers) => self.waiting.push((Wish::Send(number), answers)),
            Err(error) => self.refused(world, error, id.worker()),
        }
    }

    /// Notes why a request was refused, and whether the worker's inbox was the reason.
    fn refused(&self, world: &mut World, error: SendError, worker: usize) {
        if error == SendError::QueueFull && self.clients.mailboxes.is_full(worker) {
            world.mark(Mark::InboxFull);
        }
        note(world, error);
    }

    fn broadcast(&mut self, world: &mut World, number: u64, len: usize) {
        world.trace(61, number as usize, 0, || format!("external message {number} to all"));
        let (answers, failed) = self.clients.begin_broadcast(&external_message(number, len), None);
        if let Some(NotTaken { error, worker, .. }) = failed {
            self.refused(world, error, worker);
        }
        self.waiting.push((Wish::Broadcast(number), answers));
    }

    fn too_long(&mut self, world: &mut World, number: u64, len_max: usize) {
        let Some(client) = self.clients.directory.next(0) else { return };
        let long = external_message(number, len_max + 1);
        let refused = self.clients.begin_send_to(client.1.id, &long).err();
        match refused {
            Some(error @ (SendError::TooLong | SendError::QueueFull)) => note(world, error),
            // The service accepts less than a buffer.
            _ => self.waiting.extend(refused.is_none().then(|| {
                world.complain(|| "a message longer than a buffer was accepted".into());
                (Wish::Send(number), Answers::new())
            })),
        }
    }

    fn disconnect(&mut self, world: &mut World, seen: &Rc<RefCell<Seen>>) {
        let Some(id) = self.someone(world, seen) else { return };
        world.trace(62, 0, id.to_bits(), || format!("external disconnect of {id}"));
        match self.clients.begin_disconnect(id) {
            Ok(answers) => {
                seen.borrow_mut().disconnects.insert(id);
                self.waiting.push((Wish::Disconnect, answers));
            }
            Err(error) => note(world, error),
        }
    }

    /// Polls for receipts. With `rest` the world is idle, so all receipts must have arrived.
    pub(super) fn look(&mut self, world: &mut World, seen: &Seen, rest: bool) {
        self.waiting.retain(|(wish, answers)| {
            let tally = answers.so_far();
            if tally.open == 0 {
                answered(world, seen, *wish, tally);
            } else if rest {
                world.complain(|| format!("no receipt for {wish:?}"));
            }
            tally.open > 0
        });
    }
}

fn note(world: &mut World, error: SendError) {
    world.mark(match error {
        SendError::Gone => Mark::ExternalGone,
        SendError::QueueFull => Mark::ExternalQueueFull,
        SendError::TooLong => Mark::ExternalTooLong,
        SendError::OnWorkerThread => unreachable!("this thread is no worker"),
    });
}

/// Checks that a receipt agrees with what the service has seen.
fn answered(world: &mut World, seen: &Seen, wish: Wish, tally: Tally) {
    let told = (tally.queued, tally.refused);
    let (taken, mark) = match wish {
        Wish::Send(number) => (seen.external.get(&number), Mark::ExternalSent),
        Wish::Broadcast(number) => (seen.external.get(&number), Mark::ExternalBroadcast),
        Wish::Disconnect => (None, Mark::ExternalDisconnected),
    };
    let wrong = match wish {
        Wish::Send(_) => taken.copied().unwrap_or_default() != told || told.0 + told.1 > 1,
        Wish::Broadcast(_) => taken.copied().unwrap_or_default() != told,
        Wish::Disconnect => told.0 > 1 || told.1 > 0,
    };
    if wrong {
        world.complain(|| {
            format!("the receipt of {wish:?} says {told:?}, but the service saw {taken:?}")
        });
    }
    if tally.queued > 0 {
        world.mark(mark);
    } else {
        note(world, if tally.refused > 0 { SendError::QueueFull } else { SendError::Gone });
    }
}
