//! Certificates and tokens of the cluster: made once, kept in the data directory readable by its owner only.
//!
//! The authority is kept so that kubeconfig files stay valid; the server's own certificate is made afresh at every start and its
//! key never touches the disk.

use std::{
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};

/// Names the server answers to: loopback, the names and addresses under which pods reach it.
const NAMES: &[&str] = &[
    "127.0.0.1",
    "::1",
    "localhost",
    "kubernetes",
    "kubernetes.default",
    "kubernetes.default.svc",
    "kubernetes.default.svc.cluster.local",
    "10.96.0.1",
    "10.66.0.1",
];
const COMMON_NAME: &str = "libretto development cluster";
/// 256 bits.
const TOKEN_BYTES: usize = 32;

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("cannot {what} {}", path.display())]
    File {
        what: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error("{} does not hold a usable key; delete it together with ca.crt and start again", path.display())]
    Key { path: PathBuf, source: rcgen::Error },
    #[error("cannot make a certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot set up TLS")]
    Tls(#[from] rustls::Error),
}

/// What clients need to trust the server, and the server to prove itself.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    pub(crate) ca_pem: String,
    pub(crate) token: String,
    pub(crate) server: Arc<rustls::ServerConfig>,
}

impl Identity {
    /// Reads or makes the identity in `directory`; `None` makes one that is forgotten.
    pub(crate) fn load(directory: Option<&Path>) -> Result<Self, IdentityError> {
        let token = kept(directory, "token", random_token)?;
        let path = directory.map(|directory| directory.join("ca.key"));
        let key_pem = kept(directory, "ca.key", || {
            Ok(KeyPair::generate()?.serialize_pem())
        })?;
        let key = KeyPair::from_pem(&key_pem).map_err(|source| IdentityError::Key {
            path: path.unwrap_or_default(),
            source,
        })?;
        let authority = authority_parameters();
        let ca_pem = kept(directory, "ca.crt", || {
            Ok(authority.self_signed(&key)?.pem())
        })?;
        let issuer = Issuer::new(authority, key);
        let server_key = KeyPair::generate()?;
        let mut parameters = CertificateParams::new(
            NAMES
                .iter()
                .map(|&name| name.to_owned())
                .collect::<Vec<_>>(),
        )?;
        parameters.distinguished_name = named("libretto API server");
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        parameters.use_authority_key_identifier_extension = true;
        let certificate = parameters.signed_by(&server_key, &issuer)?;
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(server_key.serialize_der().into());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)?;
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self {
            ca_pem,
            token,
            server: Arc::new(server),
        })
    }
}

fn authority_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.distinguished_name = named(COMMON_NAME);
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn random_token() -> Result<String, IdentityError> {
    let bytes: [u8; TOKEN_BYTES] = rand::random();
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// The content of a file, made when it is not there.
fn kept(
    directory: Option<&Path>,
    name: &str,
    make: impl FnOnce() -> Result<String, IdentityError>,
) -> Result<String, IdentityError> {
    let Some(directory) = directory else {
        return make();
    };
    let path = directory.join(name);
    // Whatever copied or restored it may have opened it to everybody.
    match std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            return Err(IdentityError::File {
                what: "protect",
                path,
                source,
            });
        }
        _ => {}
    }
    match std::fs::read_to_string(&path) {
        Ok(text) if !text.trim().is_empty() => Ok(text.trim().to_owned()),
        Ok(_) => write_made(&path, make),
        Err(error) if error.kind() == io::ErrorKind::NotFound => write_made(&path, make),
        Err(source) => Err(IdentityError::File {
            what: "read",
            path,
            source,
        }),
    }
}

fn write_made(
    path: &Path,
    make: impl FnOnce() -> Result<String, IdentityError>,
) -> Result<String, IdentityError> {
    let text = make()?;
    write_private(path, &text).map_err(|source| IdentityError::File {
        what: "write",
        path: path.to_owned(),
        source,
    })?;
    Ok(text.trim().to_owned())
}

/// Replaces a file that only its owner may read. The new content appears at once or not at all.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let temporary = PathBuf::from(temporary);
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn identity_is_kept_and_private() {
        let directory = tempfile::tempdir().unwrap();
        let first = Identity::load(Some(directory.path())).unwrap();
        let second = Identity::load(Some(directory.path())).unwrap();
        assert_eq!(first.token, second.token);
        assert_eq!(first.ca_pem, second.ca_pem);
        for name in ["token", "ca.key"] {
            let mode = std::fs::metadata(directory.path().join(name))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        assert_ne!(Identity::load(None).unwrap().token, first.token);
    }

    #[test]
    fn broken_key_is_named() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.key"), "nonsense").unwrap();
        let error = Identity::load(Some(directory.path())).unwrap_err();
        assert!(error.to_string().contains("ca.key"), "{error}");
    }
}
