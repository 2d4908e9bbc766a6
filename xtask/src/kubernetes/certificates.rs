//! The cluster's certificate authority and who gets a certificate from it. Made anew with every fresh state, by openssl; keys are
//! readable by root only.

use std::process::Command;

use serde_json::json;

use super::{
    place::{API_PORT, API_SERVICE_ADDRESS, NODE, NODE_ADDRESS, Place},
    run,
};

/// A test cluster that is older than this has been forgotten.
const DAYS: &str = "3650";

/// One certificate: its subject says who it is to the API server, its names where it may be served.
struct Certificate {
    name: &'static str,
    subject: String,
    names: Vec<String>,
}

fn certificates() -> Vec<Certificate> {
    let server = |name, subject: &str, names: &[&str], addresses: &[&str]| Certificate {
        name,
        subject: subject.to_owned(),
        names: names
            .iter()
            .map(|name| format!("DNS:{name}"))
            .chain(addresses.iter().map(|address| format!("IP:{address}")))
            .collect(),
    };
    let client = |name, subject: &str| Certificate {
        name,
        subject: subject.to_owned(),
        names: Vec::new(),
    };
    vec![
        server("etcd", "/CN=etcd", &["localhost"], &["127.0.0.1"]),
        server(
            "kube-apiserver",
            "/CN=kube-apiserver",
            &[
                "kubernetes",
                "kubernetes.default",
                "kubernetes.default.svc",
                "kubernetes.default.svc.cluster.local",
            ],
            &[NODE_ADDRESS, API_SERVICE_ADDRESS],
        ),
        server("kubelet-server", "/CN=kubelet", &[NODE], &[NODE_ADDRESS]),
        client("admin", "/O=system:masters/CN=admin"),
        // What the API server shows etcd and the kubelet.
        client("apiserver-client", "/O=system:masters/CN=kube-apiserver"),
        client(
            "kube-controller-manager",
            "/CN=system:kube-controller-manager",
        ),
        client("kube-scheduler", "/CN=system:kube-scheduler"),
        client("kube-proxy", "/CN=system:kube-proxy"),
        client("kubelet", &format!("/O=system:nodes/CN=system:node:{NODE}")),
    ]
}

/// Makes what is missing, and a kubeconfig for everybody who talks to the API server.
pub(crate) fn all(place: &Place) -> Result<(), String> {
    let folder = place.state.join("certificates");
    super::place::create_folder(&folder)?;
    if !folder.join("ca.crt").exists() {
        run(Command::new("openssl")
            .current_dir(&folder)
            .args(key_arguments("ca.key", "/CN=libretto-kubernetes"))
            .args(["-addext", "basicConstraints=critical,CA:TRUE"])
            .args(["-addext", "keyUsage=critical,keyCertSign,cRLSign"])
            .args(["-out", "ca.crt"]))?;
    }
    for certificate in certificates() {
        let file = format!("{}.crt", certificate.name);
        if !folder.join(&file).exists() {
            run(Command::new("openssl")
                .current_dir(&folder)
                .args(key_arguments(
                    &format!("{}.key", certificate.name),
                    &certificate.subject,
                ))
                .args(["-CA", "ca.crt", "-CAkey", "ca.key"])
                .args(extensions(&certificate))
                .args(["-out", &file]))?;
        }
    }
    if !folder.join("service-account.pub").exists() {
        run(Command::new("openssl")
            .current_dir(&folder)
            .args(["ecparam", "-genkey", "-noout", "-name", "prime256v1"])
            .args(["-out", "service-account.key"]))?;
        run(Command::new("openssl")
            .current_dir(&folder)
            .args(["ec", "-pubout", "-in", "service-account.key"])
            .args(["-out", "service-account.pub"]))?;
    }
    for name in [
        "kube-controller-manager",
        "kube-scheduler",
        "kube-proxy",
        "kubelet",
    ] {
        let content = kubeconfig(place, name, false)?;
        place.write(&format!("{name}.kubeconfig"), &content)?;
    }
    // The user's: it may be copied elsewhere, so it carries its certificates in itself.
    let content = kubeconfig(place, "admin", true)?;
    place.write("kubeconfig", &content).map(|_| ())
}

fn key_arguments(key: &str, subject: &str) -> Vec<String> {
    [
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        DAYS,
        "-keyout",
        key,
        "-subj",
        subject,
    ]
    .map(str::to_owned)
    .to_vec()
}

fn extensions(certificate: &Certificate) -> Vec<String> {
    let mut arguments = Vec::new();
    let mut add = |extension: String| arguments.extend(["-addext".to_owned(), extension]);
    add("basicConstraints=critical,CA:FALSE".to_owned());
    add("keyUsage=critical,digitalSignature".to_owned());
    // etcd is its own client when it proxies requests to itself.
    let usage = match (certificate.name, certificate.names.is_empty()) {
        ("etcd", _) => "serverAuth,clientAuth",
        (_, true) => "clientAuth",
        (_, false) => "serverAuth",
    };
    add(format!("extendedKeyUsage={usage}"));
    if !certificate.names.is_empty() {
        add(format!("subjectAltName={}", certificate.names.join(",")));
    }
    arguments
}

fn kubeconfig(place: &Place, user: &str, embedded: bool) -> Result<String, String> {
    let file = |name: &str| -> Result<(String, String), String> {
        let path = place.path(&format!("certificates/{name}"));
        if !embedded {
            return Ok((String::new(), path));
        }
        let encoded = run(Command::new("base64").args(["--wrap=0", &path]))?;
        Ok(("-data".to_owned(), encoded.trim().to_owned()))
    };
    let mut cluster = json!({"server": format!("https://{NODE_ADDRESS}:{API_PORT}")});
    let (suffix, authority) = file("ca.crt")?;
    cluster[format!("certificate-authority{suffix}")] = authority.into();
    let mut identity = json!({});
    for (field, name) in [
        ("client-certificate", format!("{user}.crt")),
        ("client-key", format!("{user}.key")),
    ] {
        let (suffix, value) = file(&name)?;
        identity[format!("{field}{suffix}")] = value.into();
    }
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NODE, "cluster": cluster}],
        "users": [{"name": user, "user": identity}],
        "contexts": [{"name": NODE, "context": {"cluster": NODE, "user": user}}],
        "current-context": NODE,
    })
    .to_string())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn arguments(name: &str) -> String {
        let all = certificates();
        extensions(all.iter().find(|one| one.name == name).unwrap()).join(" ")
    }

    #[test]
    fn servers_are_named_by_every_address_they_are_reached_at() {
        let server = arguments("kube-apiserver");
        for name in [
            "DNS:kubernetes.default.svc,".to_owned(),
            format!("IP:{NODE_ADDRESS}"),
            format!("IP:{API_SERVICE_ADDRESS}"),
        ] {
            assert!(server.contains(&name), "{server}");
        }
        assert!(server.contains("extendedKeyUsage=serverAuth"));
        let kubelet = arguments("kubelet-server");
        assert!(kubelet.contains(&format!("subjectAltName=DNS:{NODE},IP:{NODE_ADDRESS}")));
    }

    #[test]
    fn a_client_certificate_serves_nothing() {
        let client = arguments("admin");
        assert!(client.contains("extendedKeyUsage=clientAuth"));
        assert!(!client.contains("subjectAltName"));
        assert!(!client.contains("serverAuth"));
    }
}
