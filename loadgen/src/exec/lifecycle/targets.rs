//! Counts per target. A target that refuses, loses connections or does not reply shows here; the
//! sums over all targets would only show that something did.

use super::Lifecycle;
use crate::stats::counts::TargetCount;
use crate::stats::records::Records;

impl Lifecycle {
    /// The index of the target of the connection with this index.
    #[inline]
    pub fn target(&self, index: usize) -> usize {
        match self.records.targets.len() {
            // Without a division for each reply.
            1 => 0,
            _ => self.plan.target_index(self.number(index)),
        }
    }

    /// The counts of the target of the connection with this index.
    pub(super) fn target_count(&mut self, index: usize) -> &mut TargetCount {
        let nth = self.target(index);
        &mut self.records.targets[nth]
    }

    /// Called after the end. The client with this index has had `replies` replies, and `completed`
    /// requests of its own are complete.
    pub fn served(&mut self, index: usize, replies: u64, completed: u64) {
        self.records.replies_each.push(replies);
        let count = self.target_count(index);
        count.served += u64::from(replies > 0);
        count.completed += completed;
    }

    /// The records, after the end.
    ///
    /// # Panics
    /// The counts of the targets do not add up to the totals.
    pub fn into_records(self) -> Records {
        let mut records = self.records;
        records.add_up_targets();
        let all = records.targets.iter().fold(TargetCount::default(), |sum, one| sum.plus(one));
        let whole = TargetCount {
            established: records.established,
            served: records.served(),
            lost: records.losses.total(),
            mismatches: records.mismatches,
            completed: records.completed(),
        };
        assert_eq!(all, whole, "the targets together are the whole");
        records
    }
}
