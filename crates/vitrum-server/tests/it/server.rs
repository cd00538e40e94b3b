//! The server with its socket: answers, slow clients, the end.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use vitrum_server::{App, Drained, Server, ServerConfig};

use crate::socket::{connect, read, send_picture};
use crate::support::*;

struct Running {
    address: SocketAddr,
    app: App,
    stop: oneshot::Sender<()>,
    end: JoinHandle<Drained>,
}

async fn start(config: ServerConfig) -> Running {
    let config = ServerConfig { address: "127.0.0.1:0".parse().unwrap(), ..config };
    let server = Server::bind(config, specs()[..1].to_vec()).await.unwrap();
    let (address, app) = (server.address(), server.app().clone());
    let (stop, stopped) = oneshot::channel::<()>();
    let end = tokio::spawn(server.serve(async {
        let _ = stopped.await;
    }));
    Running { address, app, stop, end }
}

/// Runs a client off the runtime's threads.
async fn client<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_accepted_is_answered_at_the_end() {
    let delay = Duration::from_millis(1500);
    let running = start(ServerConfig { max_batch_delay: delay, ..ServerConfig::default() }).await;
    let address = running.address;
    let clients: Vec<_> = (0..5)
        .map(|index| {
            tokio::task::spawn_blocking(move || {
                let mut stream = connect(address);
                send_picture(&mut stream, &png(&picture(index)));
                read(&mut stream)
            })
        })
        .collect();
    let idle = client(move || connect(address)).await;
    while running.app.models.get(None).unwrap().waiting() < 5 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    running.stop.send(()).unwrap();
    for answer in clients {
        let answer = answer.await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(running.end.await.unwrap(), Drained::All);
    assert!(!running.app.is_ready());
    client(move || {
        let mut idle = idle;
        assert_eq!(read(&mut idle), "");
        assert!(TcpStream::connect(address).is_err(), "the server still accepts");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_wait_at_the_end_are_answered() {
    let running = start(ServerConfig { max_connections: 1, ..ServerConfig::default() }).await;
    let address = running.address;
    let answers = client(move || {
        let mut first = connect(address);
        send_picture(&mut first, &png(&picture(0)));
        assert!(read(&mut first).starts_with("HTTP/1.1 200 OK\r\n"));
        // It takes the only place; those behind it are not accepted.
        let holder = connect(address);
        std::thread::sleep(Duration::from_millis(100));
        let mut waiting: Vec<_> = (0..4).map(|_| connect(address)).collect();
        waiting.iter_mut().for_each(|stream| send_picture(stream, &png(&picture(1))));
        running.stop.send(()).unwrap();
        let answers: Vec<String> = waiting.iter_mut().map(read).collect();
        drop(holder);
        answers
    })
    .await;
    for answer in answers {
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert_eq!(running.end.await.unwrap(), Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_sent_just_before_the_end_is_answered() {
    let running = start(ServerConfig::default()).await;
    let address = running.address;
    let answers = client(move || {
        let mut streams: Vec<_> = (0..64).map(|_| connect(address)).collect();
        // All are accepted, and nothing is read yet.
        std::thread::sleep(Duration::from_millis(100));
        let request = b"GET /health HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
        streams.iter_mut().for_each(|stream| stream.write_all(request).unwrap());
        running.stop.send(()).unwrap();
        streams.iter_mut().map(read).collect::<Vec<String>>()
    })
    .await;
    let answered = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200 OK\r\n")).count();
    assert_eq!(answered, answers.len());
    assert_eq!(running.end.await.unwrap(), Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_drain_timeout_cuts_who_does_not_end() {
    let config = ServerConfig { drain_timeout: Duration::from_millis(300), ..ServerConfig::default() };
    let running = start(config).await;
    let address = running.address;
    let slow = client(move || {
        let mut stream = connect(address);
        stream.write_all(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 5000\r\n\r\nabc").unwrap();
        stream
    })
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begin = Instant::now();
    running.stop.send(()).unwrap();
    assert_eq!(running.end.await.unwrap(), Drained::Cut(1));
    assert!(begin.elapsed() < Duration::from_secs(10));
    drop(slow);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_bodies_are_ended() {
    let config = ServerConfig {
        header_timeout: Duration::from_millis(300),
        body_timeout: Duration::from_millis(300),
        ..ServerConfig::default()
    };
    let running = start(config).await;
    let address = running.address;
    let (head, body) = client(move || {
        let mut head = connect(address);
        head.write_all(b"GET /health HT").unwrap();
        let mut body = connect(address);
        body.write_all(b"POST /predict HTTP/1.1\r\nhost: test\r\ncontent-length: 5000\r\n\r\nabc").unwrap();
        (read(&mut head), read(&mut body))
    })
    .await;
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(body.starts_with("HTTP/1.1 408 Request Timeout"), "{body}");
    assert!(body.ends_with("did not come in time\"}"), "{body}");
    running.stop.send(()).unwrap();
    assert_eq!(running.end.await.unwrap(), Drained::All);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait() {
    let running = start(ServerConfig { max_connections: 1, ..ServerConfig::default() }).await;
    let address = running.address;
    client(move || {
        let first = connect(address);
        let mut second = connect(address);
        second.set_read_timeout(Some(Duration::from_millis(400))).unwrap();
        second.write_all(b"GET /health HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").unwrap();
        assert_eq!(read(&mut second), "");
        drop(first);
        second.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        assert!(read(&mut second).starts_with("HTTP/1.1 200 OK"));
    })
    .await;
    running.stop.send(()).unwrap();
    assert_eq!(running.end.await.unwrap(), Drained::All);
}

#[tokio::test]
async fn an_address_that_is_taken_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let config = ServerConfig { address: taken.local_addr().unwrap(), ..ServerConfig::default() };
    let error = Server::bind(config, specs()).await.err().unwrap();
    assert!(error.to_string().starts_with("127.0.0.1:"), "{error}");
}
