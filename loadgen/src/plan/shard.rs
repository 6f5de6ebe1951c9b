//! A run on several machines: each process drives a part of the connections, the *shard*, so that
//! all together do what one process would do.
//!
//! The threads of all shards are numbered consecutively, and a thread's connections, requests,
//! arrivals and payload follow from its number alone. So eight shards of one thread send exactly
//! what one process with eight threads sends.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::traffic::rude::RudeClients;

/// More are a typing error.
const SHARDS_MAX: u64 = 65_536;

/// One of several processes that make a run together. The default is the only one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "shard")]
pub struct Shard {
    /// Its number, from 0.
    pub index: u64,
    /// How many there are.
    #[schemars(range(min = 1))]
    pub count: u64,
}

impl Default for Shard {
    fn default() -> Shard {
        Shard { index: 0, count: 1 }
    }
}

impl Shard {
    /// Whether it is the only one.
    pub fn is_whole(self) -> bool {
        self.count == 1
    }

    /// How many of `all` belong to the shards before this one.
    pub fn before(self, all: u64) -> u64 {
        (u128::from(all) * u128::from(self.index) / u128::from(self.count)) as u64
    }

    /// How many of `all` belong to this one.
    pub fn part(self, all: u64) -> u64 {
        let next = Shard { index: self.index + 1, ..self };
        next.before(all) - self.before(all)
    }

    /// This shard's part of each kind of rude client.
    pub fn part_of_rude(self, all: RudeClients) -> RudeClients {
        let parts = all.0.into_iter().map(|(kind, count)| (kind, self.part(count)));
        RudeClients(parts.filter(|(_, count)| *count > 0).collect())
    }
}

/// Counted from 0, as in `0/8` to `7/8`.
impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Shard, String> {
        let help = "a shard is I/N: 0/8 is the first of eight, 7/8 the last";
        let parsed = text.split_once('/').and_then(|(index, count)| {
            Some(Shard { index: index.parse().ok()?, count: count.parse().ok()? })
        });
        match parsed {
            None => Err(format!("'{text}': {help}")),
            Some(Shard { count: 0, .. }) => Err(format!("there is at least one shard: {help}")),
            Some(Shard { count, .. }) if count > SHARDS_MAX => {
                Err(format!("{count} shards, but at most {SHARDS_MAX}"))
            }
            Some(Shard { index, count }) if index >= count => {
                Err(format!("the last of {count} shards is {}/{count}: {help}", count - 1))
            }
            Some(shard) => Ok(shard),
        }
    }
}

/// The variables in which a launcher tells a process its number and how many there are, in the order
/// in which they are looked at.
const LAUNCHERS: [(&str, &str); 5] = [
    // srun; the variables of the step and not of the job, which the job's script has too.
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),
    // Open MPI, and MPICH and its relatives.
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    // A job array of Slurm.
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    // An Indexed Job of Kubernetes. Its manifest sets the second one.
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
];

/// The shard that a launcher has set in the environment, and the variable with its number. `None`
/// without a launcher, and if it has started one process only.
///
/// # Errors
/// The variables of a launcher do not determine the shard.
pub fn of_environment(
    variable: impl Fn(&str) -> Option<String>,
) -> Result<Option<(Shard, &'static str)>, String> {
    for (index, count) in LAUNCHERS {
        let (Some(nth), Some(all)) = (variable(index), variable(count)) else { continue };
        if all.trim() == "1" {
            continue;
        }
        let least = if index == "SLURM_ARRAY_TASK_ID" { array_begin(&variable)? } else { 0 };
        let nth = nth.trim().parse::<u64>().ok().and_then(|nth| nth.checked_sub(least));
        let text = nth.map_or("?".to_owned(), |nth| format!("{nth}/{}", all.trim()));
        let shard = text.parse().map_err(|_: String| {
            format!(
                "{index}={} and {count}={} do not determine the shard: give --shard I/N, or \
                 --shard 0/1 for a run of this process alone",
                variable(index).unwrap_or_default(),
                all
            )
        })?;
        return Ok(Some((shard, index)));
    }
    Ok(None)
}

