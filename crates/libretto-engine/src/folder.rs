//! The files of a package folder.
//!
//! A package is text. An archive of a chart (`charts/x-1.0.tgz`) is read as the folder it holds, under the archive's own name, so that
//! nothing after this page knows that there are archives.

use std::{collections::BTreeMap, io::Read, path::Path};

use crate::Diagnostic;

/// Files by path below the package's folder.
pub type Files = BTreeMap<String, String>;

/// Largest file of a package. Kubernetes refuses objects above 1.5 MiB, so nothing that is applied can be longer.
const FILE_LIMIT: u64 = 2 << 20;
/// Text in one archive: several times the largest public charts, and not enough to fill a memory.
const ARCHIVE_LIMIT: u64 = 16 << 20;
/// Files in one archive.
const ENTRIES: usize = 4_000;
/// Archives in archives: a chart with subcharts that have subcharts.
const DEPTH: usize = 4;

/// Reads a package's folder: `package.yaml` and every other text file below it; hidden files are left out.
pub fn read_dir(folder: &Path) -> Result<Files, Vec<Diagnostic>> {
    let mut files = Files::new();
    let mut problems = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(current) = folders.pop() {
        let entries = match std::fs::read_dir(&current) {
            Ok(entries) => entries,
            Err(error) => {
                problems.push(whole_file(
                    &current.display().to_string(),
                    format!("cannot read the folder: {error}"),
                ));
                continue;
            }
        };
        for entry in entries.flatten() {
            let path = entry.path();
            // A mounted ConfigMap holds its files twice: once below `..data`.
            if entry.file_name().to_string_lossy().starts_with('.') {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path
                .strip_prefix(folder)
                .unwrap_or(&path)
                .display()
                .to_string();
            let read =
                std::fs::read(&path).map_err(|error| format!("cannot read the file: {error}"));
            if let Err(problem) = read.and_then(|bytes| add(&mut files, &name, bytes)) {
                problems.push(whole_file(&name, problem));
            }
        }
    }
    if problems.is_empty() {
        Ok(files)
    } else {
        Err(problems)
    }
}

/// Takes in one file: text as it is, an archive as what is in it; anything else (pictures) is no part of what is compiled.
pub fn add(files: &mut Files, name: &str, bytes: Vec<u8>) -> Result<(), String> {
    add_at(files, name, bytes, 0)
}

fn add_at(files: &mut Files, name: &str, bytes: Vec<u8>, depth: usize) -> Result<(), String> {
    if name.ends_with(".tgz") {
        return unpack(files, name, &bytes, depth);
    }
    if bytes.len() as u64 > FILE_LIMIT {
        return Err(format!("file is longer than {FILE_LIMIT} bytes"));
    }
    if let Ok(text) = String::from_utf8(bytes) {
        files.insert(name.to_owned(), text);
    }
    Ok(())
}

/// The one folder in an archive becomes a folder with the archive's name.
fn unpack(files: &mut Files, name: &str, bytes: &[u8], depth: usize) -> Result<(), String> {
    let broken = |error: std::io::Error| format!("not an archive of a chart: {error}");
    if depth >= DEPTH {
        return Err(format!("more than {DEPTH} archives inside each other"));
    }
    // With room for headers and padding; what is in it is counted below.
    let limited = flate2::read::GzDecoder::new(bytes).take(2 * ARCHIVE_LIMIT);
    let mut archive = tar::Archive::new(limited);
    let mut read = 0;
    for (number, entry) in archive.entries().map_err(broken)?.enumerate() {
        let mut entry = entry.map_err(broken)?;
        if number >= ENTRIES {
            return Err(format!("more than {ENTRIES} files in the archive"));
        }
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(broken)?.display().to_string();
        // `chart/templates/x.yaml`: the first part is the chart's own name.
        let Some((_, inside)) = path.trim_start_matches("./").split_once('/') else {
            continue;
        };
        if inside
            .split('/')
            .any(|part| part == ".." || part.is_empty())
        {
            return Err(format!("the archive has a file outside its folder: {path}"));
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(broken)?;
        read += content.len() as u64;
        if read > ARCHIVE_LIMIT {
            return Err(format!("more than {ARCHIVE_LIMIT} bytes in the archive"));
        }
        if inside
            .rsplit('/')
            .next()
            .is_some_and(|file| file.starts_with('.'))
        {
            continue;
        }
        add_at(files, &format!("{name}/{inside}"), content, depth + 1)
            .map_err(|problem| format!("{inside}: {problem}"))?;
    }
    Ok(())
}

/// A mistake that is about a file, not a line of it.
pub(crate) fn whole_file(file: &str, message: String) -> Diagnostic {
    Diagnostic {
        file: file.to_owned(),
        line: 0,
        column: 0,
        message,
        hint: None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o644);
            // Not through the builder, which refuses paths that an attacker would write.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder.append(&header, *content).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    #[test]
    fn archives_are_read_as_folders() {
        let inner = archive(&[("sub/Chart.yaml", b"name: sub")]);
        let outer = archive(&[
            ("web/Chart.yaml", b"name: web"),
            ("web/templates/a.yaml", b"a: 1"),
            ("web/icon.png", &[0xff, 0xfe]),
            ("web/.helmignore", b"x"),
            ("web/charts/sub-1.tgz", &inner),
        ]);
        let mut files = Files::new();
        add(&mut files, "charts/web-1.tgz", outer).unwrap();
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            [
                "charts/web-1.tgz/Chart.yaml",
                "charts/web-1.tgz/charts/sub-1.tgz/Chart.yaml",
                "charts/web-1.tgz/templates/a.yaml",
            ]
        );
    }

    #[test]
    fn archives_that_harm_are_refused() {
        let add_one = |bytes| add(&mut Files::new(), "x.tgz", bytes);
        let error = add_one(archive(&[("web/../../etc/passwd", b"x")])).unwrap_err();
        assert_eq!(
            error,
            "the archive has a file outside its folder: web/../../etc/passwd"
        );
        let error = add_one(b"not gzip".to_vec()).unwrap_err();
        assert!(error.starts_with("not an archive of a chart"), "{error}");
        let zeros = vec![b'0'; 2 << 20];
        let many: Vec<(String, &[u8])> = (0..9)
            .map(|n| (format!("web/{n}"), zeros.as_slice()))
            .collect();
        let many: Vec<(&str, &[u8])> = many.iter().map(|(p, c)| (p.as_str(), *c)).collect();
        let error = add_one(archive(&many)).unwrap_err();
        assert!(error.contains("16777216"), "{error}");
        let mut nested = archive(&[("web/Chart.yaml", b"x")]);
        for _ in 0..5 {
            nested = archive(&[("web/charts/n.tgz", &nested)]);
        }
        let error = add_one(nested).unwrap_err();
        assert!(error.contains("inside each other"), "{error}");
    }

    #[test]
    fn a_folder_is_read_by_relative_path() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("objects")).unwrap();
        std::fs::write(folder.path().join("package.yaml"), "kind: Package\n").unwrap();
        std::fs::write(folder.path().join("objects/a.yaml"), "a: 1\n").unwrap();
        std::fs::write(folder.path().join("icon.png"), [0xff, 0xfe]).unwrap();
        std::fs::create_dir(folder.path().join("..data")).unwrap();
        std::fs::write(folder.path().join("..data/package.yaml"), "x: 1\n").unwrap();
        let files = read_dir(folder.path()).unwrap();
        assert_eq!(
            files.keys().collect::<Vec<_>>(),
            ["objects/a.yaml", "package.yaml"]
        );
    }
}
