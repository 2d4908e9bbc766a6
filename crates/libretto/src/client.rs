//! Clients of the API server, in the name of whoever a configuration says, or of a service account.

use std::time::Duration;

use libretto_api::installation::Place;

const USER_AGENT: &str = concat!("libretto/", env!("CARGO_PKG_VERSION"));

/// A client with bounded connects; long watches and logs keep kube's own read timeout.
pub fn of(mut config: kube::Config) -> Result<kube::Client, kube::Error> {
    // Longer than any healthy handshake, shorter than a person's patience.
    config.connect_timeout = Some(Duration::from_secs(10));
    // Who it was, in audit logs and in the request metrics of the API server.
    config.headers.push((
        http::header::USER_AGENT,
        http::HeaderValue::from_static(USER_AGENT),
    ));
    kube::Client::try_from(config)
}

/// A client that acts as the service account. The API server asks whether whoever connects may do so, and from then on only what the
/// account may do; its groups come with it.
pub fn impersonating(config: &kube::Config, account: &Place) -> Result<kube::Client, kube::Error> {
    let mut config = config.clone();
    let user = format!(
        "system:serviceaccount:{}:{}",
        account.namespace, account.name
    );
    config.auth_info.impersonate = Some(user);
    config.auth_info.impersonate_groups = None;
    of(config)
}
