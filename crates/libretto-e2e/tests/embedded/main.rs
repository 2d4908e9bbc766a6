//! What only the embedded cluster has: its program, and kubectl against our own API server.

mod kubectl;
mod program;
