//! Waits for datagrams, or for a time to the nanosecond. epoll's own time-out has milliseconds, so a
//! datagram that is due between two of them would be sent late.

use std::io;
use std::net::UdpSocket;
use std::os::fd::OwnedFd;

use super::Waited;
use echopool::time::Time;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::retry_on_intr;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

/// Sockets that one wait reports.
const EVENTS: usize = 256;
/// Stands for the timer instead of the number of a socket.
const TIMER: u64 = u64::MAX;

/// The sockets of a thread, and a timer.
pub(super) struct Sockets {
    epoll: OwnedFd,
    timer: OwnedFd,
    /// When the timer fires, if it has not.
    armed: Option<Time>,
    /// When it fired, if the last look or wait has found that.
    fired: Option<Time>,
    events: Box<[Event]>,
}

impl Sockets {
    pub(super) fn new() -> io::Result<Sockets> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // Reported once each time it fires, so nobody has to read it.
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        let none = Event { flags: EventFlags::empty(), data: EventData::new_u64(0) };
        Ok(Sockets { epoll, timer, armed: None, fired: None, events: vec![none; EVENTS].into() })
    }

    /// Adds the socket with this number.
    pub(super) fn add(&self, socket: &UdpSocket, number: usize) -> io::Result<()> {
        let data = EventData::new_u64(number as u64);
        Ok(epoll::add(&self.epoll, socket, data, EventFlags::IN)?)
    }

    /// Which sockets have something to read now.
    pub(super) fn look(&mut self) -> io::Result<usize> {
        self.ask(Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))
    }

    /// Waits until a socket has something to read, or until this time. It may return earlier with
    /// nothing: the caller waits again. Returns how many sockets there are for [`Sockets::ready`].
    pub(super) fn wait(&mut self, until: Time) -> io::Result<Waited> {
        if self.armed.is_none_or(|armed| armed > until) {
            self.arm(until)?;
        }
        let found = self.ask(None)?;
        // Nothing but the timer ends a wait, and the sockets are looked at when it has fired.
        Ok(match self.fired {
            Some(at) if found == 0 => Waited::Nothing(at),
            _ => Waited::Found(found),
        })
    }

    /// The number of a socket that the last wait has found.
    pub(super) fn ready(&self, nth: usize) -> usize {
        self.events[nth].data.u64() as usize
    }

    fn ask(&mut self, timeout: Option<&Timespec>) -> io::Result<usize> {
        // A signal must not look like a time at which no socket had anything.
        let found = retry_on_intr(|| epoll::wait(&self.epoll, &mut self.events[..], timeout))?;
        self.fired = None;
        match self.events[..found].iter().position(|event| event.data.u64() == TIMER) {
            None => Ok(found),
            Some(at) => {
                self.fired = self.armed.take();
                self.events.swap(at, found - 1);
                Ok(found - 1)
            }
        }
    }

    /// A time of zero would disarm it.
    fn arm(&mut self, until: Time) -> io::Result<()> {
        let nanos = until.as_nanos().max(1);
        let it_value = Timespec {
            tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: (nanos % 1_000_000_000) as _,
        };
        let new = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &new)?;
        self.armed = Some(until);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use echopool::internals;

    use super::*;

    /// As long as a test may take on a machine that is busy.
    const GUARD: Duration = Duration::from_secs(60);

    /// A time-out in milliseconds is at least one, however quiet the machine is.
    #[test]
    fn a_wait_may_be_shorter_than_a_millisecond() {
        let mut sockets = Sockets::new().expect("descriptors");
        let begun = Instant::now();
        loop {
            let before = internals::now();
            let until = before + Duration::from_micros(100);
            while internals::now() < until {
                assert_eq!(sockets.wait(until).expect("a wait"), Waited::Nothing(until));
            }
            if internals::now() - before < Duration::from_millis(1) {
                break;
            }
            assert!(begun.elapsed() < GUARD, "each wait took a millisecond or more");
        }
    }

    #[test]
    fn sockets_are_found_beside_a_timer_that_has_fired() {
        let mut sockets = Sockets::new().expect("descriptors");
        let [one, other] = [0, 1].map(|_| UdpSocket::bind("127.0.0.1:0").expect("a socket"));
        sockets.add(&one, 4).expect("added");
        sockets.add(&other, 7).expect("added");
        assert_eq!(sockets.look().expect("a look"), 0);
        other.send_to(b"x", one.local_addr().expect("bound")).expect("sent");
        let past = internals::now();
        let mut found = sockets.wait(past).expect("a wait");
        let begun = Instant::now();
        while found == Waited::Nothing(past) {
            assert!(begun.elapsed() < GUARD, "nothing was found");
            found = sockets.wait(past).expect("a wait");
        }
        assert_eq!((found, sockets.ready(0)), (Waited::Found(1), 4));
        // It stays until it is read, and an earlier time than the one before ends the wait too.
        assert_eq!(sockets.wait(internals::now() + GUARD).expect("a wait"), Waited::Found(1));
        one.recv(&mut [0; 8]).expect("received");
        // When its time was over, and not when it returned.
        let until = internals::now();
        while sockets.wait(until).expect("a wait") != Waited::Nothing(until) {
            assert!(begun.elapsed() < GUARD, "the time before is reported again and again");
        }
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(sockets.wait(until).expect("a wait"), Waited::Nothing(until));
    }
}
