//! What became of the connections to each target: one that refuses, loses connections or does not
//! answer shows here, where the sums over all of them would only say that something did.

use super::Lifecycle;
use crate::stats::counts::TargetCount;
use crate::stats::records::Records;

impl Lifecycle {
    /// The counts of the target that the connection in this place goes to.
    pub(super) fn target_count(&mut self, index: usize) -> &mut TargetCount {
        let nth = self.plan.target_index(self.number(index));
        &mut self.records.targets[nth]
    }

    /// After the end: the client in this place has had so many replies, and so many requests of its
    /// own are complete.
    pub fn served(&mut self, index: usize, replies: u64, completed: u64) {
        self.records.replies_each.push(replies);
        let count = self.target_count(index);
        count.served += u64::from(replies > 0);
        count.completed += completed;
    }

    /// What was recorded, after the end.
    ///
    /// # Panics
    /// The targets together are not the whole.
    pub fn into_records(self) -> Records {
        let records = self.records;
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
