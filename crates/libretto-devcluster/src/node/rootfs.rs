//! A container's file system: built from the host's programs or an unpacked image, with volumes bound in, then made the root.
//!
//! `host` images see the host's `/usr`, `/bin`, `/lib`… and a short list of `/etc`, all read-only; everything else is an empty
//! tmpfs. Home directories, `/etc/shadow`, `/var`, `/root`, devices and sockets of the host are not there. Runs in the container's
//! first process, after its namespaces exist and before the program.

use std::{
    fs, io,
    os::fd::AsRawFd as _,
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::{OFlag, OpenHow, ResolveFlag, openat2},
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
    sys::stat::Mode,
    unistd::{chdir, pivot_root},
};
use serde::{Deserialize, Serialize};

use super::sys;

/// The walls around a container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Isolation {
    /// Process whose network, host name and IPC namespaces are joined.
    pub sandbox_pid: i32,
    /// An empty directory to build the file system on.
    pub mount_point: PathBuf,
    pub rootfs: Rootfs,
    pub mounts: Vec<Mount>,
    pub read_only_root: bool,
}

/// Where the files of the image come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Rootfs {
    /// The host's programs and libraries, read-only.
    Host {
        /// Further entries of the host's `/etc` to show.
        etc: Vec<String>,
        /// Empty directories the program expects.
        directories: Vec<String>,
    },
    /// An unpacked image; writes go to `upper`.
    Directory {
        lower: PathBuf,
        upper: PathBuf,
        work: PathBuf,
    },
}

/// A volume, or one file of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute, without symbolic links.
    pub source: PathBuf,
    /// Below `source`; may not lead out of it.
    pub sub_path: Option<String>,
    pub target: String,
    pub read_only: bool,
}

/// Bound when they exist, symbolic links copied as such.
const HOST_DIRECTORIES: [&str; 10] = [
    "usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "opt", "nix", "gnu",
];

/// What programs read of `/etc` and what is nobody's secret.
const HOST_ETC: [&str; 21] = [
    "passwd",
    "group",
    "nsswitch.conf",
    "services",
    "protocols",
    "ssl",
    "pki",
    "ca-certificates",
    "crypto-policies",
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "localtime",
    "timezone",
    "mime.types",
    "terminfo",
    "locale.alias",
    "profile",
    "bash.bashrc",
    "inputrc",
];

/// The container's writable layer is memory; data belongs in volumes. Half a gigabyte is enough for scratch files and stops a runaway.
const SCRATCH: &str = "size=512m,mode=0755";
/// As container runtimes have it.
const SHARED_MEMORY: &str = "size=64m,mode=1777";

const NONE: Option<&str> = None;

/// Makes `isolation` the root of this process.
pub(crate) fn enter(isolation: &Isolation) -> Result<(), String> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| format!("a mount namespace: {errno}"))?;
    mount(NONE, "/", NONE, MsFlags::MS_REC | MsFlags::MS_PRIVATE, NONE)
        .map_err(|errno| format!("making mounts private: {errno}"))?;
    let root = &isolation.mount_point;
    match &isolation.rootfs {
        Rootfs::Host { etc, directories } => build_from_host(root, etc, directories)?,
        Rootfs::Directory { lower, upper, work } => {
            build_from_directory(root, lower, upper, work)?;
        }
    }
    let old = root.join(".host");
    make_directory(&old)?;
    chdir(root).map_err(|errno| format!("entering {}: {errno}", root.display()))?;
    pivot_root(".", ".host").map_err(|errno| format!("changing the root: {errno}"))?;
    chdir("/").map_err(|errno| format!("entering the new root: {errno}"))?;
    // From here on paths mean the container's; the host is under /.host until the end.
    mount_proc()?;
    mount_dev()?;
    let mut mounts = isolation.mounts.iter().collect::<Vec<_>>();
    // Outer targets first, or they would hide inner ones.
    mounts.sort_by_key(|mount| Path::new(&mount.target).components().count());
    for volume in mounts {
        bind_volume(volume)?;
    }
    umount2("/.host", MntFlags::MNT_DETACH)
        .map_err(|errno| format!("letting go of the host's files: {errno}"))?;
    let _ = fs::remove_dir("/.host");
    Ok(())
}

