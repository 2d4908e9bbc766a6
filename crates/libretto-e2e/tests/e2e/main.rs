//! Every scenario starts its own `libretto` process and cleans up after itself; they may run side by side.

// In the order of their names; the one that takes five minutes of doing nothing comes first, beside the others.
mod at_rest;
mod charts;
mod faults;
mod input;
mod installations;
mod lifecycle;
mod repositories;
mod tools;
mod website;
