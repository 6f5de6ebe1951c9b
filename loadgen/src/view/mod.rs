//! What the terminal shows during a run, and the keys that are pressed there.

pub mod progress;
pub mod terminal;
