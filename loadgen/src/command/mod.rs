//! The commands of the program, each from its arguments to its exit code.

pub mod ab;
pub mod calibrate;
pub mod compare;
pub mod drive;
#[cfg(feature = "link")]
pub mod link;
pub mod manual;
pub mod merge;
pub mod report;
pub mod resolve;
pub mod run;
pub mod search;
pub mod sets;
