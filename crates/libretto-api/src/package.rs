//! The package format: what an author writes.
