//! Another thread that wants something of the server: messages to one client, to all, and clients
//! disconnected, at any moment, through the same inboxes and receipts as `ServerHandle`. Here it
//! does not wait for its answers, but looks for them; each has to come, once, and be true.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::marks::Mark;
use super::reader::{OUTSIDE_MIN, outside};
use super::service::Seen;
use super::world::World;
use crate::base::key::ConnectionId;
use crate::buffer::Reserve;
use crate::server::messaging::Clients;
use crate::shared::directory::Directory;
use crate::shared::mailbox::Mailboxes;
use crate::shared::receipt::{Answers, SendError, Tally};

/// Somebody outside.
pub(super) struct Outside {
    clients: Clients,
    /// The longest pause between two wishes.
    pub(super) pause_max: Duration,
    next: u64,
    /// Receipts that have not come yet.
    waiting: Vec<(Wish, Answers)>,
}

#[derive(Clone, Copy, Debug)]
enum Wish {
    Send(u64),
    Broadcast(u64),
    Disconnect,
}

impl Outside {
    pub(super) fn new(
        mailboxes: Arc<Mailboxes>,
        directory: Arc<Directory>,
        reserve: Arc<Reserve>,
        pause_max: Duration,
    ) -> Outside {
        let clients = Clients { mailboxes, directory, reserve, next: AtomicU64::new(1) };
        Outside { clients, pause_max, next: 0, waiting: Vec::new() }
    }

    /// Wants something.
    pub(super) fn act(&mut self, world: &mut World, seen: &Rc<RefCell<Seen>>, len_max: usize) {
        let wish = world.rng.u8(0..16);
        let len = world.rng.usize(OUTSIDE_MIN..=len_max);
        self.next += 1;
        let number = self.next;
        match wish {
            0 => self.disconnect(world, seen),
            1..=5 => self.broadcast(world, number, len),
            6 => self.too_long(world, number, len_max),
            _ => self.send(world, seen, number, len),
        }
    }

    /// A client that is there; now and then one that was.
    fn someone(&self, world: &mut World, seen: &Rc<RefCell<Seen>>) -> Option<ConnectionId> {
        let mut ids: Vec<ConnectionId> = match world.rng.u8(0..8) {
            0 => seen.borrow().ids.iter().copied().collect(),
            _ => self.clients.directory.list().iter().map(|client| client.id).collect(),
        };
        // A set has an order of its own, another one each time.
        ids.sort();
        world.rng.choice(ids)
    }

    fn send(&mut self, world: &mut World, seen: &Rc<RefCell<Seen>>, number: u64, len: usize) {
        let Some(id) = self.someone(world, seen) else { return };
        world.tell(60, number as usize, id.to_bits(), || {
            format!("message {number} from outside to {id}")
        });
        match self.clients.begin_send_to(id, &outside(number, len)) {
            Ok(answers) => self.waiting.push((Wish::Send(number), answers)),
            Err(error) => note(world, error),
        }
    }

    fn broadcast(&mut self, world: &mut World, number: u64, len: usize) {
        world.tell(61, number as usize, 0, || format!("message {number} from outside to all"));
        let (answers, failed) = self.clients.begin_broadcast(&outside(number, len));
        if let Some((error, _)) = failed {
            note(world, error);
        }
        self.waiting.push((Wish::Broadcast(number), answers));
    }

    fn too_long(&mut self, world: &mut World, number: u64, len_max: usize) {
        let Some(client) = self.clients.directory.next(0) else { return };
        let long = outside(number, len_max + 1);
        let refused = self.clients.begin_send_to(client.1.id, &long).err();
        match refused {
            Some(error @ (SendError::TooLong | SendError::QueueFull)) => note(world, error),
            // The service has less room than a buffer.
            _ => self.waiting.extend(refused.is_none().then(|| {
                world.complain(|| "a message longer than a buffer was taken".into());
                (Wish::Send(number), Answers::new())
            })),
        }
    }

    fn disconnect(&mut self, world: &mut World, seen: &Rc<RefCell<Seen>>) {
        let Some(id) = self.someone(world, seen) else { return };
        world.tell(62, 0, id.to_bits(), || format!("{id} is to be disconnected"));
        match self.clients.begin_disconnect(id) {
            Ok(answers) => {
                seen.borrow_mut().disconnects.insert(id);
                self.waiting.push((Wish::Disconnect, answers));
            }
            Err(error) => note(world, error),
        }
    }

    /// Looks for answers. `rest`: nobody has anything to do, so all of them must be there.
    pub(super) fn look(&mut self, world: &mut World, seen: &Seen, rest: bool) {
        self.waiting.retain(|(wish, answers)| {
            let tally = answers.so_far();
            if tally.open == 0 {
                answered(world, seen, *wish, tally);
            } else if rest {
                world.complain(|| format!("nobody answers {wish:?}"));
            }
            tally.open > 0
        });
    }
}

fn note(world: &mut World, error: SendError) {
    world.mark(match error {
        SendError::Gone => Mark::OutsideGone,
        SendError::QueueFull => Mark::OutsideQueueFull,
        SendError::TooLong => Mark::OutsideTooLong,
        SendError::OnWorkerThread => unreachable!("it is outside of all workers"),
    });
}

/// What the receipts say is what the service has seen.
fn answered(world: &mut World, seen: &Seen, wish: Wish, tally: Tally) {
    let told = (tally.queued, tally.refused);
    let (taken, mark) = match wish {
        Wish::Send(number) => (seen.outside.get(&number), Mark::OutsideSent),
        Wish::Broadcast(number) => (seen.outside.get(&number), Mark::OutsideBroadcast),
        Wish::Disconnect => (None, Mark::OutsideDisconnected),
    };
    let wrong = match wish {
        Wish::Send(_) => taken.copied().unwrap_or_default() != told || told.0 + told.1 > 1,
        Wish::Broadcast(_) => taken.copied().unwrap_or_default() != told,
        Wish::Disconnect => told.0 > 1 || told.1 > 0,
    };
    if wrong {
        world.complain(|| format!("{wish:?} was answered with {told:?}, and was {taken:?}"));
    }
    if tally.queued > 0 {
        world.mark(mark);
    } else {
        note(world, if tally.refused > 0 { SendError::QueueFull } else { SendError::Gone });
    }
}
