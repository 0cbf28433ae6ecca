//! The control thread: the admin endpoint (`/livez`, `/readyz`, `/metrics`, `/status.json` on
//! loopback) and the turns of [`crate::discovery`]. The hot threads never wait for it; it reads
//! [`Telemetry`] and writes there where peers are.
//!
//! The thread runs on tokio-uring, and on plain tokio where io_uring is not allowed. This module
//! is the only one that knows either.

pub mod health;
mod metrics;
pub mod status;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};
use std::thread;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use tokio::time::MissedTickBehavior;
use wire::committee::Committee;
use wire::ids::Instant;

use crate::discovery::agent::{self, Agent};
use crate::telemetry::Telemetry;
pub use status::Status;

/// What the endpoint reads.
#[derive(Clone, Debug)]
pub struct Source {
    pub telemetry: Arc<Telemetry>,
    /// Address of each replica, by id.
    pub members: Vec<SocketAddr>,
    /// Replicas that a decision needs (q).
    pub quorum: usize,
    /// Replicas that may be down, silent or faulty while transactions commit (u).
    pub faults: usize,
    pub committee: Arc<Committee>,
    /// Reads the clock that the hot threads use.
    pub now: fn() -> Instant,
}

/// Binds `address` and serves it from a thread of its own until the process ends. Returns the
/// address with its port. The agent of discovery that comes through `agents`, once the node serves,
/// has its turns on the same thread.
pub fn start(
    address: SocketAddr,
    source: Source,
    agents: Receiver<Agent>,
) -> std::io::Result<SocketAddr> {
    let (bound, outcome) = sync_channel(1);
    let metrics = metrics::registry(source.clone());
    let now = source.now;
    let served = Arc::new(Served { source, metrics });
    thread::Builder::new()
        .name("hippo-control".to_owned())
        .spawn(move || {
            let serve = async move {
                match tokio::net::TcpListener::bind(address).await {
                    Ok(listener) => {
                        let _ = bound.send(listener.local_addr());
                        let pages = async {
                            if let Err(error) = axum::serve(listener, router(served)).await {
                                tracing::error!("the admin endpoint ended: {error}");
                            }
                        };
                        tokio::join!(pages, discover(agents, now));
                    }
                    Err(error) => {
                        let _ = bound.send(Err(error));
                    }
                }
            };
            match tokio_uring::Runtime::new(&tokio_uring::builder()) {
                Ok(runtime) => runtime.block_on(serve),
                Err(error) => {
                    tracing::info!("control thread without io_uring: {error}");
                    tokio::runtime::Builder::new_current_thread()
                        .enable_all()
                        .build()
                        .expect("a runtime needs an epoll descriptor")
                        .block_on(serve);
                }
            }
        })?;
    outcome
        .recv()
        .unwrap_or_else(|_| Err(std::io::Error::other("the control thread ended")))
}

/// Gives discovery its turns.
async fn discover(agents: Receiver<Agent>, now: fn() -> Instant) {
    let mut agent = None;
    let mut turns = tokio::time::interval(agent::PAUSE);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        turns.tick().await;
        match &mut agent {
            Some(agent) => Agent::turn(agent, now),
            None => match agents.try_recv() {
                Ok(ready) => agent = Some(ready),
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
            },
        }
    }
}

struct Served {
    source: Source,
    metrics: prometheus_client::registry::Registry,
}

fn router(served: Arc<Served>) -> Router {
    Router::new()
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics_text))
        .route("/status.json", get(status_json))
        .route("/committee.toml", get(committee))
        .route("/snapshot", post(snapshot))
        .with_state(served)
}

async fn livez(State(served): State<Arc<Served>>) -> Response {
    answer(health::alive(
        &served.source.telemetry,
        (served.source.now)(),
    ))
}

async fn readyz(State(served): State<Arc<Served>>) -> Response {
    answer(health::ready(&served.source))
}

fn answer(verdict: Result<(), String>) -> Response {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n".to_owned()).into_response(),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")).into_response(),
    }
}

async fn metrics_text(State(served): State<Arc<Served>>) -> Response {
    const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &served.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

/// The committee of this epoch, as a file.
async fn committee(State(served): State<Arc<Served>>) -> Response {
    served.source.committee.to_toml().into_response()
}

/// Has a snapshot made, soon. The status tells when.
async fn snapshot(State(served): State<Arc<Served>>) -> Response {
    served.source.telemetry.snapshots.wanted.set(true);
    (StatusCode::ACCEPTED, "asked for\n").into_response()
}

async fn status_json(State(served): State<Arc<Served>>) -> Response {
    axum::Json(Status::of(&served.source)).into_response()
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use wire::ids::NodeId;

    use super::*;
    use crate::telemetry::Phase;

    fn get(address: SocketAddr, path: &str) -> String {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn none() -> Receiver<Agent> {
        std::sync::mpsc::channel().1
    }

    #[test]
    fn the_four_pages_are_served() {
        let telemetry = Arc::new(Telemetry::new(NodeId(0), 1, Instant(0)));
        let source = Source {
            telemetry: telemetry.clone(),
            members: vec!["127.0.0.1:1".parse().unwrap()],
            quorum: 1,
            faults: 0,
            committee: crate::inspect::tests::shared_committee(),
            now: || Instant(1),
        };
        let address = start("127.0.0.1:0".parse().unwrap(), source.clone(), none()).unwrap();
        assert!(get(address, "/livez").starts_with("HTTP/1.0 200"));
        let starting = get(address, "/readyz");
        assert!(starting.starts_with("HTTP/1.0 503") && starting.contains("starting"));
        telemetry.phase.set(Phase::Serving);
        telemetry.order.is_leader.set(true);
        telemetry.order.may_propose.set(true);
        assert!(get(address, "/readyz").starts_with("HTTP/1.0 200"));
        assert!(get(address, "/metrics").contains("# EOF"));
        let status = get(address, "/status.json");
        let (_, body) = status.split_once("\r\n\r\n").unwrap();
        let status: Status = serde_json::from_str(body).unwrap();
        assert_eq!(
            (status.state.as_str(), status.schema_version),
            ("serving", 1)
        );
        assert!(get(address, "/else").starts_with("HTTP/1.0 404"));
        let taken = start(address, source, none()).unwrap_err();
        assert_eq!(taken.kind(), std::io::ErrorKind::AddrInUse);
    }
}
