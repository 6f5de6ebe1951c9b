//! A line of the text report, and whether the short form has it.

/// A line of the text report.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    pub text: String,
    /// Whether the short form has it. Otherwise it is only shown with `--details`.
    pub always: bool,
}

impl Line {
    /// A line of both forms: a result, or something that changes what a number is worth.
    pub fn always(text: impl Into<String>) -> Line {
        Line::always_if(true, text)
    }

    /// A line that is only shown with `--details`.
    pub fn detail(text: impl Into<String>) -> Line {
        Line::always_if(false, text)
    }

    /// A line that the short form has in this case.
    pub fn always_if(always: bool, text: impl Into<String>) -> Line {
        Line { text: text.into(), always }
    }
}

/// Lines under a heading.
pub struct Group {
    pub title: &'static str,
    pub lines: Vec<Line>,
}
