//! What only the embedded cluster has: its program, and kubectl against our own API server.

mod charts;
mod kubectl;
mod program;
