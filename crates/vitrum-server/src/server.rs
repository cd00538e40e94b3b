//! The socket: connections are accepted, answered, and finished at the end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::config::{ConfigError, ModelSpec, ServerConfig};
use crate::models::ModelsError;
use crate::routes::router;

/// A server that cannot begin.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// A setting.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A model.
    #[error(transparent)]
    Models(#[from] ModelsError),
    /// The address.
    #[error("{address}: {source}")]
    Address {
        /// What was asked for.
        address: SocketAddr,
        /// Why it cannot be had.
        source: std::io::Error,
    },
    /// Loading was interrupted.
    #[error("loading was interrupted: {0}")]
    Interrupted(#[from] tokio::task::JoinError),
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Every accepted request has its answer.
    All,
    /// The time was over before. So many connections were cut.
    Cut(usize),
}

/// A server with its models, on an address.
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    app: App,
}

/// Pause after a connection that could not be accepted, such as for lack of file handles.
const PAUSE: Duration = Duration::from_millis(50);

/// Time between two moves of samples into their classes.
const UPKEEP: Duration = Duration::from_secs(5);

impl Server {
    /// Takes the address, then loads the models. Connections that come meanwhile wait.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(config: ServerConfig, specs: Vec<ModelSpec>) -> Result<Self, ServeError> {
        config.check()?;
        let address = config.address;
        let failed = |source| ServeError::Address { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let app = tokio::task::spawn_blocking(move || App::new(config, specs)).await??;
        Ok(Self { listener, address, app })
    }

    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the routes share: the models, to load them anew.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Answers requests until `stop` is ready. Then it accepts no more connections, answers what was accepted within the
    /// drain timeout, and ends the threads of the models.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Drained {
        let Self { listener, app, .. } = self;
        let service = router(&app);
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(app.config.header_timeout);
        let (graceful, mut tasks) = (GracefulShutdown::new(), JoinSet::new());
        let upkeep = tokio::spawn(upkeep(app.clone()));
        tokio::select! {
            () = stop => {}
            () = accept(&listener, &app, &http, &service, &graceful, &mut tasks) => {}
        }
        app.begin_draining();
        drop(listener);
        upkeep.abort();
        let until = Instant::now() + app.config.drain_timeout.min(Duration::from_secs(365 * 24 * 3600));
        let is_done = timeout(app.config.drain_timeout, graceful.shutdown()).await.is_ok();
        while tasks.try_join_next().is_some() {}
        let cut = if is_done { 0 } else { tasks.len() };
        tasks.shutdown().await;
        let models = app.clone();
        let drained = tokio::task::spawn_blocking(move || models.models.drain());
        let is_drained = timeout(until.saturating_duration_since(Instant::now()), drained).await.is_ok();
        if is_done && is_drained { Drained::All } else { Drained::Cut(cut) }
    }
}

/// Accepts connections for ever.
async fn accept(
    listener: &TcpListener,
    app: &App,
    http: &http1::Builder,
    service: &Router,
    graceful: &GracefulShutdown,
    tasks: &mut JoinSet<()>,
) {
    let places = Arc::new(Semaphore::new(app.config.max_connections.min(Semaphore::MAX_PERMITS)));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => connect(stream, place, http, service, graceful, tasks),
            Err(error) => {
                tracing::warn!("a connection was not accepted: {error}");
                sleep(PAUSE).await;
            }
        }
        while tasks.try_join_next().is_some() {}
    }
}

/// Answers a connection in a task of its own.
fn connect(
    stream: TcpStream,
    place: OwnedSemaphorePermit,
    http: &http1::Builder,
    service: &Router,
    graceful: &GracefulShutdown,
    tasks: &mut JoinSet<()>,
) {
    // Without it, small answers may wait; no harm if the system refuses.
    let _ = stream.set_nodelay(true);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service.clone()));
    let connection = graceful.watch(connection);
    tasks.spawn(async move {
        let _place = place;
        if let Err(error) = connection.await {
            tracing::debug!("a connection broke: {error}");
        }
    });
}

/// Tends the numbers for Prometheus.
async fn upkeep(app: App) {
    loop {
        sleep(UPKEEP).await;
        app.telemetry.upkeep();
    }
}
