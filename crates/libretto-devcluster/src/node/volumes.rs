//! A pod's volumes as directories of the node: projected files, scratch space, claims.
//!
//! Projected volumes (ConfigMap, Secret, downward API) are written as a kubelet does: a time-stamped directory, `..data` pointing to
//! it and replaced atomically, every file a link through `..data`. A reader sees all of the old or all of the new. `subPath` mounts of
//! such files do not follow updates, as in Kubernetes.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume,
};

use super::environment::{Lookup, PodFacts, field_value, resource_value};

/// Files of a projected volume by relative path.
pub(crate) type Files = BTreeMap<String, ProjectedFile>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProjectedFile {
    pub content: Vec<u8>,
    pub mode: u32,
}

/// Volumes and PersistentVolumes by name, and whatever the environment needs.
pub(crate) trait VolumeLookup: Lookup {
    /// Directory of the PersistentVolume bound to a claim; the error says what is missing.
    fn claim_directory(&self, namespace: &str, claim: &str) -> Result<PathBuf, String>;
}

/// Creates or refreshes one volume below `root`. Idempotent: unchanged content is not written again.
pub(crate) fn prepare(
    pod: &Pod,
    volume: &Volume,
    root: &Path,
    facts: &PodFacts,
    lookup: &dyn VolumeLookup,
) -> Result<PathBuf, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    let directory = root.join(&volume.name);
    let failed = |error: io::Error| {
        format!(
            "MountVolume.SetUp failed for volume {:?}: {error}",
            volume.name
        )
    };
    if let Some(claim) = &volume.persistent_volume_claim {
        let path = lookup.claim_directory(namespace, &claim.claim_name)?;
        own(pod, &path).map_err(failed)?;
        return Ok(path);
    }
    if let Some(empty) = &volume.empty_dir {
        if !directory.exists() {
            fs::create_dir_all(&directory).map_err(failed)?;
            if empty.medium.as_deref() == Some("Memory") {
                let size = empty
                    .size_limit
                    .as_ref()
                    .map(super::environment::parse_quantity)
                    .transpose()?;
                mount_memory(&directory, size).map_err(failed)?;
            }
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).map_err(failed)?;
            own(pod, &directory).map_err(failed)?;
        }
        return Ok(directory);
    }
    let files = projected(pod, namespace, volume, facts, lookup).map_err(|message| {
        format!(
            "MountVolume.SetUp failed for volume {:?}: {message}",
            volume.name
        )
    })?;
    write_atomically(&directory, &files).map_err(failed)?;
    Ok(directory)
}

/// True when the volume's content follows objects that may change.
pub(crate) fn follows_objects(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.projected.is_some()
        || volume.downward_api.is_some()
}

fn projected(
    pod: &Pod,
    namespace: &str,
    volume: &Volume,
    facts: &PodFacts,
    lookup: &dyn VolumeLookup,
) -> Result<Files, String> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = mode(source.default_mode);
        let map = lookup.config_map(namespace, &source.name);
        add_config_map(
            &mut files,
            map.as_deref(),
            &source.name,
            source.items.as_deref(),
            mode,
            source.optional,
        )?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let secret = lookup.secret(namespace, name);
        add_secret(
            &mut files,
            secret.as_deref(),
            name,
            source.items.as_deref(),
            mode(source.default_mode),
            source.optional,
        )?;
    } else if let Some(source) = &volume.downward_api {
        add_downward(
            &mut files,
            pod,
            source.items.iter().flatten(),
            mode(source.default_mode),
            facts,
        )?;
    } else if let Some(source) = &volume.projected {
        let mode = mode(source.default_mode);
        for part in source.sources.iter().flatten() {
            if let Some(map) = &part.config_map {
                let found = lookup.config_map(namespace, &map.name);
                add_config_map(
                    &mut files,
                    found.as_deref(),
                    &map.name,
                    map.items.as_deref(),
                    mode,
                    map.optional,
                )?;
            } else if let Some(secret) = &part.secret {
                let found = lookup.secret(namespace, &secret.name);
                add_secret(
                    &mut files,
                    found.as_deref(),
                    &secret.name,
                    secret.items.as_deref(),
                    mode,
                    secret.optional,
                )?;
            } else if let Some(downward) = &part.downward_api {
                add_downward(
                    &mut files,
                    pod,
                    downward.items.iter().flatten(),
                    mode,
                    facts,
                )?;
            } else {
                return Err("serviceAccountToken and clusterTrustBundle sources are not supported by this node; mount a Secret, or set automountServiceAccountToken: false".to_owned());
            }
        }
    } else {
        let value = serde_json::to_value(volume).unwrap_or_default();
        let kind = value
            .as_object()
            .and_then(|fields| fields.keys().find(|key| *key != "name").cloned())
            .unwrap_or_else(|| "unknown".to_owned());
        return Err(format!(
            "volumes of type {kind} are not supported by this node; use emptyDir, configMap, secret, projected, downwardAPI or persistentVolumeClaim"
        ));
    }
    Ok(files)
}

