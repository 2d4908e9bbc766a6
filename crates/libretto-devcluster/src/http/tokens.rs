//! Who asks. One administrator token, and service account tokens the server signs itself. Nobody else is let in.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, header};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{
    error::ApiError,
    rbac::{MASTERS, User},
};

/// Issuer of service account tokens, as in-cluster clients expect it.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// SHA-256 works on blocks of this size (RFC 2104).
const BLOCK: usize = 64;

/// Checks and signs tokens.
pub struct Authority {
    /// Only the digest is kept: comparing digests takes the same time whatever the guess.
    admin: [u8; 32],
    /// Signs service account tokens (HS256).
    key: Vec<u8>,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Authority(..)")
    }
}

impl Authority {
    /// `token` is the administrator's; the signing key is derived from it, so tokens live as long as it does.
    pub fn new(token: &str) -> Self {
        Self {
            admin: Sha256::digest(token.as_bytes()).into(),
            key: Sha256::digest(format!("service account tokens\n{token}").as_bytes()).to_vec(),
        }
    }

    /// The user a token stands for.
    pub(super) fn user_of(&self, token: &str) -> Option<User> {
        let digest: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if digest == self.admin {
            let admin = User {
                name: "libretto-admin".to_owned(),
                uid: "libretto-admin".to_owned(),
                groups: vec![MASTERS.to_owned()],
                ..User::default()
            };
            return Some(admin.with_authentication());
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        // Compared as digests, again to take the same time for every guess.
        if Sha256::digest(hmac(&self.key, signed.as_bytes())) != Sha256::digest(&signature) {
            return None;
        }
        let (_, payload) = signed.split_once('.')?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
        if claims["exp"].as_i64()? < jiff::Timestamp::now().as_second() {
            return None;
        }
        let account = &claims["kubernetes.io"];
        let namespace = account["namespace"].as_str()?;
        let mut user =
            User::service_account(namespace, account["serviceaccount"]["name"].as_str()?);
        user.uid = account["serviceaccount"]["uid"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        Some(user.with_authentication())
    }

    /// A signed token of a service account.
    pub fn service_account_token(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        audiences: &[String],
        expires_at: i64,
    ) -> String {
        let now = jiff::Timestamp::now().as_second();
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let audiences = if audiences.is_empty() {
            json!([ISSUER])
        } else {
            json!(audiences)
        };
        let claims = json!({
            "iss": ISSUER, "aud": audiences, "iat": now, "nbf": now, "exp": expires_at,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": uid}},
        });
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Who sends a request; `user_of` says whom a token stands for.
pub(super) fn authenticate(
    headers: &HeaderMap,
    user_of: impl Fn(&str) -> Option<User>,
) -> Result<User, ApiError> {
    let token = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim());
    // Browsers cannot set headers on a WebSocket: Kubernetes takes the token as a subprotocol.
    let protocol = headers
        .get(header::SEC_WEBSOCKET_PROTOCOL)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| {
            value.split(',').find_map(|one| {
                one.trim()
                    .strip_prefix("base64url.bearer.authorization.k8s.io.")
            })
        })
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('=')).ok())
        .and_then(|bytes| String::from_utf8(bytes).ok());
    token
        .or(protocol.as_deref())
        .and_then(user_of)
        .ok_or_else(|| {
            ApiError::new(
                401,
                "Unauthorized",
                "Unauthorized: the kubeconfig of this cluster holds the token to use",
            )
        })
}

/// HMAC-SHA256 (RFC 2104); keys here are shorter than a block.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; BLOCK];
        for (slot, key) in block.iter_mut().zip(key) {
            *slot ^= key;
        }
        block
    };
    let inner = Sha256::new()
        .chain_update(pad(0x36))
        .chain_update(message)
        .finalize();
    Sha256::new()
        .chain_update(pad(0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hmac_matches_rfc_4231() {
        let digest = hmac(b"Jefe", b"what do ya want for nothing?");
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
    }

    #[test]
    fn tokens_stand_for_their_user_until_they_expire() {
        let authority = Authority::new("secret");
        let later = jiff::Timestamp::now().as_second() + 600;
        let token = authority.service_account_token("n", "a", "u", &[], later);
        let user = authority.user_of(&token).unwrap();
        assert_eq!(user.name, "system:serviceaccount:n:a");
        assert!(user.groups.contains(&"system:serviceaccounts:n".to_owned()));
        assert_eq!(authority.user_of("secret").unwrap().name, "libretto-admin");
        for wrong in ["", "Secret", "a.b.c", &format!("{token}x")] {
            assert!(authority.user_of(wrong).is_none(), "{wrong}");
        }
        assert!(Authority::new("other").user_of(&token).is_none());
        let old = authority.service_account_token("n", "a", "u", &[], later - 1200);
        assert!(authority.user_of(&old).is_none());
    }
}
