//! skeleton
pub mod api;
pub mod controllers;
pub mod crd;
pub mod error;
pub mod node;
pub mod openapi;
pub mod patch;
pub mod schema;
pub mod table;
