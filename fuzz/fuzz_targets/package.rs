//! Any bytes as a package's `package.yaml`, beside the definition and objects of a real one: it loads, or says what is wrong.
#![no_main]

use std::{path::Path, sync::LazyLock};

use libfuzzer_sys::fuzz_target;
use libretto_engine::{Files, load_files, read_dir};

static REAL: LazyLock<Files> = LazyLock::new(|| {
    read_dir(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../packages/redis"))
        .expect("it is of this repository")
});

fuzz_target!(|bytes: &[u8]| {
    let mut files = REAL.clone();
    files.insert(
        "package.yaml".to_owned(),
        String::from_utf8_lossy(bytes).into_owned(),
    );
    if let Err(told) = load_files(&files) {
        assert!(!told.is_empty());
    }
});