fn mode(given: Option<i32>) -> u32 {
    given
        .and_then(|mode| u32::try_from(mode).ok())
        .unwrap_or(0o644)
}

fn add_config_map(
    files: &mut Files,
    map: Option<&ConfigMap>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<(), String> {
    let mut data = BTreeMap::new();
    match map {
        Some(map) => {
            for (key, value) in map.data.iter().flatten() {
                data.insert(key.clone(), value.clone().into_bytes());
            }
            for (key, value) in map.binary_data.iter().flatten() {
                data.insert(key.clone(), value.0.clone());
            }
        }
        None if optional == Some(true) => return Ok(()),
        None => return Err(format!("configmap {name:?} not found")),
    }
    select(files, &data, "configmap", name, items, mode, optional)
}

fn add_secret(
    files: &mut Files,
    secret: Option<&Secret>,
    name: &str,
    items: Option<&[KeyToPath]>,
    mode: u32,
    optional: Option<bool>,
) -> Result<(), String> {
    let data = match secret {
        Some(secret) => secret
            .data
            .iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.0.clone()))
            .collect(),
        None if optional == Some(true) => return Ok(()),
        None => return Err(format!("secret {name:?} not found")),
    };
    select(files, &data, "secret", name, items, mode, optional)
}

fn select(
    files: &mut Files,
    data: &BTreeMap<String, Vec<u8>>,
    kind: &str,
    name: &str,
    items: Option<&[KeyToPath]>,
    default_mode: u32,
    optional: Option<bool>,
) -> Result<(), String> {
    let Some(items) = items.filter(|items| !items.is_empty()) else {
        for (key, content) in data {
            files.insert(
                key.clone(),
                ProjectedFile {
                    content: content.clone(),
                    mode: default_mode,
                },
            );
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(content) => {
                let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
                files.insert(
                    relative(&item.path)?,
                    ProjectedFile {
                        content: content.clone(),
                        mode,
                    },
                );
            }
            None if optional == Some(true) => {}
            None => {
                return Err(format!(
                    "{kind} {name:?} references non-existent key: {}",
                    item.key
                ));
            }
        }
    }
    Ok(())
}

fn add_downward<'a>(
    files: &mut Files,
    pod: &Pod,
    items: impl Iterator<Item = &'a DownwardAPIVolumeFile>,
    default_mode: u32,
    facts: &PodFacts,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            field_value(pod, field, facts)?
        } else if let Some(resource) = &item.resource_field_ref {
            resource_value(pod, None, resource, facts)?
        } else {
            String::new()
        };
        let mode = item.mode.map_or(default_mode, |own| mode(Some(own)));
        files.insert(
            relative(&item.path)?,
            ProjectedFile {
                content: text.into_bytes(),
                mode,
            },
        );
    }
    Ok(())
}

/// A path that stays inside the volume; the API server checks it too.
fn relative(path: &str) -> Result<String, String> {
    let plain = !path.is_empty()
        && Path::new(path)
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)))
        && !path.starts_with("..");
    if plain {
        Ok(path.to_owned())
    } else {
        Err(format!("path {path:?} must be relative and without .."))
    }
}

/// Replaces the content of a projected volume in one step. True when something changed.
pub(crate) fn write_atomically(directory: &Path, files: &Files) -> io::Result<bool> {
    let current = directory.join("..data");
    if current.exists() && same(&current, files)? {
        return Ok(false);
    }
    fs::create_dir_all(directory)?;
    let old = fs::read_link(&current).ok();
    let stamp = format!("..{}", jiff::Timestamp::now().as_nanosecond());
    let fresh = directory.join(&stamp);
    fs::create_dir(&fresh)?;
    for (path, file) in files {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
    }
    let temporary = directory.join("..data_tmp");
    let _ = fs::remove_file(&temporary);
    symlink(&stamp, &temporary)?;
    fs::rename(&temporary, &current)?;
    let wanted = files
        .keys()
        .filter_map(|path| path.split('/').next())
        .collect::<std::collections::BTreeSet<_>>();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !wanted.contains(name.as_str()) {
            fs::remove_file(directory.join(name))?;
        }
    }
    for name in wanted {
        let link = directory.join(name);
        if link.symlink_metadata().is_err() {
            symlink(Path::new("..data").join(name), link)?;
        }
    }
    if let Some(old) = old {
        fs::remove_dir_all(directory.join(old))?;
    }
    Ok(true)
}

