//! Whose the data directory is. Asked before the namespaces are entered: inside, every owner but oneself is called 65534.

use std::{os::unix::fs::MetadataExt as _, path::Path};

use crate::cli::CliError;

/// The directory is ours, or not there yet.
pub(super) fn ours(directory: &Path) -> Result<(), CliError> {
    // What cannot be looked at is told when it is opened.
    let (Ok(found), Ok(this)) = (
        std::fs::metadata(directory),
        std::fs::metadata("/proc/self"),
    ) else {
        return Ok(());
    };
    if found.uid() == this.uid() {
        return Ok(());
    }
    let users = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    Err(CliError::failed(format!(
        "the data directory {} belongs to user {}, who could read every Secret in it",
        directory.display(),
        named(&users, found.uid())
    ))
    .hint("choose a directory of your own with --data-dir"))
}

/// `root (0)`, or the number alone.
fn named(users: &str, uid: u32) -> String {
    let number = uid.to_string();
    users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&number.as_str()))
        .map_or_else(
            || number.clone(),
            |fields| format!("{} ({number})", fields[0]),
        )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_owner_is_called_by_name() {
        let users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n";
        assert_eq!(named(users, 0), "root (0)");
        assert_eq!(named(users, 1000), "1000");
    }

    #[test]
    fn what_is_somebody_elses_is_refused_with_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        assert!(ours(folder.path()).is_ok());
        assert!(ours(&folder.path().join("new")).is_ok());
        let me = folder.path().metadata().unwrap().uid();
        // Root may give a directory away; for anybody else the root directory is somebody else's.
        let (foreign, owner) = if me == 0 {
            std::os::unix::fs::chown(folder.path(), Some(12_345), None).unwrap();
            (folder.path(), 12_345)
        } else {
            (Path::new("/"), 0)
        };
        let users = std::fs::read_to_string("/etc/passwd").unwrap();
        let error = ours(foreign).unwrap_err().to_string();
        assert!(
            error.contains(&format!("belongs to user {}", named(&users, owner))),
            "{error}"
        );
    }
}
