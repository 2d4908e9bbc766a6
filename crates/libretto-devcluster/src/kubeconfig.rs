//! The kubeconfig clients use.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;

/// Name of cluster, context and user.
const NAME: &str = "libretto";

/// A kubeconfig for the cluster at `url`. JSON, which is YAML: no quoting rules to get wrong.
pub(crate) fn text(url: &str, ca_pem: &str, token: &str) -> String {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "preferences": {},
        "clusters": [{"name": NAME, "cluster": {
            "server": url, "certificate-authority-data": STANDARD.encode(ca_pem)}}],
        "users": [{"name": NAME, "user": {"token": token}}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": NAME, "namespace": "default"}}],
        "current-context": NAME,
    });
    serde_json::to_string_pretty(&config).expect("JSON values have string keys only") + "\n"
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn kube_reads_it() {
        let text = text("https://127.0.0.1:1234", "-----BEGIN", "t");
        let config = kube::config::Kubeconfig::from_yaml(&text).unwrap();
        assert_eq!(config.current_context.as_deref(), Some("libretto"));
        assert_eq!(
            config.clusters[0]
                .cluster
                .as_ref()
                .unwrap()
                .server
                .as_deref(),
            Some("https://127.0.0.1:1234")
        );
    }
}
