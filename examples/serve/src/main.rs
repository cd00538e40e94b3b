//! An HTTP handler: `POST /predict` with the bytes of an image answers with its classes as JSON.
//!
//! `cargo run --release -- [MODEL] [ADDRESS]`; without arguments it asks itself once and ends.

use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use vitrum::data::demo::DemoSet;
use vitrum::prelude::*;

/// Answers on a thread of its own, so that other requests are not held up.
async fn predict(State(vit): State<Arc<Classifier>>, body: Bytes) -> Result<String, (StatusCode, String)> {
    let answers = tokio::task::spawn_blocking(move || vit.predict_bytes(&body, 5)).await;
    let answers = answers.map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    let rows = answers.map_err(|error| (StatusCode::BAD_REQUEST, error.to_string()))?.into_iter();
    let rows = rows.map(|answer| {
        format!("{{\"class\":{},\"name\":{:?},\"prob\":{:.4}}}", answer.index, answer.name(), answer.prob)
    });
    Ok(format!("[{}]", rows.collect::<Vec<_>>().join(",")))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let vit = Classifier::load(args.first().map_or("demo", String::as_str))?.pack();
    let listener = tokio::net::TcpListener::bind(args.get(1).map_or("127.0.0.1:0", String::as_str)).await?;
    let address = listener.local_addr()?;
    let service = Router::new().route("/predict", post(predict)).with_state(Arc::new(vit));
    println!("http://{address}/predict");
    if !args.is_empty() {
        return Ok(axum::serve(listener, service).await?);
    }
    let server = tokio::spawn(async move { axum::serve(listener, service).await });
    let file = std::env::temp_dir().join(format!("vitrum-serve-{}.png", std::process::id()));
    DemoSet::new(64, 1, 0).image(0).save(&file)?;
    let picture = std::fs::read(&file)?;
    let mut socket = tokio::net::TcpStream::connect(address).await?;
    let head = format!(
        "POST /predict HTTP/1.1\r\nhost: demo\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        picture.len()
    );
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(&picture).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    println!("{}", answer.split("\r\n\r\n").nth(1).unwrap_or(&answer));
    server.abort();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(())
}
