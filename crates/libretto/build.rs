//! The packages are part of the binary: a change of one makes it out of date.

fn main() {
    println!("cargo:rerun-if-changed=../../packages");
}
