//! Sizes of requests: one size, or a distribution. The size of a request is a function of the run's
//! seed, the connection and the request's number, so sizes are not stored.

use std::fmt;
use std::str::FromStr;

use crate::units;

/// The largest request. A larger one says little about a network.
pub const SIZE_MAX: u64 = 1 << 30;

/// The sizes of requests, in bytes, from 1 to [`SIZE_MAX`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sizes {
    /// All the same.
    Fixed(u64),
    /// Each size from the first to the last with the same probability.
    Uniform(u64, u64),
    /// Each size with a probability proportional to its weight. Stored with the sum of the weights
    /// up to it.
    List(Vec<(u64, u64)>),
}

impl Sizes {
    /// The size that corresponds to a uniformly distributed number.
    #[inline]
    pub fn at(&self, random: u64) -> u64 {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Uniform(least, most) => least + below(random, most - least + 1),
            Sizes::List(sizes) => {
                let total = sizes.last().expect("at least one").1;
                let place = below(random, total);
                sizes[sizes.partition_point(|(_, up_to)| *up_to <= place)].0
            }
        }
    }

    /// The smallest size.
    pub fn min(&self) -> u64 {
        match self {
            Sizes::Fixed(size) | Sizes::Uniform(size, _) => *size,
            Sizes::List(sizes) => sizes.iter().map(|(size, _)| *size).min().expect("at least one"),
        }
    }

    /// The largest size.
    pub fn max(&self) -> u64 {
        match self {
            Sizes::Fixed(size) => *size,
            Sizes::Uniform(_, most) => *most,
            Sizes::List(sizes) => sizes.iter().map(|(size, _)| *size).max().expect("at least one"),
        }
    }
}

/// Maps a uniformly distributed number to 0..`count`.
#[inline]
fn below(random: u64, count: u64) -> u64 {
    ((u128::from(random) * u128::from(count)) >> 64) as u64
}

/// The grammar of `--size`.
impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Sizes, String> {
        if let Some(range) = text.strip_prefix("uniform:") {
            let (least, most) =
                range.split_once('-').ok_or("uniform: needs two sizes: uniform:1k-4k")?;
            return match (size(least)?, size(most)?) {
                (least, most) if least <= most => Ok(Sizes::Uniform(least, most)),
                _ => Err(format!("uniform: needs the smaller size first: uniform:{most}-{least}")),
            };
        }
        match text.strip_prefix("list:") {
            Some(list) => parse_list(list),
            None => size(text).map(Sizes::Fixed),
        }
    }
}

fn parse_list(list: &str) -> Result<Sizes, String> {
    let mut total = 0u64;
    let entry = |entry: &str| {
        let (text, weight) = entry
            .split_once(':')
            .ok_or("list: needs a weight for each size: list:64:9,4k:1 (nine of 64, one of 4k)")?;
        let too_large = || "the weights are too large".to_string();
        total = total.checked_add(units::positive(weight)?).ok_or_else(too_large)?;
        Ok((size(text)?, total))
    };
    list.split(',').map(entry).collect::<Result<_, String>>().map(Sizes::List)
}

fn size(text: &str) -> Result<u64, String> {
    match units::size(text)? {
        bytes if bytes > SIZE_MAX => Err(format!("{bytes} bytes; a size is at most {SIZE_MAX}")),
        bytes => Ok(bytes),
    }
}

/// In the grammar of `--size`, in bytes.
impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sizes::Fixed(size) => write!(f, "{size}"),
            Sizes::Uniform(least, most) => write!(f, "uniform:{least}-{most}"),
            Sizes::List(sizes) => {
                let mut before = 0;
                for (nth, (size, up_to)) in sizes.iter().enumerate() {
                    let comma = if nth == 0 { "list:" } else { "," };
                    write!(f, "{comma}{size}:{}", up_to - before)?;
                    before = *up_to;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic::payload::Stream;

    fn drawn(text: &str, count: u64) -> Vec<u64> {
        let sizes: Sizes = text.parse().expect("a size");
        (0..count).map(|nth| sizes.at(Stream::new(1, 2).draw(nth))).collect()
    }

    #[test]
    fn the_grammar_and_back() {
        for (text, shown, max) in [
            ("512", "512", 512),
            ("4k", "4096", 4096),
            ("uniform:1k-4k", "uniform:1024-4096", 4096),
            ("uniform:7-7", "uniform:7-7", 7),
            ("list:64:9,4k:1", "list:64:9,4096:1", 4096),
            ("list:4k:1,64:2k", "list:4096:1,64:2000", 4096),
        ] {
            let sizes: Sizes = text.parse().expect(text);
            assert_eq!((sizes.to_string().as_str(), sizes.max()), (shown, max));
        }
    }

    #[test]
    fn what_is_no_size_is_refused_with_the_remedy() {
        for (text, reason) in [
            ("0", "at least 1"),
            ("2g", "at most"),
            ("uniform:4k", "two sizes"),
            ("uniform:4k-1k", "uniform:1k-4k"),
            ("uniform:0-1k", "at least 1"),
            ("list:64", "weight"),
            ("list:64:0", "at least 1"),
            ("list:", "weight"),
            ("normal:1", "not understood"),
        ] {
            let error = text.parse::<Sizes>().expect_err(text);
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn a_uniform_distribution_has_all_sizes_equally_often() {
        let sizes = drawn("uniform:10-19", 100_000);
        for size in 10..20 {
            let count = sizes.iter().filter(|drawn| **drawn == size).count();
            // Six standard deviations are 570.
            assert!((9_400..10_600).contains(&count), "{size}: {count}");
        }
        assert!(sizes.iter().all(|size| (10..20).contains(size)));
    }

    #[test]
    fn a_list_has_its_sizes_as_often_as_their_weights_say() {
        let sizes = drawn("list:64:9,4k:1", 100_000);
        let small = sizes.iter().filter(|size| **size == 64).count();
        assert!((89_400..90_600).contains(&small), "{small}");
        assert!(sizes.iter().all(|size| [64, 4096].contains(size)));
    }

    #[test]
    fn the_ends_of_the_random_numbers_are_the_ends_of_the_sizes() {
        let uniform = Sizes::Uniform(1, SIZE_MAX);
        assert_eq!((uniform.at(0), uniform.at(u64::MAX)), (1, SIZE_MAX));
        let list: Sizes = "list:5:1,6:1".parse().unwrap();
        assert_eq!((list.at(0), list.at(u64::MAX)), (5, 6));
    }
}
