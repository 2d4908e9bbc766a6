//! Builds OCI images out of Debian packages and our own binary. There is no registry to pull from: each image is made once, kept in
//! the cache, and served to containerd by `registry.rs`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

use super::{place::create_folder, run};
use crate::setup;

/// What an image is made of and how it starts.
pub(crate) struct Recipe {
    pub(crate) name: &'static str,
    /// Last parts of the repositories that this image answers to, whatever registry and tag are before and after it.
    pub(crate) answers: &'static [&'static str],
    content: Content,
    entrypoint: &'static [&'static str],
    arguments: &'static [&'static str],
    folder: &'static str,
    /// Numeric, so that a kubelet can see that it is not root; empty is root.
    user: &'static str,
    environment: &'static [(&'static str, &'static str)],
    /// What the packages' installation scripts would have linked: where, and to what.
    links: &'static [(&'static str, &'static str)],
}

enum Content {
    /// Debian's packages with everything they depend on. Their installation scripts are not run.
    Packages(&'static [&'static str]),
    /// Our binary without its symbols, the libraries it is linked with, and the machine's certificate authorities: what deploy/Dockerfile
    /// makes for everybody else; with Helm, its target `with-helm`.
    Libretto { helm: bool },
    /// A root file system among the tools; without it there is no such image.
    Tool(&'static str),
}

const PATH: (&str, &str) = (
    "PATH",
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
);

/// Shells of images start with flags alone: `redis --port 1` means `redis-server --port 1`, as with the image of that name elsewhere.
const REDIS_START: &str = "#!/bin/sh
case \"${1:-}\" in -*|*.conf|'') set -- redis-server \"$@\" ;; esac
exec \"$@\"
";

pub(crate) const RECIPES: &[Recipe] = &[
    Recipe {
        name: "pause",
        answers: &["pause"],
        content: Content::Packages(&["busybox-static"]),
        entrypoint: &["/bin/busybox", "sleep", "2147483647"],
        arguments: &[],
        folder: "/",
        user: "",
        environment: &[PATH],
        links: &[],
    },
    Recipe {
        name: "busybox",
        answers: &["busybox", "alpine"],
        content: Content::Packages(&["busybox-static"]),
        entrypoint: &[],
        arguments: &["sh"],
        folder: "/",
        user: "",
        environment: &[PATH],
        links: &[],
    },
    Recipe {
        name: "redis",
        answers: &["redis"],
        content: Content::Packages(&[
            "redis-server",
            "redis-tools",
            "dash",
            "coreutils",
            "sed",
            "grep",
        ]),
        entrypoint: &["/usr/local/bin/start"],
        arguments: &["redis-server"],
        folder: "/data",
        user: "",
        environment: &[PATH],
        links: &[],
    },
    Recipe {
        name: "redis-exporter",
        answers: &["redis_exporter", "redis-exporter"],
        content: Content::Packages(&["prometheus-redis-exporter"]),
        entrypoint: &["/usr/bin/prometheus-redis-exporter"],
        arguments: &[],
        folder: "/",
        user: "",
        environment: &[PATH],
        links: &[],
    },
    Recipe {
        name: "nginx",
        answers: &["nginx"],
        content: Content::Packages(&["nginx", "dash", "coreutils", "sed", "grep"]),
        entrypoint: &[],
        arguments: &["nginx", "-g", "daemon off;"],
        folder: "/",
        user: "",
        environment: &[PATH],
        links: &[
            (
                "etc/nginx/sites-enabled/default",
                "/etc/nginx/sites-available/default",
            ),
            ("var/www/html", "/usr/share/nginx/html"),
            ("var/log/nginx/access.log", "/dev/stdout"),
            ("var/log/nginx/error.log", "/dev/stderr"),
        ],
    },
    Recipe {
        name: "libretto",
        answers: &["libretto"],
        content: Content::Libretto { helm: false },
        entrypoint: &["/usr/bin/libretto"],
        arguments: &[],
        folder: "/",
        user: "65532:65532",
        environment: &[PATH],
        links: &[],
    },
    Recipe {
        name: "libretto-helm",
        answers: &["libretto-helm"],
        content: Content::Libretto { helm: true },
        entrypoint: &["/usr/bin/libretto"],
        arguments: &[],
        folder: "/",
        user: "65532:65532",
        environment: &[PATH],
        links: &[],
    },
    Recipe {
        name: "python",
        answers: &["python"],
        content: Content::Packages(&["python3-minimal", "libpython3-stdlib", "dash", "coreutils"]),
        entrypoint: &[],
        arguments: &["python3"],
        folder: "/",
        user: "",
        environment: &[PATH],
        links: &[],
    },
    // As tests/presto/fetch says it to the embedded cluster.
    Recipe {
        name: "trino",
        answers: &["trino"],
        content: Content::Tool("trino/rootfs"),
        entrypoint: &[],
        arguments: &["/usr/lib/trino/bin/run-trino"],
        folder: "/",
        user: "1000",
        environment: &[
            ("JAVA_HOME", "/usr/lib/jvm/java"),
            ("PATH", "/usr/lib/jvm/java/bin:/usr/local/bin:/usr/bin:/bin"),
            ("LANG", "C.UTF-8"),
        ],
        links: &[],
    },
];