/// `readOnlyRootFilesystem`: the writable layer too.
pub(crate) fn seal() -> Result<(), String> {
    sys::restrict_mount(Path::new("/"), true, false)
        .map_err(|error| format!("making the root file system read-only: {error}"))
}

fn build_from_host(root: &Path, more_etc: &[String], directories: &[String]) -> Result<(), String> {
    tmpfs(root, SCRATCH)?;
    for name in HOST_DIRECTORIES {
        show(&Path::new("/").join(name), &root.join(name))?;
    }
    make_directory(&root.join("etc"))?;
    for name in HOST_ETC
        .iter()
        .copied()
        .chain(more_etc.iter().map(String::as_str))
    {
        show(&Path::new("/etc").join(name), &root.join("etc").join(name))?;
    }
    for name in [
        "proc",
        "dev",
        "run",
        "var",
        "var/run",
        "var/log",
        "var/lib",
        "var/cache",
        "root",
        "home",
        "srv",
        "mnt",
    ] {
        make_directory(&root.join(name))?;
    }
    for directory in directories {
        make_directory(&root.join(directory.trim_start_matches('/')))?;
    }
    for name in ["tmp", "var/tmp"] {
        make_directory(&root.join(name))?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o1777);
        fs::set_permissions(root.join(name), mode)
            .map_err(|error| format!("preparing /{name}: {error}"))?;
    }
    Ok(())
}

fn build_from_directory(
    root: &Path,
    lower: &Path,
    upper: &Path,
    work: &Path,
) -> Result<(), String> {
    for directory in [upper, work] {
        fs::create_dir_all(directory)
            .map_err(|error| format!("creating {}: {error}", directory.display()))?;
    }
    let options = format!(
        "lowerdir={},upperdir={},workdir={},userxattr",
        lower.display(),
        upper.display(),
        work.display()
    );
    // As root the trusted.* attributes work and userxattr is refused on old kernels; without privilege it is the only way.
    let plain = options.trim_end_matches(",userxattr");
    let result = [options.as_str(), plain]
        .into_iter()
        .map(|options| {
            mount(
                Some("overlay"),
                root,
                Some("overlay"),
                MsFlags::empty(),
                Some(options),
            )
        })
        .find(Result::is_ok);
    if result.is_none() {
        return Err(format!(
            "mounting an overlay on the image directory {} (kernel 5.11 or newer is needed without root; the data directory must not be on an overlay itself)",
            lower.display()
        ));
    }
    for name in ["proc", "dev", "etc", "tmp", "run"] {
        make_directory(&root.join(name))?;
    }
    Ok(())
}

/// A read-only view of a host path; missing ones are left out.
fn show(source: &Path, target: &Path) -> Result<(), String> {
    let Ok(metadata) = source.symlink_metadata() else {
        return Ok(());
    };
    if let Some(parent) = target.parent() {
        make_directory(parent)?;
    }
    if metadata.is_symlink() {
        let link = fs::read_link(source)
            .map_err(|error| format!("reading {}: {error}", source.display()))?;
        return std::os::unix::fs::symlink(link, target)
            .map_err(|error| format!("linking {}: {error}", target.display()));
    }
    make_target(target, metadata.is_dir())?;
    mount(
        Some(source),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .map_err(|errno| format!("binding {}: {errno}", source.display()))?;
    sys::restrict_mount(target, true, true)
        .map_err(|error| format!("making {} read-only: {error}", source.display()))
}

/// Kernel knobs a container must see but not turn, and those it must not see. Matters as root without a user namespace, where file
/// permissions alone would let it write them.
const PROC_READ_ONLY: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
const PROC_HIDDEN: [&str; 4] = ["kcore", "keys", "latency_stats", "timer_list"];

fn mount_proc() -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "/proc", Some("proc"), flags, NONE)
        .map_err(|errno| format!("mounting /proc: {errno}"))?;
    for name in PROC_READ_ONLY {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            mount(
                Some(&path),
                &path,
                NONE,
                MsFlags::MS_BIND | MsFlags::MS_REC,
                NONE,
            )
            .map_err(|errno| format!("protecting {}: {errno}", path.display()))?;
            sys::restrict_mount(&path, true, true)
                .map_err(|error| format!("protecting {}: {error}", path.display()))?;
        }
    }
    for name in PROC_HIDDEN {
        let path = Path::new("/proc").join(name);
        if path.exists() {
            mount(Some("/.host/dev/null"), &path, NONE, MsFlags::MS_BIND, NONE)
                .map_err(|errno| format!("hiding {}: {errno}", path.display()))?;
        }
    }
    Ok(())
}

