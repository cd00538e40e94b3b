//! The socket: connections are accepted, answered, and finished at the end.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::app::App;
use crate::config::{ConfigError, ModelSpec, ServerConfig};
use crate::models::ModelsError;
use crate::routes::{metrics_router, router};

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
    /// For `/metrics` and `/health` alone.
    metrics: Option<TcpListener>,
    address: SocketAddr,
    app: App,
}

/// Pause after a connection that could not be accepted, such as for lack of file handles.
const PAUSE: Duration = Duration::from_millis(50);

/// At the end, for the first byte of a connection that was accepted before.
const LAST_CALL: Duration = Duration::from_millis(250);

/// Bytes that a connection reads at once, and most bytes of a head. Each connection keeps its buffer.
const BUFFER: usize = 64 << 10;

/// Connections that wait to be accepted. Beyond them clients try again after a second. The system may allow fewer.
const BACKLOG: u32 = 4096;

/// Time between two moves of samples into their classes.
const UPKEEP: Duration = Duration::from_secs(5);

impl Server {
    /// Takes the address, then loads the models. Connections that come meanwhile wait.
    ///
    /// # Errors
    /// [`ServeError`].
    pub async fn bind(config: ServerConfig, specs: Vec<ModelSpec>) -> Result<Self, ServeError> {
        config.check()?;
        let (listener, address) = listen(config.address).await?;
        let metrics = match config.metrics_address {
            Some(address) => Some(listen(address).await?.0),
            None => None,
        };
        let app = tokio::task::spawn_blocking(move || App::new(config, specs)).await??;
        Ok(Self { listener, metrics, address, app })
    }

    /// The address, with the port that was free.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address of `/metrics`, if it has its own.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(|listener| listener.local_addr().ok())
    }

    /// What the routes share: the models, to load them anew.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Answers requests until `stop` is ready. Then it accepts no more connections, answers what was accepted within the
    /// drain timeout, and ends the threads of the models.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> Drained {
        let Self { listener, metrics, app, .. } = self;
        let (ending, is_ending) = watch::channel(false);
        let door = Door::new(&app, is_ending);
        let mut tasks = JoinSet::new();
        let upkeep = tokio::spawn(upkeep(app.clone()));
        let metrics = metrics.map(|listener| tokio::spawn(answer_metrics(listener, app.clone())));
        tokio::select! {
            () = stop => {}
            () = door.accept(&listener, &mut tasks) => {}
        }
        app.begin_draining();
        door.close(listener, &mut tasks);
        ending.send_replace(true);
        upkeep.abort();
        let until = Instant::now() + app.config.drain_timeout.min(Duration::from_secs(365 * 24 * 3600));
        let all = async { while tasks.join_next().await.is_some() {} };
        let is_done = timeout(app.config.drain_timeout, all).await.is_ok();
        let cut = tasks.len();
        tasks.shutdown().await;
        let models = app.clone();
        let drained = tokio::task::spawn_blocking(move || models.models.drain());
        let is_drained = timeout(until.saturating_duration_since(Instant::now()), drained).await.is_ok();
        if let Some(metrics) = metrics {
            metrics.abort();
            // Ready when the port is free again.
            let _ = metrics.await;
        }
        #[cfg(feature = "otlp")]
        app.end_traces().await;
        if is_done && is_drained { Drained::All } else { Drained::Cut(cut) }
    }
}

/// What connections are answered with.
struct Door {
    http: http1::Builder,
    service: Router,
    places: Arc<Semaphore>,
    header_timeout: Duration,
    is_ending: watch::Receiver<bool>,
}

impl Door {
    fn new(app: &App, is_ending: watch::Receiver<bool>) -> Self {
        let header_timeout = app.config.header_timeout;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(BUFFER);
        let places = Arc::new(Semaphore::new(app.config.max_connections.min(Semaphore::MAX_PERMITS)));
        Self { http, service: router(app), places, header_timeout, is_ending }
    }

    /// Accepts connections for ever.
    async fn accept(&self, listener: &TcpListener, tasks: &mut JoinSet<()>) {
        loop {
            // The semaphore is never closed.
            let Ok(place) = self.places.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    tasks.spawn(self.answer(stream, Some(place)));
                }
                Err(error) => {
                    tracing::warn!("a connection was not accepted: {error}");
                    sleep(PAUSE).await;
                }
            }
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Accepts what waits in the system's queue and closes it. The system would reset those connections, although their
    /// requests may have been sent.
    fn close(&self, listener: TcpListener, tasks: &mut JoinSet<()>) {
        let Ok(listener) = listener.into_std() else { return };
        // No more than the queue holds: clients that keep coming cannot keep the server from ending.
        for _ in 0..BACKLOG {
            match listener.accept() {
                Ok((stream, _)) => {
                    let stream = stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                    if let Ok(stream) = stream {
                        tasks.spawn(self.answer(stream, None));
                    }
                }
                // A client that has left.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                // It does not block: no connection waits.
                Err(_) => return,
            }
        }
    }

    /// Answers a connection; without a place it waits for one. At the end it is closed when the request that has begun is
    /// answered.
    fn answer(
        &self,
        stream: TcpStream,
        place: Option<OwnedSemaphorePermit>,
    ) -> impl Future<Output = ()> + use<> {
        let (http, service) = (self.http.clone(), TowerToHyperService::new(self.service.clone()));
        let (header_timeout, places) = (self.header_timeout, self.places.clone());
        let mut is_ending = self.is_ending.clone();
        async move {
            let _place = match place {
                Some(place) => Some(place),
                None => places.acquire_owned().await.ok(),
            };
            if !begins(&stream, header_timeout, &mut is_ending).await {
                return;
            }
            // Without it, small answers may wait; no harm if the system refuses.
            let _ = stream.set_nodelay(true);
            let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
            let answered = tokio::select! {
                // In this order it has read what is there before it hears of the end.
                biased;
                answered = connection.as_mut() => answered,
                () = end(&mut is_ending) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = answered {
                tracing::debug!("a connection broke: {error}");
            }
        }
    }
}

/// Ready when the server ends.
async fn end(is_ending: &mut watch::Receiver<bool>) {
    // Without a sender there is no server.
    let _ = is_ending.wait_for(|is_ending| *is_ending).await;
}

/// Whether the first byte of a request comes in time. At the end it may be on its way: a connection that is closed then is
/// reset, although its request has been sent.
async fn begins(stream: &TcpStream, most: Duration, is_ending: &mut watch::Receiver<bool>) -> bool {
    let last_call = async {
        end(is_ending).await;
        sleep(LAST_CALL).await;
    };
    let mut first = [0];
    tokio::select! {
        biased;
        peeked = stream.peek(&mut first) => peeked.is_ok_and(|bytes| bytes > 0),
        () = last_call => false,
        () = sleep(most) => false,
    }
}

/// Takes an address.
async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServeError> {
    let failed = |source| ServeError::Address { address, source };
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(failed)?;
    // On Unix it takes a port that an ended server had; on Windows, one that another has.
    socket.set_reuseaddr(cfg!(unix)).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}

/// Answers `/metrics` and `/health`, also while the server drains.
async fn answer_metrics(listener: TcpListener, app: App) {
    if let Err(error) = axum::serve(listener, metrics_router(&app)).await {
        tracing::error!("no more numbers for Prometheus: {error}");
    }
}

/// Tends the numbers for Prometheus.
async fn upkeep(app: App) {
    loop {
        sleep(UPKEEP).await;
        app.telemetry.upkeep();
    }
}
