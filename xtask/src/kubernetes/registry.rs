//! Serves the built images to containerd over HTTP, read-only: the part of the OCI distribution API that a pull needs. It answers with
//! the same image whatever tag is asked for, and never stands in for an image it does not have.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write, copy},
    net::{TcpListener, TcpStream},
    path::Path,
    thread,
    time::Duration,
};

use super::{
    images,
    place::{IMAGES_PORT, NODE_ADDRESS, Place},
};

/// A client that is silent for longer holds a thread for nothing; containerd sends its requests at once.
const SILENCE: Duration = Duration::from_secs(30);
/// Longest request head; containerd sends a few hundred bytes.
const LONGEST_HEAD: u64 = 16 * 1024;

/// Serves until the process is ended.
pub(crate) fn serve(place: &Place) -> Result<(), String> {
    let address = format!("{NODE_ADDRESS}:{IMAGES_PORT}");
    let listener =
        TcpListener::bind(&address).map_err(|error| format!("listen on {address}: {error}"))?;
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let cache = place.cache.clone();
        thread::spawn(move || {
            if let Err(error) = answer(&cache, &stream) {
                crate::say(&format!("error: {error}"));
            }
        });
    }
    Ok(())
}

/// What a path stands for.
#[derive(Debug, PartialEq, Eq)]
enum Wanted<'a> {
    Hello,
    /// An image, by tag or by the digest of its manifest.
    Manifest {
        repository: &'a str,
        reference: &'a str,
    },
    Blob {
        digest: &'a str,
    },
    Unknown,
}

fn wanted(target: &str) -> Wanted<'_> {
    let path = target.split('?').next().unwrap_or(target);
    let Some(path) = path.strip_prefix("/v2/") else {
        return if path == "/v2" {
            Wanted::Hello
        } else {
            Wanted::Unknown
        };
    };
    if path.is_empty() {
        return Wanted::Hello;
    }
    if let Some((repository, reference)) = path.rsplit_once("/manifests/") {
        return Wanted::Manifest {
            repository,
            reference,
        };
    }
    path.rsplit_once("/blobs/")
        .map_or(Wanted::Unknown, |(_, digest)| Wanted::Blob { digest })
}

/// The file name of a blob; anything but a sha256 digest could name another file.
fn blob_name(digest: &str) -> Option<&str> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn answer(cache: &Path, stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut head = BufReader::new(stream.take(LONGEST_HEAD));
    let mut first = String::new();
    head.read_line(&mut first)?;
    let mut line = String::new();
    while head.read_line(&mut line)? > 2 {
        line.clear();
    }
    let mut words = first.split_whitespace();
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    if !matches!(method, "GET" | "HEAD") {
        return refuse(
            stream,
            "405 Method Not Allowed",
            "this registry is read-only",
        );
    }
    let (kind, digest) = match wanted(target) {
        Wanted::Hello => return refuse(stream, "200 OK", ""),
        Wanted::Unknown => return refuse(stream, "404 Not Found", "no such path"),
        Wanted::Blob { digest } => ("application/octet-stream", Some(digest.to_owned())),
        Wanted::Manifest {
            repository,
            reference,
        } => (
            images::MANIFEST,
            if reference.starts_with("sha256:") {
                Some(reference.to_owned())
            } else {
                images::answering(repository).and_then(|recipe| images::digest(cache, recipe.name))
            },
        ),
    };
    let file = digest
        .as_deref()
        .and_then(blob_name)
        .and_then(|hex| File::open(images::folder(cache).join("blobs").join(hex)).ok());
    let (Some(digest), Some(mut file)) = (digest, file) else {
        crate::say(&format!("{target}: not among the images"));
        return refuse(stream, "404 Not Found", "not among the images");
    };
    let mut stream = stream;
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nDocker-Content-Digest: {digest}\r\nConnection: close\r\n\r\n",
        file.metadata()?.len()
    )?;
    if method == "GET" {
        copy(&mut file, &mut stream)?;
    }
    stream.flush()
}

fn refuse(mut stream: &TcpStream, status: &str, message: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{message}",
        message.len()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_understood() {
        assert_eq!(wanted("/v2/"), Wanted::Hello);
        assert_eq!(
            wanted("/v2/library/redis/manifests/5.0.4-alpine?ns=docker.io"),
            Wanted::Manifest {
                repository: "library/redis",
                reference: "5.0.4-alpine"
            }
        );
        assert_eq!(
            wanted("/v2/a/b/blobs/sha256:00"),
            Wanted::Blob {
                digest: "sha256:00"
            }
        );
        assert_eq!(wanted("/etc/passwd"), Wanted::Unknown);
    }

    #[test]
    fn a_digest_cannot_name_another_file() {
        let hex = "a".repeat(64);
        assert_eq!(blob_name(&format!("sha256:{hex}")), Some(hex.as_str()));
        assert_eq!(blob_name("sha256:../../etc/passwd"), None);
        assert_eq!(blob_name(&hex), None);
    }
}
