//! What happened in the runs: a check of something that never happened has checked nothing.

use std::fmt;

/// An enumeration that knows all of its members.
macro_rules! marks {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// What the network did, and what the generator had to find.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub enum Mark {
            $($(#[$doc])* $name,)*
        }

        const ALL: &[Mark] = &[$(Mark::$name,)*];
    };
}

marks! {
    LostThere,
    LostBack,
    DoubledThere,
    DoubledBack,
    SlowThere,
    SlowBack,
    JustInTime,
    Late,
    Corrupted,
    OtherNumber,
    Truncated,
    Longer,
    Refused,
    Unreachable,
    NotOpened,
    Paused,
    StoppedAfterALook,
    CameAfterALook,
    /// What follows is what the generator had to find.
    Answered,
    Overdue,
    AnsweredLate,
    AnsweredTwice,
    OutOfOrder,
    ReplyCorrupted,
    ReplyTruncated,
    NoNumber,
    Forgotten,
    ForgottenAndDamaged,
    WarmUp,
    AfterThePeriod,
    Delayed,
    NeverSent,
    ReadAfterAPause,
    /// Of a stateful reflector: no packet overtook another one at the ends of its numbers, and both
    /// replies to each doubled packet came back, so that the losses by direction are those of the
    /// network.
    ExactDirections,
    LostInADirection,
    DirectionsWithADoubt,
    ClocksDiffer,
    DelayBelowZero,
}

/// How often each of them happened.
#[derive(Clone, Copy)]
pub struct Marks([u64; ALL.len()]);

impl Default for Marks {
    fn default() -> Marks {
        Marks([0; ALL.len()])
    }
}

impl Marks {
    pub fn add(&mut self, mark: Mark) {
        self.0[mark as usize] += 1;
    }

    pub fn plus(&mut self, other: &Marks) {
        self.0.iter_mut().zip(other.0).for_each(|(own, other)| *own += other);
    }

    pub fn of(&self, mark: Mark) -> u64 {
        self.0[mark as usize]
    }

    /// Those that never happened.
    pub fn missing(&self) -> impl Iterator<Item = Mark> {
        ALL.iter().copied().filter(|mark| self.of(*mark) == 0)
    }
}

impl fmt::Debug for Marks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(ALL.iter().map(|mark| (mark, self.of(*mark)))).finish()
    }
}