const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

const USERS: &str = "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33:www-data:/var/www:/usr/sbin/nologin\nredis:x:999:999::/var/lib/redis:/usr/sbin/nologin\nlibretto:x:65532:65532::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n";
const GROUPS: &str =
    "root:x:0:\nadm:x:4:\nwww-data:x:33:\nredis:x:999:\nlibretto:x:65532:\nnogroup:x:65534:\n";

/// Where built images lie: `blobs/<hex>` and, for each image, `<name>.json` with the digest of its manifest.
pub(crate) fn folder(cache: &Path) -> PathBuf {
    cache.join("images")
}

/// Makes the images that are not in the cache yet. The one of our own binary is made when that binary exists and has changed.
pub(crate) fn all(cache: &Path) -> Result<(), String> {
    let folder = folder(cache);
    create_folder(&folder.join("blobs"))?;
    for recipe in RECIPES {
        let Some(key) = key(recipe) else { continue };
        if kept_key(&folder, recipe.name).as_deref() == Some(key.as_str()) {
            continue;
        }
        crate::run::step(&format!("image {}", recipe.name), || {
            build(cache, recipe, &key)
        })?;
    }
    Ok(())
}

/// The image a repository name stands for: the registry before it and the tag after it do not matter.
pub(crate) fn answering(repository: &str) -> Option<&'static Recipe> {
    let last = repository.rsplit('/').next()?;
    RECIPES.iter().find(|recipe| recipe.answers.contains(&last))
}

/// The digest of an image's manifest, when it has been built.
pub(crate) fn digest(cache: &Path, name: &str) -> Option<String> {
    Some(kept(&folder(cache), name)?["digest"].as_str()?.to_owned())
}

fn kept(folder: &Path, name: &str) -> Option<Value> {
    let text = fs::read(folder.join(format!("{name}.json"))).ok()?;
    serde_json::from_slice(&text).ok()
}

fn kept_key(folder: &Path, name: &str) -> Option<String> {
    Some(kept(folder, name)?["key"].as_str()?.to_owned())
}

/// Names everything an image is made of; a different key means that it must be made again. Packages are those of the day on which
/// the image was made.
fn key(recipe: &Recipe) -> Option<String> {
    let content = match recipe.content {
        Content::Packages(names) => names.join(" "),
        Content::Libretto { helm: _ } => {
            use std::os::unix::fs::MetadataExt;
            let binary = fs::metadata(libretto()).ok()?;
            format!(
                "{} {}.{}",
                binary.size(),
                binary.mtime(),
                binary.mtime_nsec()
            )
        }
        Content::Tool(name) => {
            use std::os::unix::fs::MetadataExt;
            let made = fs::metadata(setup::tools().ok()?.join(name)).ok()?;
            format!("{name} {}.{}", made.mtime(), made.mtime_nsec())
        }
    };
    Some(format!(
        "{content}; {:?} {:?} {} {} {:?} {:?} {REDIS_START}{USERS}{GROUPS}",
        recipe.entrypoint,
        recipe.arguments,
        recipe.folder,
        recipe.user,
        recipe.environment,
        recipe.links
    ))
}