fn same(current: &Path, files: &Files) -> io::Result<bool> {
    fn count(directory: &Path) -> io::Result<usize> {
        let mut sum = 0;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            sum += if path.is_dir() { count(&path)? } else { 1 };
        }
        Ok(sum)
    }
    if count(current)? != files.len() {
        return Ok(false);
    }
    Ok(files.iter().all(|(path, file)| {
        let path = current.join(path);
        fs::read(&path).is_ok_and(|content| content == file.content)
            && fs::metadata(&path)
                .is_ok_and(|metadata| metadata.permissions().mode() & 0o7777 == file.mode)
    }))
}

/// `fsGroup`, where more than one id is mapped; elsewhere everything belongs to the one user there is.
fn own(pod: &Pod, directory: &Path) -> io::Result<()> {
    let group = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref()?.fs_group)
        .and_then(|group| u32::try_from(group).ok());
    if let Some(group) = group
        && super::many_ids()
    {
        std::os::unix::fs::chown(directory, None, Some(group))?;
        let mode = fs::metadata(directory)?.permissions().mode();
        fs::set_permissions(directory, fs::Permissions::from_mode(mode | 0o2070))?;
    }
    Ok(())
}

/// `emptyDir` in memory: a tmpfs in the node's own mount namespace, which every container of the pod binds. With the process driver
/// there is no such namespace; then it is a directory like any other.
fn mount_memory(directory: &Path, size: Option<f64>) -> io::Result<()> {
    if !super::inside_namespaces() {
        return Ok(());
    }
    // Without a limit: as much as the default writable layer.
    let size = size.map_or_else(|| "512m".to_owned(), |bytes| format!("{bytes:.0}"));
    nix::mount::mount(
        Some("tmpfs"),
        directory,
        Some("tmpfs"),
        nix::mount::MsFlags::MS_NOSUID | nix::mount::MsFlags::MS_NODEV,
        Some(format!("size={size},mode=0777").as_str()),
    )?;
    Ok(())
}

/// Takes a pod's volumes away; claims live elsewhere and stay.
pub(crate) fn remove(root: &Path) -> io::Result<()> {
    let Ok(entries) = fs::read_dir(root) else {
        return Ok(());
    };
    for entry in entries {
        // Only a memory volume is a mount; for others this fails, which is right.
        let _ = nix::mount::umount2(&entry?.path(), nix::mount::MntFlags::MNT_DETACH);
    }
    fs::remove_dir_all(root)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(list: &[(&str, &str, u32)]) -> Files {
        list.iter()
            .map(|(path, text, mode)| {
                (
                    (*path).to_owned(),
                    ProjectedFile {
                        content: text.as_bytes().to_vec(),
                        mode: *mode,
                    },
                )
            })
            .collect()
    }

    #[test]
    fn updates_are_atomic_and_leave_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("v");
        let read = |name: &str| fs::read_to_string(root.join(name)).unwrap();
        assert!(
            write_atomically(&root, &files(&[("a", "1", 0o644), ("d/b", "2", 0o600)])).unwrap()
        );
        assert_eq!((read("a"), read("d/b")), ("1".to_owned(), "2".to_owned()));
        assert_eq!(
            fs::metadata(root.join("d/b")).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let before = fs::read_link(root.join("..data")).unwrap();
        assert!(
            !write_atomically(&root, &files(&[("a", "1", 0o644), ("d/b", "2", 0o600)])).unwrap()
        );
        assert_eq!(fs::read_link(root.join("..data")).unwrap(), before);
        assert!(write_atomically(&root, &files(&[("a", "3", 0o644), ("c", "4", 0o644)])).unwrap());
        assert_eq!((read("a"), read("c")), ("3".to_owned(), "4".to_owned()));
        let mut names = fs::read_dir(&root)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
            .filter(|name| !name.starts_with("..1"))
            .collect::<Vec<_>>();
        names.sort();
        assert_eq!(names, ["..data", "a", "c"]);
    }

    #[test]
    fn paths_stay_inside() {
        for path in ["", "/etc/x", "../x", "a/../b", "..x"] {
            assert!(relative(path).is_err(), "{path}");
        }
        assert_eq!(relative("a/b").unwrap(), "a/b");
    }
}
