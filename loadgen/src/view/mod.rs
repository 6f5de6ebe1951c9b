//! What the terminal shows during a run, and the keys.
//!
//! * `progress`: chooses between the live view, lines and nothing
//! * `live`: the view with charts; `words`: what it has in common with the lines
//! * `terminal`: messages, keys, and how the terminal is restored

#[cfg(feature = "live")]
pub mod live;
pub mod progress;
pub mod terminal;
mod words;
