//! When replies to one peer leave as one message (UDP_SEGMENT). The kernel refuses such a message as a
//! whole if a segment is longer than the path to the peer allows, and on a few kinds of interface. Its
//! replies are then sent one by one, and messages pause for some batches, because the next one is
//! likely to be refused too: a path can also change, and other peers have others. Pure: no clock.

use crate::net::mmsg::Sent;

/// Batches of the first pause. Each further one is twice as long, until a message has left.
const PAUSE_MIN: u32 = 16;
const PAUSE_MAX: u32 = 65_536;

/// What the socket of a thread can do.
#[derive(Debug)]
pub(super) struct Segments {
    are_known: bool,
    /// Batches of the last pause, and how many of them are left.
    pause: u32,
    left: u32,
}

impl Segments {
    /// `are_known`: to the system, and not turned off.
    pub(super) fn new(are_known: bool) -> Segments {
        Segments { are_known, pause: 0, left: 0 }
    }

    /// Whether the replies of the next batch may be joined.
    #[inline]
    pub(super) fn are_tried(&mut self) -> bool {
        if self.left > 0 {
            self.left -= 1;
            return false;
        }
        self.are_known
    }

    /// The replies of a batch have left, or were refused.
    #[inline]
    pub(super) fn have_left(&mut self, sent: &Sent) {
        if sent.split > 0 {
            self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
            self.left = self.pause;
        } else if sent.joined > 0 {
            self.pause = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSED: Sent =
        Sent { split: 1, joined: 1, datagrams: 0, bytes: 0, calls: 0, refused: 0, is_full: false };

    /// How many batches leave one by one before the next message is tried.
    fn pause(segments: &mut Segments) -> u32 {
        (0..).take_while(|_| !segments.are_tried()).count() as u32
    }

    #[test]
    fn what_is_refused_is_not_tried_in_vain_for_ever() {
        let mut segments = Segments::new(true);
        assert_eq!(pause(&mut segments), 0);
        for expected in [16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096, 8_192, 16_384] {
            segments.have_left(&REFUSED);
            assert_eq!(pause(&mut segments), expected);
        }
        for expected in [32_768, 65_536, 65_536, 65_536] {
            segments.have_left(&REFUSED);
            assert_eq!(pause(&mut segments), expected);
        }
        // Replies that nobody joined tell nothing.
        segments.have_left(&Sent { datagrams: 5, ..Sent::default() });
        segments.have_left(&REFUSED);
        assert_eq!(pause(&mut segments), 65_536);
        segments.have_left(&Sent { joined: 1, ..Sent::default() });
        assert!(segments.are_tried());
        segments.have_left(&REFUSED);
        assert_eq!(pause(&mut segments), 16);
    }

    #[test]
    fn what_the_system_does_not_know_is_never_tried() {
        let mut segments = Segments::new(false);
        assert!((0..100_000).all(|_| !segments.are_tried()));
    }
}
