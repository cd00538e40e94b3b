//! `vitrum serve`: from the command line to an answer, and the end by a signal.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::sandbox::Sandbox;

/// A server in the sandbox, and its address.
fn serve(sandbox: &Sandbox, args: &str) -> (Child, String) {
    let args = ["serve", "--port", "0"].into_iter().chain(args.split_whitespace());
    let mut command = sandbox.command(args);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a server");
    let mut lines = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let address = lines.by_ref().find_map(|line| {
        let line = line.expect("a line");
        line.split_once("http://").map(|(_, address)| address.trim().to_string())
    });
    // Keeps the pipe open.
    std::thread::spawn(move || lines.for_each(drop));
    (child, address.expect("an address"))
}

/// The answer to a request with a body, as text.
fn ask(address: &str, head: &str, body: &[u8]) -> String {
    let mut socket = TcpStream::connect(address).expect("a connection");
    socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let length = body.len();
    write!(socket, "{head} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n")
        .expect("a request");
    socket.write_all(body).expect("a body");
    let mut answer = String::new();
    socket.read_to_string(&mut answer).expect("an answer");
    answer
}

#[test]
fn answers_until_a_signal_ends_it() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    let (mut child, address) = serve(&sandbox, "demo own=model");
    let models = ask(&address, "GET /v1/models", b"");
    assert!(models.starts_with("HTTP/1.1 200") && models.contains("\"own\""), "{models}");
    let picture = std::fs::read(sandbox.path("a.png")).unwrap();
    let answer = ask(&address, "POST /predict?model=own&top_k=1", &picture);
    let best = sandbox.ok("predict a.png -m model --topk 1 --format json").json();
    let index = best[0]["predictions"][0]["index"].as_u64().expect("a class");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains(&format!("\"index\":{index},")), "{answer}");
    assert!(ask(&address, "POST /predict", b"no picture").starts_with("HTTP/1.1 400"));
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.expect("kill").success());
    assert!(child.wait().expect("an end").success());
    let mut out = String::new();
    child.stdout.take().expect("a pipe").read_to_string(&mut out).unwrap();
    assert_eq!(out, "", "stdout is for data");
}

/// As `packaging/vitrum.service` starts it: models from the variable, and word when they are loaded.
#[cfg(target_os = "linux")]
#[test]
fn a_manager_of_services_is_told() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&path).expect("a socket");
    manager.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let told = || {
        let mut word = [0; 64];
        let length = manager.recv(&mut word).expect("a word");
        String::from_utf8_lossy(&word[..length]).trim().to_string()
    };
    let mut command = sandbox.command(["serve", "--port", "0", "--json-output"]);
    command.env("VITRUM_MODEL", "demo, own=model").env("NOTIFY_SOCKET", &path);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("a server");
    assert_eq!(told(), "READY=1");
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.expect("kill").success());
    assert_eq!(told(), "STOPPING=1");
    assert!(child.wait().expect("an end").success());
    let mut log = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut log).unwrap();
    assert!(log.contains("\"models\":\"demo, own\""), "{log}");
}

#[test]
fn what_cannot_be_served() {
    let sandbox = Sandbox::new();
    sandbox.fails("serve gibberish", 1, &["gibberish"]);
    sandbox.fails("serve model own=model model", 1, &["two models", "NAME=MODEL"]);
    sandbox.fails("serve demo --max-batch-size 0", 1, &["batch"]);
    sandbox.fails("serve demo --host nowhere.invalid", 1, &["nowhere.invalid"]);
    let collector = "serve demo --otlp-endpoint http://localhost:4318";
    if cfg!(not(feature = "otlp")) {
        sandbox.fails(collector, 1, &["--otlp-endpoint", "without the feature `otlp`", "--features otlp"]);
    }
    sandbox.fails("serve demo --port 8080 --metrics-port x", 2, &["--metrics-port"]);
}
