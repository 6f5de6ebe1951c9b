//! What the terminal shows during a run, and the keys.

pub mod progress;
pub mod terminal;