fn mount_dev() -> Result<(), String> {
    tmpfs(Path::new("/dev"), "size=64k,mode=0755")?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        let (source, target) = (format!("/.host/dev/{name}"), format!("/dev/{name}"));
        make_target(Path::new(&target), false)?;
        mount(
            Some(source.as_str()),
            target.as_str(),
            NONE,
            MsFlags::MS_BIND,
            NONE,
        )
        .map_err(|errno| format!("binding {target}: {errno}"))?;
    }
    make_directory(Path::new("/dev/pts"))?;
    mount(
        Some("devpts"),
        "/dev/pts",
        Some("devpts"),
        MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC,
        Some("newinstance,ptmxmode=0666,mode=0620"),
    )
    .map_err(|errno| format!("mounting /dev/pts: {errno}"))?;
    make_directory(Path::new("/dev/shm"))?;
    tmpfs(Path::new("/dev/shm"), SHARED_MEMORY)?;
    for (link, path) in [
        ("pts/ptmx", "/dev/ptmx"),
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        std::os::unix::fs::symlink(link, path)
            .map_err(|error| format!("linking {path}: {error}"))?;
    }
    Ok(())
}

fn bind_volume(volume: &Mount) -> Result<(), String> {
    let target = Path::new(&volume.target);
    let failed = |what: &str, error: io::Error| {
        format!("mounting a volume at {}: {what}: {error}", volume.target)
    };
    if !target.is_absolute() || target.components().any(|part| part == Component::ParentDir) {
        return Err(format!(
            "mountPath {:?} must be absolute and without ..",
            volume.target
        ));
    }
    let host = Path::new("/.host").join(
        volume
            .source
            .strip_prefix("/")
            .map_err(|error| failed("its source is relative", io::Error::other(error)))?,
    );
    let source = match &volume.sub_path {
        None => nix::fcntl::open(&host, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()),
        Some(sub_path) => nix::fcntl::open(&host, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
            .and_then(|directory| {
                // A symbolic link inside the volume is the container's to make; it must not lead to the host.
                let how = OpenHow::new()
                    .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_MAGICLINKS);
                openat2(directory, Path::new(sub_path), how)
            }),
    }
    .map_err(|errno| failed("opening it", errno.into()))?;
    let through = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
    let directory = fs::metadata(&through)
        .map_err(|error| failed("reading it", error))?
        .is_dir();
    make_target(target, directory)?;
    mount(
        Some(&through),
        target,
        NONE,
        MsFlags::MS_BIND | MsFlags::MS_REC,
        NONE,
    )
    .map_err(|errno| failed("binding it", errno.into()))?;
    sys::restrict_mount(target, volume.read_only, true)
        .map_err(|error| failed("restricting it", error))
}

fn tmpfs(target: &Path, options: &str) -> Result<(), String> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), target, Some("tmpfs"), flags, Some(options))
        .map_err(|errno| format!("mounting a tmpfs at {}: {errno}", target.display()))
}

fn make_directory(path: &Path) -> Result<(), String> {
    fs::create_dir_all(path).map_err(|error| format!("creating {}: {error}", path.display()))
}

/// An existing path is used as it is; a missing one is created, which a read-only place refuses.
fn make_target(target: &Path, directory: bool) -> Result<(), String> {
    if target.exists() {
        return Ok(());
    }
    if directory {
        return make_directory(target);
    }
    if let Some(parent) = target.parent() {
        make_directory(parent)?;
    }
    fs::File::create(target)
        .map(drop)
        .map_err(|error| format!("creating {}: {error}", target.display()))
}
