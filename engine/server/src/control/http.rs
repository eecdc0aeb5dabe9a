//! What the admin port answers: the demo page, health, metrics.

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{Html, IntoResponse, Json};
use axum::routing::get;
use corecast_shard::Order;

use super::metrics;
use crate::node::Running;

const PAGE: &str = include_str!("demo.html");

/// The routes.
pub(super) fn app(running: Running) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/config.json", get(config))
        .route("/health", get(async || "ok\n"))
        .route("/ready", get(ready))
        .route("/stats", get(stats))
        .route("/metrics", get(prometheus))
        .with_state(running)
}

async fn page() -> impl IntoResponse {
    // Nothing from elsewhere; the page's own script and style are inline.
    const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                          connect-src 'self' ws: wss:; img-src data:; base-uri 'none'; form-action 'none'; \
                          frame-ancestors 'none'";
    let mut headers = HeaderMap::new();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    (headers, Html(PAGE))
}

async fn config(State(running): State<Running>) -> impl IntoResponse {
    Json(serde_json::json!({
        "port": running.listen.port(),
        "path": running.path,
        "version": env!("CARGO_PKG_VERSION"),
    }))
}

async fn ready(State(running): State<Running>) -> impl IntoResponse {
    match running.node.ordered() {
        Order::Serve => (StatusCode::OK, "ready\n"),
        _ => (StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
    }
}

async fn stats(State(running): State<Running>) -> impl IntoResponse {
    Json(metrics::json(&running))
}

async fn prometheus(State(running): State<Running>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::prometheus(&running))
}
