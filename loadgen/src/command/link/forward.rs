//! The thread of one direction: takes packets from one device, and hands them to the other when
//! they are due.

use std::io::{self, PipeReader};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};
use tun_rs::SyncDevice;

use super::direction::Direction;
use crate::stats::records::latency_histogram;

/// From this time before a packet is due, the thread does not sleep. A timer of a virtual machine
/// is late by about as much.
const AWAKE: Duration = Duration::from_micros(60);
/// Packets taken before those that are due leave again.
const BATCH: usize = 64;
const PACKET_MAX: usize = 65_536;

/// What a direction did, and how late packets left.
pub struct Forwarded {
    pub direction: Direction,
    pub late: Histogram<u64>,
}

/// Forwards packets until the pipe is closed.
///
/// # Errors
/// A device cannot be read.
pub fn forward(
    mut direction: Direction,
    from: &SyncDevice,
    to: &SyncDevice,
    stop: &PipeReader,
) -> io::Result<Forwarded> {
    be_exact();
    let began = Instant::now();
    let mut late = latency_histogram();
    let mut buffer = vec![0; PACKET_MAX];
    // A thread that has stayed awake sleeps for as long before it does so again, because it would
    // keep the commands from running where packets are dense.
    let mut awake_again = Duration::ZERO;
    loop {
        deliver(&mut direction, to, began, &mut late);
        if take(&mut direction, from, began, &mut buffer)? == BATCH {
            continue;
        }
        let now = began.elapsed();
        let left = direction.next_due().map(|due| due.saturating_sub(now));
        let timeout = match left {
            Some(left) if left <= AWAKE && now >= awake_again => {
                let due = now + left;
                while began.elapsed() < due {
                    take(&mut direction, from, began, &mut buffer)?;
                }
                awake_again = due + left;
                continue;
            }
            Some(left) if left > AWAKE => Some(left - AWAKE),
            left => left,
        };
        if !wait(from, stop, timeout)? {
            direction.assert_balanced();
            return Ok(Forwarded { direction, late });
        }
    }
}

/// Asks for this thread to run as soon as it can, and at the exact time. A refusal only makes the
/// times less exact, which the link reports.
fn be_exact() {
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    let lowest = ThreadPriorityValue::try_from(1).expect("it is a priority");
    let _ = set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Crossplatform(lowest),
        ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::RoundRobin),
    );
}

/// Takes what has come, and returns how many packets that were.
fn take(
    direction: &mut Direction,
    from: &SyncDevice,
    began: Instant,
    buffer: &mut [u8],
) -> io::Result<usize> {
    for taken in 0..BATCH {
        match from.recv(buffer) {
            Ok(length) => direction.enter(began.elapsed(), &buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(taken),
            Err(error) => return Err(error),
        }
    }
    Ok(BATCH)
}

fn deliver(direction: &mut Direction, to: &SyncDevice, began: Instant, late: &mut Histogram<u64>) {
    while let Some(packet) = direction.leave(began.elapsed()) {
        let is_taken = to.send(&packet.bytes).is_ok();
        late.saturating_record((began.elapsed() - packet.due).as_nanos() as u64);
        direction.handed_over(&packet, is_taken);
    }
}

/// Waits for a packet, or for this long; `false` if the thread is to stop.
fn wait(from: &SyncDevice, stop: &PipeReader, timeout: Option<Duration>) -> io::Result<bool> {
    let timeout =
        timeout.map(|time| Timespec::try_from(time).expect("delays are shorter than centuries"));
    let mut files = [PollFd::new(from, PollFlags::IN), PollFd::new(stop, PollFlags::empty())];
    match poll(&mut files, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(files[1].revents().is_empty()),
        Err(errno) => Err(errno.into()),
    }
}