fn build(cache: &Path, recipe: &Recipe, key: &str) -> Result<(), String> {
    let images = folder(cache);
    let work = images.join(format!("{}.work", recipe.name));
    let root = work.join("root");
    remove(&work)?;
    match recipe.content {
        Content::Tool(_) => create_folder(&root)?,
        _ => skeleton(&root, recipe)?,
    }
    match recipe.content {
        Content::Tool(name) => {
            let tool = setup::tools()?.join(name).join(".");
            run(Command::new("cp").arg("--archive").arg(tool).arg(&root))?;
        }
        Content::Packages(names) => unpack_packages(cache, &root, names)?,
        Content::Libretto { helm } => {
            copy_with_libraries(&libretto(), &root, "usr/bin/libretto")?;
            if helm {
                let tool = setup::tools()?.join("helm");
                run(Command::new("cp").arg(tool).arg(root.join("usr/bin/helm")))?;
            }
            create_folder(&root.join("etc/ssl/certs"))?;
            run(Command::new("cp")
                .arg(AUTHORITIES)
                .arg(root.join("etc/ssl/certs")))?;
        }
    }
    if root.join("bin/busybox").exists() {
        // One link for each of its commands.
        run(Command::new("chroot")
            .arg(&root)
            .args(["/bin/busybox", "--install", "-s", "/bin"]))?;
    }
    for (name, target) in recipe.links {
        link(&root.join(name), target)?;
    }
    let layer = work.join("layer.tar");
    run(Command::new("tar")
        .args(["--sort=name", "--mtime=@0", "--numeric-owner", "--create"])
        .arg("--file")
        .arg(&layer)
        .arg("--directory")
        .arg(&root)
        .arg("."))?;
    let layer = store(&images, &layer)?;
    let configuration = work.join("configuration.json");
    write(
        &configuration,
        &configuration_of(recipe, &layer.digest).to_string(),
    )?;
    let configuration = store(&images, &configuration)?;
    let manifest = work.join("manifest.json");
    write(&manifest, &manifest_of(&configuration, &layer).to_string())?;
    let manifest = store(&images, &manifest)?;
    remove(&work)?;
    write(
        &images.join(format!("{}.json", recipe.name)),
        &json!({"key": key, "digest": manifest.digest}).to_string(),
    )
}

/// What every Debian system has before the first package: merged folders, users, places to write to.
fn skeleton(root: &Path, recipe: &Recipe) -> Result<(), String> {
    for folder in [
        "usr/bin",
        "usr/sbin",
        "usr/lib",
        "usr/lib64",
        "usr/local/bin",
        "etc",
        "dev",
        "proc",
        "sys",
        "run",
        "tmp",
        "root",
        "data",
        "var/tmp",
        "var/lib",
        "var/log",
    ] {
        create_folder(&root.join(folder))?;
    }
    for name in ["bin", "sbin", "lib", "lib64"] {
        link(&root.join(name), &format!("usr/{name}"))?;
    }
    run(Command::new("chmod")
        .arg("1777")
        .arg(root.join("tmp"))
        .arg(root.join("var/tmp"))
        .arg(root.join("data")))?;
    write(&root.join("etc/passwd"), USERS)?;
    write(&root.join("etc/group"), GROUPS)?;
    if recipe.entrypoint.first() == Some(&"/usr/local/bin/start") {
        let start = root.join("usr/local/bin/start");
        write(&start, REDIS_START)?;
        run(Command::new("chmod").arg("755").arg(&start))?;
    }
    Ok(())
}

const UNPACK: &str =
    "dpkg-deb --fsys-tarfile \"$1\" | tar --extract --keep-directory-symlink --directory \"$2\"";

/// Downloads packages with everything they depend on, as if nothing were installed, and unpacks them.
fn unpack_packages(cache: &Path, root: &Path, names: &[&str]) -> Result<(), String> {
    let archives = folder(cache).join("packages");
    remove(&archives)?;
    create_folder(&archives.join("partial"))?;
    let nothing = archives.join("nothing-installed");
    write(&nothing, "")?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .args(["--yes", "--quiet=2", "--no-install-recommends"])
            .arg(format!("--option=Dir::State::Status={}", nothing.display()))
            .arg(format!(
                "--option=Dir::Cache::Archives={}",
                archives.display()
            ))
            // The download user cannot write below a private home.
            .arg("--option=APT::Sandbox::User=root");
        command
    };
    let list = || run(apt().arg("--print-uris").arg("install").args(names));
    // A machine that never asked its mirrors knows no package.
    let listed = list().or_else(|_| {
        run(Command::new("apt-get").args(["update", "--quiet=2"]))?;
        list()
    })?;
    run(apt().arg("--download-only").arg("install").args(names))?;
    // The folder is emptied before and after: what is downloaded already would not be listed.
    let mut files: Vec<PathBuf> = listed
        .lines()
        .filter_map(archive_name)
        .map(|name| archives.join(name))
        .collect();
    files.sort();
    for file in &files {
        // `dpkg-deb --extract` would replace the links of the merged folders by folders.
        run(Command::new("sh")
            .args(["-c", UNPACK, "sh"])
            .arg(file)
            .arg(root))?;
    }
    remove(&archives)
}

/// The file name in a line of `apt-get --print-uris`: `'address' name size hash`.
fn archive_name(line: &str) -> Option<&str> {
    let mut words = line.split_whitespace();
    words.next().filter(|address| address.starts_with('\''))?;
    words.next()
}

fn copy_with_libraries(binary: &Path, root: &Path, target: &str) -> Result<(), String> {
    run(Command::new("strip")
        .arg("-o")
        .arg(root.join(target))
        .arg(binary))?;
    let listed = run(Command::new("ldd").arg(binary))?;
    for library in libraries(&listed) {
        let target = root.join(library.trim_start_matches('/'));
        if let Some(folder) = target.parent() {
            create_folder(folder)?;
        }
        run(Command::new("cp")
            .arg("--dereference")
            .arg(library)
            .arg(&target))?;
    }
    Ok(())
}

