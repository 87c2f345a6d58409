//! Health over HTTP, for kubelet's probes.
//!
//! Served by `app` where asked. `/livez` says that the process answers; `/readyz` asks what it works
//! over, the control plane or this host's agent, within a moment. A driver that is not ready is not
//! to be restarted for it: what it works over is.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;

use crate::controller::control_plane::ControlPlane;
use crate::node::agent::LocalAgent;
use crate::status::CsiError;

/// How long what the driver works over may take to answer.
const MOMENT: Duration = Duration::from_secs(3);

/// What a driver process works over.
#[derive(Clone, Debug)]
pub enum Below {
    /// The control plane.
    ControlPlane(ControlPlane),
    /// This host's agent.
    Agent(LocalAgent),
}

impl Below {
    async fn probe(&self) -> Result<(), CsiError> {
        match self {
            Self::ControlPlane(control_plane) => control_plane.probe().await,
            Self::Agent(agent) => agent.node().await.map(drop),
        }
    }

    /// Asks it, within a moment.
    ///
    /// # Errors
    ///
    /// Why it is not ready, in words.
    pub async fn ready(&self) -> Result<(), String> {
        match tokio::time::timeout(MOMENT, self.probe()).await {
            Ok(answer) => answer.map_err(|error| error.to_string()),
            Err(_) => Err("no answer in time".into()),
        }
    }
}

/// The two pages.
pub fn pages(below: Below) -> Router {
    let below = Arc::new(below);
    let ready = move || -> Pin<Box<dyn Future<Output = (StatusCode, String)> + Send>> {
        let below = Arc::clone(&below);
        Box::pin(async move {
            match below.ready().await {
                Ok(()) => (StatusCode::OK, "ready\n".into()),
                Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
            }
        })
    };
    Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
}
