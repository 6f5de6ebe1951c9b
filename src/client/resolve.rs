//! Name look-ups. They run on threads of their own, because the system's resolver blocks.
//!
//! Each look-up has its own thread, up to a limit, so a slow name does not delay the others.
//! Concurrent look-ups of one name share one result.

use std::collections::{HashMap, VecDeque};
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{io, thread};

use super::error::Error;
use super::submission::{Answer, Submission};

/// Maximum number of concurrent look-ups. Further ones wait.
const LOOK_UPS_MAX: usize = 32;

/// A request to look up a name for a client of the loop.
pub(crate) struct Question {
    pub(crate) slot: u32,
    /// The generation of the client in this slot.
    pub(crate) client: u32,
    pub(crate) host: String,
    pub(crate) port: u16,
}

type Name = (String, u16);
type Found = Result<Vec<SocketAddr>, Error>;

/// Looks up a name.
type LookUp = fn(&Name) -> Found;

/// Look-ups in progress or waiting.
struct LookUps {
    /// The clients that wait for each name, as slot and generation.
    asked: HashMap<Name, Vec<(u32, u32)>>,
    /// Names that are not yet being looked up.
    waiting: VecDeque<Name>,
    threads: usize,
}

/// Starts the thread that receives the requests. It ends when the sender is dropped. A look-up in
/// progress at that time cannot be interrupted, and its result is discarded.
pub(super) fn start(
    submission: Arc<Submission>,
    clients: usize,
) -> io::Result<SyncSender<Question>> {
    start_with(submission, clients, look_up)
}

fn start_with(
    submission: Arc<Submission>,
    clients: usize,
    look_up: LookUp,
) -> io::Result<SyncSender<Question>> {
    let (send, questions) = sync_channel(clients);
    thread::Builder::new()
        .name("client-resolver".into())
        .spawn(move || take_questions(&questions, &submission, look_up))?;
    Ok(send)
}

fn take_questions(questions: &Receiver<Question>, submission: &Arc<Submission>, look_up: LookUp) {
    let asked = HashMap::new();
    let all = Arc::new(Mutex::new(LookUps { asked, waiting: VecDeque::new(), threads: 0 }));
    for Question { slot, client, host, port } in questions {
        let name = (host, port);
        let mut ups = lock(&all);
        if let Some(others) = ups.asked.get_mut(&name) {
            others.push((slot, client));
            continue;
        }
        ups.asked.insert(name.clone(), vec![(slot, client)]);
        ups.waiting.push_back(name);
        if ups.threads == LOOK_UPS_MAX {
            continue;
        }
        ups.threads += 1;
        drop(ups);
        let (for_thread, answers) = (all.clone(), submission.clone());
        let spawned = thread::Builder::new()
            .name("client-look-up".into())
            .spawn(move || look_up_all(&for_thread, &answers, look_up));
        if spawned.is_err() {
            // Without a thread, the look-up blocks the requests behind it.
            look_up_all(&all, submission, look_up);
        }
    }
}

/// Looks up names on the current thread until none are waiting.
fn look_up_all(all: &Mutex<LookUps>, submission: &Submission, look_up: LookUp) {
    loop {
        let name = {
            let mut ups = lock(all);
            let Some(name) = ups.waiting.pop_front() else {
                ups.threads -= 1;
                return;
            };
            name
        };
        let addresses = look_up(&name);
        let asked = lock(all).asked.remove(&name).unwrap_or_default();
        for (slot, client) in asked {
            submission.push_answer(Answer { slot, client, addresses: addresses.clone() });
        }
    }
}

fn lock(all: &Mutex<LookUps>) -> MutexGuard<'_, LookUps> {
    // No code panics while holding the lock.
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

fn look_up((host, port): &Name) -> Found {
    let found = (host.as_str(), *port).to_socket_addrs().map(Vec::from_iter);
    let reason = match found {
        Ok(addresses) if !addresses.is_empty() => return Ok(addresses),
        Ok(_) => "it has no address".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(Error::Resolve { host: host.clone(), reason })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use super::*;
    use crate::client::submission::Clock;
    use crate::shared::mailbox::Mailboxes;

    /// Look-ups of names that start with "slow" block while this is locked.
    static SLOW: Mutex<()> = Mutex::new(());
    static LOOKED_UP: AtomicU64 = AtomicU64::new(0);

    fn scripted(name: &Name) -> Found {
        LOOKED_UP.fetch_add(1, Ordering::SeqCst);
        if name.0.starts_with("slow") {
            drop(SLOW.lock());
        }
        Ok(vec![([127, 0, 0, 1], name.1).into()])
    }

    fn next(submission: &Submission) -> Answer {
        let begun = Instant::now();
        loop {
            if let Some(answer) = submission.next_answer() {
                return answer;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "no answer");
            thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn a_slow_name_delays_no_other_and_is_looked_up_once_for_all_who_ask() {
        let mailboxes = Arc::new(Mailboxes::new(1));
        let submission = Submission::new(40, 1, mailboxes, Clock::SYSTEM);
        let asks = start_with(submission.clone(), 40, scripted).unwrap();
        let held = SLOW.lock().unwrap();
        let ask = |slot: u32, host: &str| {
            let host = host.to_owned();
            asks.send(Question { slot, client: slot * 2, host, port: slot as u16 + 1 }).unwrap();
        };
        (0..LOOK_UPS_MAX as u32 - 1).for_each(|slot| ask(slot, "slow"));
        ask(38, "fast");
        let answer = next(&submission);
        assert_eq!((answer.slot, answer.client), (38, 76));
        let again = |slot| Question { slot, client: 1, host: "slow".into(), port: 1 };
        asks.send(again(39)).unwrap();
        // Its answer shows that the previous request has been received.
        ask(37, "fast");
        assert_eq!(next(&submission).slot, 37);
        drop(held);
        let mut slots: Vec<u32> = (0..LOOK_UPS_MAX).map(|_| next(&submission).slot).collect();
        slots.sort_unstable();
        let expected: Vec<u32> = (0..LOOK_UPS_MAX as u32 - 1).chain([39]).collect();
        assert_eq!(slots, expected);
        assert_eq!(LOOKED_UP.load(Ordering::SeqCst), LOOK_UPS_MAX as u64 + 1);
    }
}
