//! Finds the cluster a command is about.
//!
//! In this order: --kubeconfig, $KUBECONFIG, a running `libretto up`, ~/.kube/config, the service account of a pod.

use std::{
    ffi::OsStr,
    net::ToSocketAddrs as _,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use libretto_actions::kube::Kube;

use crate::{
    cli::{
        CliError,
        config::{Config, default_data_dir},
    },
    client,
};

/// A local listener answers in microseconds; anything longer is no running `libretto up`.
const ALIVE_TIMEOUT: Duration = Duration::from_millis(300);

/// Which cluster, and where in it.
#[derive(Debug, Clone, Default, Args)]
pub struct ClusterArgs {
    /// Kubeconfig file to use
    #[arg(long, value_name = "FILE", help_heading = "Cluster")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of the kubeconfig to use
    #[arg(long, value_name = "NAME", help_heading = "Cluster")]
    pub context: Option<String>,

    /// `data-dir` of the settings file: where a running `libretto up` may be found.
    #[arg(skip)]
    pub data_dir: Option<PathBuf>,
}

/// Where in the cluster.
#[derive(Debug, Clone, Default, Args)]
pub struct NamespaceArgs {
    /// Namespace (default: the kubeconfig's)
    #[arg(short, long, value_name = "NAME", help_heading = "Cluster")]
    pub namespace: Option<String>,
}

/// A connection and the namespace that goes with it.
pub(crate) struct Cluster {
    pub(crate) kube: Kube,
    pub(crate) namespace: String,
}

impl Cluster {
    pub(crate) async fn connect(
        args: &ClusterArgs,
        namespace: Option<&str>,
    ) -> Result<Self, CliError> {
        let client = client(args).await?;
        let namespace =
            namespace.map_or_else(|| client.default_namespace().to_owned(), str::to_owned);
        Ok(Self {
            kube: Kube::new(client),
            namespace,
        })
    }
}

/// A client of the cluster that the user means.
pub(crate) async fn client(args: &ClusterArgs) -> Result<kube::Client, CliError> {
    client_of(config(args).await?)
}

/// Where the cluster that the user means is, and as whom it is spoken to.
pub(crate) async fn config(args: &ClusterArgs) -> Result<kube::Config, CliError> {
    match kubeconfig(args)? {
        Some((kubeconfig, from)) => {
            known_context(&kubeconfig, args.context.as_deref(), &from)?;
            let options = KubeConfigOptions {
                context: args.context.clone(),
                ..KubeConfigOptions::default()
            };
            kube::Config::from_custom_kubeconfig(kubeconfig, &options)
                .await
                .map_err(|error| CliError::failed(format!("kubeconfig: {error}")))
        }
        None => kube::Config::incluster().map_err(|_error| {
            CliError::failed("no cluster to talk to: there is no kubeconfig, and this is not a pod")
                .hint("`libretto up` starts a cluster on this machine; --kubeconfig names another")
        }),
    }
}

pub(crate) fn client_of(config: kube::Config) -> Result<kube::Client, CliError> {
    client::of(config).map_err(|error| CliError::failed(format!("kubeconfig: {error}")))
}

/// With what it was read from, for messages.
fn kubeconfig(args: &ClusterArgs) -> Result<Option<(Kubeconfig, String)>, CliError> {
    let named = |path: &Path, kubeconfig| Some((kubeconfig, path.display().to_string()));
    if let Some(path) = &args.kubeconfig {
        return Ok(named(path, read(path)?));
    }
    if let Some(value) = std::env::var_os("KUBECONFIG")
        && let Some(kubeconfig) = merged(&value)?
    {
        return Ok(Some((kubeconfig, value.to_string_lossy().into_owned())));
    }
    let data_dir = std::env::var_os("LIBRETTO_DATA_DIR")
        .map(PathBuf::from)
        .or_else(|| args.data_dir.clone())
        .unwrap_or_else(default_data_dir);
    let local = data_dir.join("kubeconfig");
    if local.is_file() {
        let kubeconfig = read(&local)?;
        if alive(&kubeconfig) {
            return Ok(named(&local, kubeconfig));
        }
    }
    let Some(home) = std::env::home_dir() else {
        return Ok(None);
    };
    let default = home.join(".kube/config");
    if default.is_file() {
        return Ok(named(&default, read(&default)?));
    }
    Ok(None)
}

/// Whether a command without flags, in a fresh shell, finds the cluster that is kept in `data_dir`.
pub(crate) fn found_without_help(data_dir: &Path) -> bool {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    // What this shell has set, the next one need not have.
    if set("KUBECONFIG") || set("LIBRETTO_DATA_DIR") || set("LIBRETTO_CONFIG") {
        return false;
    }
    let looked_at = match Config::load(None) {
        Ok(config) => config.data_dir.unwrap_or_else(default_data_dir),
        Err(_error) => return false,
    };
    // A relative folder is another one elsewhere.
    looked_at.is_absolute() && looked_at == data_dir
}

/// The files of $KUBECONFIG as one; those that do not exist are skipped, as kubectl does. Nothing when it names none.
fn merged(value: &OsStr) -> Result<Option<Kubeconfig>, CliError> {
    let named: Vec<PathBuf> = std::env::split_paths(value)
        .filter(|path| !path.as_os_str().is_empty())
        .collect();
    if named.is_empty() {
        return Ok(None);
    }
    let mut whole: Option<Kubeconfig> = None;
    for path in named.iter().filter(|path| path.exists()) {
        let next = read(path)?;
        whole = Some(match whole {
            None => next,
            Some(before) => before.merge(next).map_err(|error| {
                CliError::failed(format!("kubeconfig {}: {error}", path.display()))
            })?,
        });
    }
    if whole.is_none() {
        let files = value.to_string_lossy();
        let message = if named.len() == 1 {
            format!("the file of $KUBECONFIG does not exist: {files}")
        } else {
            format!("none of the files of $KUBECONFIG exists: {files}")
        };
        return Err(CliError::failed(message)
            .hint("`unset KUBECONFIG` to use a running `libretto up` or ~/.kube/config"));
    }
    Ok(whole)
}

fn read(path: &Path) -> Result<Kubeconfig, CliError> {
    Kubeconfig::read_from(path).map_err(|error| {
        // The client's own words name the file a second time.
        let reason = match &error {
            KubeconfigError::ReadConfig(reason, _) => reason.to_string(),
            other => other.to_string(),
        };
        CliError::failed(format!("kubeconfig {}: {reason}", path.display()))
    })
}

/// The context that is asked for, by name or as the current one, is there.
fn known_context(kubeconfig: &Kubeconfig, asked: Option<&str>, from: &str) -> Result<(), CliError> {
    let Some(name) = asked.or(kubeconfig.current_context.as_deref()) else {
        return Ok(());
    };
    let mut known: Vec<&str> = kubeconfig
        .contexts
        .iter()
        .map(|context| context.name.as_str())
        .collect();
    if name.is_empty() || known.contains(&name) {
        return Ok(());
    }
    known.sort_unstable();
    let current = if asked.is_some() { "" } else { "current " };
    Err(CliError::failed(format!(
        "kubeconfig {from} has no {current}context {name:?}"
    ))
    .hint(if known.is_empty() {
        "it has no context at all".to_owned()
    } else {
        format!("it has: {}", known.join(", "))
    }))
}

/// Somebody listens where the kubeconfig points.
fn alive(kubeconfig: &Kubeconfig) -> bool {
    kubeconfig
        .clusters
        .iter()
        .filter_map(|named| named.cluster.as_ref()?.server.as_deref())
        .filter_map(|server| server.parse::<http::Uri>().ok())
        .filter_map(|uri| {
            (uri.host()?, uri.port_u16().unwrap_or(443))
                .to_socket_addrs()
                .ok()
        })
        .flatten()
        .any(|address| std::net::TcpStream::connect_timeout(&address, ALIVE_TIMEOUT).is_ok())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn missing_files_of_kubeconfig_are_skipped() {
        let folder = tempfile::tempdir().unwrap();
        let (there, other, missing) = (
            folder.path().join("a"),
            folder.path().join("b"),
            folder.path().join("c"),
        );
        let text = |name: &str| format!("apiVersion: v1\nkind: Config\ncurrent-context: {name}\n");
        std::fs::write(&there, text("first")).unwrap();
        std::fs::write(&other, text("second")).unwrap();
        let of = |paths: &[&PathBuf]| merged(&std::env::join_paths(paths).unwrap());
        let whole = of(&[&missing, &there, &other]).unwrap().unwrap();
        assert_eq!(whole.current_context.as_deref(), Some("first"));
        let error = of(&[&missing, &missing]).unwrap_err().to_string();
        assert!(error.starts_with("none of the files"), "{error}");
        let error = of(&[&missing]).unwrap_err().to_string();
        assert!(error.contains("does not exist"), "{error}");
        assert!(merged(OsStr::new("")).unwrap().is_none());
    }

    #[test]
    fn a_context_that_is_not_there_is_told_with_those_that_are() {
        let kubeconfig = Kubeconfig::from_yaml(
            "contexts:\n- {name: b, context: {cluster: x}}\n- {name: a, context: {cluster: x}}\n",
        )
        .unwrap();
        assert!(known_context(&kubeconfig, Some("a"), "f").is_ok());
        assert!(known_context(&kubeconfig, None, "f").is_ok());
        let error = known_context(&kubeconfig, Some("c"), "/k").unwrap_err();
        assert_eq!(
            error.to_string(),
            "kubeconfig /k has no context \"c\"\n  hint: it has: a, b"
        );
    }

    #[test]
    fn a_file_is_named_once() {
        let error = read(Path::new("/nope")).unwrap_err().to_string();
        assert_eq!(
            error,
            "kubeconfig /nope: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_stopped_cluster_is_not_alive() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!(
            "apiVersion: v1\nkind: Config\nclusters:\n- name: libretto\n  cluster:\n    server: https://127.0.0.1:{port}\n"
        );
        let kubeconfig = Kubeconfig::from_yaml(&text).unwrap();
        assert!(alive(&kubeconfig));
        drop(listener);
        assert!(!alive(&kubeconfig));
    }
}
