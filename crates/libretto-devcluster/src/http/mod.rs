//! The API over HTTPS: who asks, for what, and in which form the answer goes out. What requests mean is decided in `api`.

mod body;
mod discovery;
mod impersonation;
mod listing;
mod metrics;
mod negotiate;
mod path;
mod protobuf;
mod requested;
mod resources;
mod reviews;
mod server;
pub mod stream;
mod tokens;
mod watching;

use std::sync::{Arc, OnceLock};

use axum::{
    body::Body,
    extract::{Request, State},
    response::Response,
};
use futures::future::BoxFuture;
use http::{Method, StatusCode, header};
use serde_json::json;

use self::{
    metrics::{Labels, Metrics},
    path::{Query, ResourcePath, Route},
};
pub use self::{server::Server, tokens::Authority};
pub use crate::rbac::User;
use crate::{
    api::{Api, Gvr},
    error::ApiError,
    rbac::split_service_account,
};

/// Reported by `/version`; kubectl compares the minor version with its own.
pub const GIT_VERSION: &str = "v1.37.0+libretto";

const SERVICE_ACCOUNTS: Gvr = Gvr::new("", "v1", "serviceaccounts");

/// Serves `pods/<name>/{log,exec,attach,portforward}`; the node agent brings it.
pub type PodStreams =
    Box<dyn Fn(PodStream) -> BoxFuture<'static, Response> + Send + Sync + 'static>;

/// A request for something that flows out of or into a running pod.
#[derive(Debug)]
pub struct PodStream {
    pub namespace: String,
    pub pod: String,
    /// `log`, `exec`, `attach` or `portforward`.
    pub subresource: String,
    pub request: Request,
}

/// What handlers share.
pub struct Shared {
    pub(crate) api: Api,
    pub(crate) authority: Authority,
    metrics: Metrics,
    /// Absent until the node agent runs, and for ever in a cluster without one.
    pub(crate) streams: OnceLock<PodStreams>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Shared")
            .field("api", &self.api)
            .field("streams", &self.streams.get().is_some())
            .finish_non_exhaustive()
    }
}

impl Shared {
    pub fn new(api: Api, authority: Authority) -> Arc<Self> {
        Arc::new(Self {
            api,
            authority,
            metrics: Metrics::default(),
            streams: OnceLock::new(),
        })
    }

    /// The user a token stands for, provided that a service account is still the one it was given to.
    fn user_of(&self, token: &str) -> Option<User> {
        let user = self.authority.user_of(token)?;
        let Some((namespace, name)) = split_service_account(&user.name) else {
            return Some(user);
        };
        let account = self.api.get(&SERVICE_ACCOUNTS, namespace, name).ok()?;
        (account["metadata"]["uid"] == user.uid.as_str()).then_some(user)
    }

    /// Lets pods' logs and commands be reached; a second call changes nothing.
    pub fn serve_pod_streams(&self, streams: PodStreams) {
        let _ = self.streams.set(streams);
    }
}

/// The handler of everything.
pub(crate) fn router(shared: Arc<Shared>) -> axum::Router {
    axum::Router::new().fallback(handle).with_state(shared)
}

async fn handle(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let route = path::route(request.uri().path());
    let client = client_name(&request);
    let mut labels = Labels::new(request.method(), &client);
    let response = dispatch(&shared, route, request, &mut labels)
        .await
        .unwrap_or_else(|error| body::failure(&error));
    shared.metrics.count(labels, response.status().as_u16());
    response
}

async fn dispatch(
    shared: &Arc<Shared>,
    route: Route,
    request: Request,
    labels: &mut Labels,
) -> Result<Response, ApiError> {
    // As in a default Kubernetes, health and version are public.
    match (&route, request.method()) {
        (Route::Health, &Method::GET) => return Ok(body::text("ok")),
        (Route::Version, &Method::GET) => return Ok(body::json(StatusCode::OK, &version())),
        _ => {}
    }
    let requester = tokens::authenticate(request.headers(), |token| shared.user_of(token))?;
    let user = impersonation::effective(&shared.api, request.headers(), requester)?;
    let parsed = Query::parse(request.uri());
    let nothing = Query::default();
    let query = parsed.as_ref().unwrap_or(&nothing);
    if let Route::Resource(path) = &route {
        labels.resource(path, query);
    }
    // Nothing is looked up for the administrator, who sends nearly all requests.
    if !user.privileged() {
        authorize(&shared.api, &user, &route, &request, query)?;
    }
    let query = parsed?;
    match route {
        Route::Resource(path) => {
            if let Some(response) = reviews::handle(&user, &path, request.method()) {
                return reviews::answer(shared, response, request).await;
            }
            if path.streams() {
                return pod_stream(shared, path, request).await;
            }
            resources::handle(shared, user, &path, &query, request).await
        }
        Route::Unknown => Err(ApiError::unknown_path()),
        _ if request.method() != Method::GET => Err(ApiError::method_not_allowed()),
        Route::Metrics => Ok(body::text(shared.metrics.render())),
        Route::Health | Route::Version => Err(ApiError::unknown_resource()),
        route => discovery::handle(&shared.api, &route, &request),
    }
}

fn authorize(
    api: &Api,
    user: &User,
    route: &Route,
    request: &Request,
    query: &Query,
) -> Result<(), ApiError> {
    let wanted = requested::attributes(route, request.method(), request.uri(), query);
    api.authorize(user, &wanted)?;
    match route {
        Route::Resource(path) => match requested::connecting(path, &wanted) {
            Some(more) => api.authorize(user, &more),
            None => Ok(()),
        },
        _ => Ok(()),
    }
}

async fn pod_stream(
    shared: &Shared,
    path: ResourcePath,
    request: Request,
) -> Result<Response, ApiError> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        return Err(ApiError::method_not_allowed());
    }
    let (namespace, pod) = (
        path.namespace.unwrap_or_default(),
        path.name.unwrap_or_default(),
    );
    // A missing pod is a 404 whatever the node agent does.
    shared.api.get(&crate::api::PODS, &namespace, &pod)?;
    let Some(streams) = shared.streams.get() else {
        return Err(ApiError::new(
            503,
            "ServiceUnavailable",
            "no node agent runs in this cluster: pods have no logs and take no commands",
        ));
    };
    Ok(streams(PodStream {
        namespace,
        pod,
        subresource: path.subresource.unwrap_or_default(),
        request,
    })
    .await)
}

fn version() -> serde_json::Value {
    json!({
        "major": "1", "minor": "37", "gitVersion": GIT_VERSION, "gitCommit": "", "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }),
    })
}

/// First word of the user agent, without version.
fn client_name(request: &Request<Body>) -> String {
    let agent = request
        .headers()
        .get(header::USER_AGENT)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let name = agent.split(['/', ' ']).next().unwrap_or_default();
    if name.is_empty() {
        "unknown".to_owned()
    } else {
        name.chars().take(64).collect()
    }
}