/// The paths in what `ldd` prints; the kernel's own library has none.
fn libraries(listed: &str) -> Vec<&str> {
    listed
        .lines()
        .filter_map(|line| {
            let path = line.split_once("=> ").map_or(line, |(_, path)| path).trim();
            path.starts_with('/')
                .then(|| path.split(' ').next())
                .flatten()
        })
        .collect()
}

struct Blob {
    digest: String,
    size: u64,
}

/// Moves a file among the blobs, under its digest.
fn store(images: &Path, file: &Path) -> Result<Blob, String> {
    let sum = run(Command::new("sha256sum").arg(file))?;
    let hex = sum.split_whitespace().next().unwrap_or_default();
    let size = fs::metadata(file)
        .map_err(|error| format!("read {}: {error}", file.display()))?
        .len();
    let target = images.join("blobs").join(hex);
    fs::rename(file, &target).map_err(|error| format!("rename {}: {error}", file.display()))?;
    Ok(Blob {
        digest: format!("sha256:{hex}"),
        size,
    })
}

fn configuration_of(recipe: &Recipe, layer: &str) -> Value {
    json!({
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": recipe
                .environment
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>(),
            "Entrypoint": recipe.entrypoint,
            "Cmd": recipe.arguments,
            "WorkingDir": recipe.folder,
            "User": recipe.user,
        },
        "rootfs": {"type": "layers", "diff_ids": [layer]},
    })
}

fn manifest_of(configuration: &Blob, layer: &Blob) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": configuration.digest,
            "size": configuration.size,
        },
        // Not compressed: it never travels further than this machine.
        "layers": [{
            "mediaType": "application/vnd.oci.image.layer.v1.tar",
            "digest": layer.digest,
            "size": layer.size,
        }],
    })
}

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// Go's name for this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The latest build, of whichever profile: one with optimisations takes minutes and is not needed to see whether something works.
fn libretto() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| setup::workspace().join("target"), PathBuf::from);
    let built = |path: &PathBuf| fs::metadata(path).and_then(|file| file.modified()).ok();
    let [debug, release] =
        ["debug", "release"].map(|profile| target.join(profile).join("libretto"));
    if built(&release) > built(&debug) {
        release
    } else {
        debug
    }
}

fn link(path: &Path, target: &str) -> Result<(), String> {
    if let Some(folder) = path.parent() {
        create_folder(folder)?;
    }
    std::os::unix::fs::symlink(target, path)
        .map_err(|error| format!("link {}: {error}", path.display()))
}

fn write(path: &Path, content: &str) -> Result<(), String> {
    fs::write(path, content).map_err(|error| format!("write {}: {error}", path.display()))
}

fn remove(path: &Path) -> Result<(), String> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repositories_find_their_image_whatever_is_around_them() {
        for (repository, name) in [
            ("library/redis", Some("redis")),
            ("redis", Some("redis")),
            ("oliver006/redis_exporter", Some("redis-exporter")),
            ("some/where/nginx", Some("nginx")),
            ("library/postgres", None),
        ] {
            assert_eq!(answering(repository).map(|recipe| recipe.name), name);
        }
    }

    #[test]
    fn the_manifest_names_its_blobs() {
        let blob = |name: &str, size| Blob {
            digest: format!("sha256:{name}"),
            size,
        };
        let manifest = manifest_of(&blob("c", 1), &blob("l", 2));
        assert_eq!(manifest["config"]["digest"], "sha256:c");
        assert_eq!(manifest["layers"][0]["size"], 2);
        assert_eq!(manifest["mediaType"], MANIFEST);
        let redis = answering("redis").map(|recipe| configuration_of(recipe, "sha256:l"));
        let redis = redis.unwrap_or_default();
        assert_eq!(redis["rootfs"]["diff_ids"][0], "sha256:l");
        assert_eq!(redis["config"]["Cmd"][0], "redis-server");
        assert_eq!(redis["config"]["WorkingDir"], "/data");
    }

    #[test]
    fn package_lists_and_library_lists_are_read() {
        assert_eq!(
            archive_name("'http://mirror/pool/z.deb' zlib1g_1%3a1.2_amd64.deb 9 SHA256:0"),
            Some("zlib1g_1%3a1.2_amd64.deb")
        );
        assert_eq!(archive_name("Reading package lists..."), None);
        assert_eq!(
            libraries(
                "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n\tstatically linked\n"
            ),
            ["/lib/libc.so.6", "/lib64/ld.so.2"]
        );
    }
}
