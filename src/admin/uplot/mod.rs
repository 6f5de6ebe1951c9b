//! uPlot 1.6.32, which draws the charts of the page here and those of the load generator's pages.

/// Its licence, which must stand beside each copy.
pub const LICENSE: &str = include_str!("LICENSE");

/// The script, which defines `uPlot`.
pub const SCRIPT: &str = include_str!("uPlot.iife.min.js");

/// Its style.
pub const STYLE: &str = include_str!("uPlot.min.css");
