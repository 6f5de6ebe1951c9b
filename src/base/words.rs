//! Counts in sentences for people.

/// A count with its noun: `1 reply`, `2 replies`. `noun`: in the singular, and with a plural in -s,
/// -ies or -sses.
pub fn counted(count: u64, noun: &str) -> String {
    if count == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) => format!("{count} {stem}ies"),
        None if noun.ends_with("ss") => format!("{count} {noun}es"),
        None => format!("{count} {noun}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_noun_is_in_the_plural_unless_there_is_one() {
        for (count, request, reply, address) in [
            (0, "0 requests", "0 replies", "0 addresses"),
            (1, "1 request", "1 reply", "1 address"),
            (2, "2 requests", "2 replies", "2 addresses"),
        ] {
            let found = ["request", "reply", "address"].map(|noun| counted(count, noun));
            assert_eq!(found, [request, reply, address]);
        }
    }
}
