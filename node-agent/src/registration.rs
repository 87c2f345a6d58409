//! Tells the control plane where this agent serves, again and again: it may be new or restored.
//!
//! One task, started by `app` when a server is named. A control plane that is away changes nothing
//! here: volumes and local calls go on.

use std::collections::HashMap;
use std::time::Duration;

use goldleaf_proto::v1 as api;
use goldleaf_proto::v1::node_service_client::NodeServiceClient;
use tokio_util::sync::CancellationToken;
use tonic::transport::Endpoint;

use crate::host::Host;

/// How often an accepted registration is said again.
const AGAIN: Duration = Duration::from_secs(30);
/// First and longest wait after a failure.
const WAITS: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(15));

/// What is told again and again.
#[derive(Clone, Debug)]
pub struct Registration {
    /// URI of the control plane.
    pub server: String,
    /// Where this agent serves, as a URI.
    pub address: String,
    /// The node's labels.
    pub labels: HashMap<String, String>,
    /// Who this host is.
    pub host: Host,
}

/// Keeps the node registered until stopped.
pub async fn keep(told: Registration, stop: CancellationToken) {
    let Registration {
        server,
        address,
        labels,
        host,
    } = told;
    let endpoint = match Endpoint::from_shared(server.clone()) {
        Ok(endpoint) => endpoint
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10)),
        Err(error) => {
            tracing::error!(%server, %error, "--server is no URI; registered with none");
            return;
        }
    };
    let mut client = NodeServiceClient::new(endpoint.connect_lazy());
    let mut wait = WAITS.0;
    let mut known = false;
    loop {
        let request = api::RegisterNodeRequest {
            id: host.node.to_string(),
            name: host.name.to_string(),
            address: address.clone(),
            labels: labels.clone(),
            agent_version: env!("CARGO_PKG_VERSION").into(),
            kernel_release: host.kernel_release.clone(),
        };
        let pause = match client.register(request).await {
            Ok(answer) => {
                if !known {
                    tracing::info!(%server, incarnation = answer.into_inner().incarnation, "registered");
                }
                known = true;
                wait = WAITS.0;
                AGAIN
            }
            Err(error) => {
                tracing::warn!(%server, code = ?error.code(), message = error.message(), "not registered");
                known = false;
                let pause = wait;
                wait = (wait * 2).min(WAITS.1);
                pause
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
