//! Whether requests pile up: the lowest number of outstanding requests in the middle and at the end
//! of the measured period. If the server keeps up, both are about equal. A short stall does not
//! change the lowest number, unless it is as long as a window.

use std::time::Duration;

use echopool::time::Time;

use crate::exec::lifecycle::Period;
use crate::stats::records::Backlog;

/// The part of the period that a window takes.
const WINDOW: u32 = 10;

/// The two windows of a thread.
#[derive(Default)]
pub(in crate::exec) struct Windows {
    /// The middle window's begin and end, and the last window's begin; passed ones are `None`.
    marks: [Option<Time>; 3],
    middle: u64,
}

impl Windows {
    /// The windows of this period. A period without a known end has none.
    pub(in crate::exec) fn of(period: Period) -> Windows {
        if period.end == Time::MAX {
            return Windows::default();
        }
        let length = period.end - period.record_from;
        let window = length / WINDOW;
        let at = |after: Duration| Some(period.record_from + after);
        let middle = length / 2;
        Windows { marks: [at(middle), at(middle + window), at(length - window)], middle: 0 }
    }

    /// Begins and ends windows. `take_lowest` returns the fewest outstanding requests since its last
    /// call.
    pub(in crate::exec) fn pass(&mut self, now: Time, mut take_lowest: impl FnMut() -> u64) {
        for (nth, mark) in self.marks.iter_mut().enumerate() {
            if mark.is_some_and(|mark| mark <= now) {
                *mark = None;
                let lowest = take_lowest();
                if nth == 1 {
                    self.middle = lowest;
                }
            }
        }
    }

    /// At the end of the period: `None` if it had no known end, or ended early. `lowest`: the fewest
    /// outstanding requests since the begin of the last window.
    pub(in crate::exec) fn end(&self, ended: Time, period: Period, lowest: u64) -> Option<Backlog> {
        let whole = period.end != Time::MAX && ended >= period.end;
        (whole && self.marks == [None; 3]).then_some(Backlog { middle: self.middle, end: lowest })
    }
}