/// The first number of a job array, whose numbers must follow each other.
fn array_begin(variable: &impl Fn(&str) -> Option<String>) -> Result<u64, String> {
    let number = |name: &str| variable(name).and_then(|text| text.trim().parse::<u64>().ok());
    let least = number("SLURM_ARRAY_TASK_MIN").unwrap_or(0);
    let step = number("SLURM_ARRAY_TASK_STEP").unwrap_or(1);
    match step {
        1 => Ok(least),
        _ => Err(format!(
            "the job array has steps of {step} (SLURM_ARRAY_TASK_STEP): give --shard I/N"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::rude::RudeKind;

    #[test]
    fn the_grammar() {
        assert_eq!("3/8".parse(), Ok(Shard { index: 3, count: 8 }));
        assert_eq!("0/1".parse(), Ok(Shard::default()));
        for (text, reason) in [
            ("8/8", "the last of 8 shards is 7/8"),
            ("1", "I/N"),
            ("-1/2", "I/N"),
            ("0/0", "at least one"),
            ("0/70000", "at most 65536"),
        ] {
            let error = text.parse::<Shard>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn the_parts_are_the_whole_without_gaps() {
        for all in [1, 7, 8, 9, 10_000, (1 << 32) - 1, u64::MAX] {
            for count in [1, 2, 3, 7, 8, 64] {
                let mut before = 0;
                for index in 0..count {
                    let shard = Shard { index, count };
                    assert_eq!(shard.before(all), before);
                    before += shard.part(all);
                    assert!(shard.part(all).abs_diff(all / count) <= 1);
                }
                assert_eq!(before, all);
            }
        }
        let rude = RudeClients(vec![(RudeKind::Idle, 5), (RudeKind::Reset, 1)]);
        let parts = [0, 1].map(|index| Shard { index, count: 2 }.part_of_rude(rude.clone()).0);
        assert_eq!(parts[0], [(RudeKind::Idle, 2)]);
        assert_eq!(parts[1], [(RudeKind::Idle, 3), (RudeKind::Reset, 1)]);
    }

    #[test]
    fn launchers_tell_the_shard() {
        let of = |set: &[(&str, &str)]| {
            of_environment(|name| {
                set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
            })
        };
        let shard = |index, count| Shard { index, count };
        assert_eq!(of(&[]), Ok(None));
        for (index, count) in LAUNCHERS {
            assert_eq!(of(&[(index, "3"), (count, "8")]), Ok(Some((shard(3, 8), index))));
            assert_eq!(of(&[(index, "0"), (count, "1")]), Ok(None), "one process");
            assert_eq!(of(&[(index, "3")]), Ok(None), "the script of a job has this too");
            for bad in ["8", "x", "", "-1"] {
                let error = of(&[(index, bad), (count, "8")]).expect_err(bad);
                assert!(error.contains(index) && error.contains("--shard 0/1"), "{error}");
            }
        }
        let array = |set: &[(&str, &str)]| {
            let given = [("SLURM_ARRAY_TASK_ID", "4"), ("SLURM_ARRAY_TASK_COUNT", "4")];
            of(&[&given[..], set].concat())
        };
        let first = ("SLURM_ARRAY_TASK_MIN", "1");
        assert_eq!(array(&[first]), Ok(Some((shard(3, 4), "SLURM_ARRAY_TASK_ID"))));
        let error = array(&[first, ("SLURM_ARRAY_TASK_STEP", "2")]).expect_err("gaps");
        assert!(error.contains("steps of 2"), "{error}");
        let both = [("SLURM_PROCID", "1"), ("SLURM_STEP_NUM_TASKS", "2"), ("PMI_RANK", "0")];
        assert_eq!(of(&both), Ok(Some((shard(1, 2), "SLURM_PROCID"))));
    }
}
