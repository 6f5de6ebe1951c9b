//! Up to which time a thread has read everything that had arrived. Pure: no clock.
//!
//! A turn first reads what has arrived, and then does its own work. After a pause of the thread, or
//! with more ready sockets than fit in one turn, the present is later than that: a reply may lie in
//! its socket, and its request must not time out.

use echopool::time::Time;

/// Ready sockets that one turn reads, at least. The engine takes twice as many events at once.
const SOCKETS_EACH_TURN: usize = 512;
/// Bytes that one turn reads from a ready socket, at least, if there are so many.
const BYTES_EACH_TURN: u64 = 32 << 10;
/// A kernel holds no more of a reply for a socket: the usual net.ipv4.tcp_rmem has 6 MiB.
const SOCKET_BYTES: u64 = 8 << 20;

/// The looks of one thread at its sockets.
#[derive(Debug)]
pub(super) struct Looks {
    /// Turns after which each ready socket has been read.
    turns: usize,
    /// The current look: when it began, and the turns since.
    began: Time,
    since: usize,
    /// When the last complete look began.
    looked_at: Time,
}

impl Looks {
    /// `size`: bytes in a reply, at most.
    pub(super) fn new(connections: usize, size: u64) -> Looks {
        let reply = size.min(SOCKET_BYTES).div_ceil(BYTES_EACH_TURN) as usize;
        let turns = connections.div_ceil(SOCKETS_EACH_TURN) + reply;
        Looks { turns, began: Time::ZERO, since: 0, looked_at: Time::ZERO }
    }

    /// A turn has read sockets, and its own work begins now.
    #[inline]
    pub(super) fn turn(&mut self, now: Time) {
        self.since += 1;
        if self.since >= self.turns {
            self.looked_at = self.began;
            (self.began, self.since) = (now, 0);
        }
    }

    /// Everything that had arrived by then has been read.
    #[inline]
    pub(super) fn looked_at(&self) -> Time {
        self.looked_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_advances_only_after_turns_enough_to_read_every_socket() {
        for (connections, size, turns) in
            [(1, 64, 2), (512, 64, 2), (513, 64, 3), (10_000, 64 << 10, 22), (1, 1 << 40, 257)]
        {
            let mut looks = Looks::new(connections, size);
            let mut last = Time::ZERO;
            for now in 1..10 * turns {
                looks.turn(Time::from_nanos(now));
                let at = looks.looked_at().as_nanos();
                assert!(at == 0 || now - at >= turns, "{connections} {size}: {at} at {now}");
                assert!(now - at < 2 * turns, "{at} at {now}: no later than needed");
                assert!(looks.looked_at() >= last);
                last = looks.looked_at();
            }
        }
    }
}
