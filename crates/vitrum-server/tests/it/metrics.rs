//! Numbers for Prometheus on a port of their own.

use std::io::Write;
use std::net::SocketAddr;

use axum::http::StatusCode;
use tokio::sync::oneshot;
use vitrum_server::{Drained, Server, ServerConfig, metrics_router, router};

use crate::socket::{connect, read};
use crate::support::*;

fn with_own_port() -> ServerConfig {
    let free = "127.0.0.1:0".parse().unwrap();
    ServerConfig { address: free, metrics_address: Some(free), ..ServerConfig::default() }
}

#[tokio::test]
async fn metrics_are_at_one_place() {
    let app = app(with_own_port());
    post_picture(&router(&app), "/predict", 1).await.good();
    assert_eq!(get(&router(&app), "/metrics").await.status, StatusCode::NOT_FOUND);
    assert_eq!(get(&router(&app), "/health").await.status, StatusCode::OK);
    let own = metrics_router(&app);
    let text = String::from_utf8(get(&own, "/metrics").await.body.to_vec()).unwrap();
    assert!(text.contains("vitrum_images_total{model=\"demo\"} 1"), "{text}");
    assert_eq!(get(&own, "/health").await.status, StatusCode::OK);
    for path in ["/", "/info", "/predict"] {
        assert_eq!(get(&own, path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
}

fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = connect(address);
    stream
        .write_all(format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes())
        .unwrap();
    read(&mut stream)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_own_port_ends_with_the_server() {
    let server = Server::bind(with_own_port(), specs()[..1].to_vec()).await.unwrap();
    let (address, metrics) = (server.address(), server.metrics_address().unwrap());
    let (stop, stopped) = oneshot::channel::<()>();
    let end = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    let answers = tokio::task::spawn_blocking(move || [ask(address, "/metrics"), ask(metrics, "/metrics")]);
    let [main, own] = answers.await.unwrap();
    assert!(main.starts_with("HTTP/1.1 404"), "{main}");
    assert!(own.starts_with("HTTP/1.1 200 OK") && own.contains("vitrum_ready 1"), "{own}");
    stop.send(()).unwrap();
    assert_eq!(end.await.unwrap(), Drained::All);
    assert!(std::net::TcpStream::connect(metrics).is_err());
}
