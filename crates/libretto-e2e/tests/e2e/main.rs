//! Every scenario starts its own `libretto` process and cleans up after itself; they may run side by side.

mod faults;
mod input;
mod lifecycle;
mod quiet;
