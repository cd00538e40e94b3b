//! An explanation ends soon after its client has left.

use std::time::Duration;

use tokio::task::spawn_blocking;
use vitrum::prelude::{Device, LoadOptions, load};
use vitrum_server::{ModelSpec, Server, ServerConfig};

use crate::socket::{connect, read, send_to};
use crate::support::*;

/// Integrated gradients: the classes, eight parts of the way, both of its ends.
const PASSES: u64 = 10;

/// The built-in model for large images: each pass takes its time.
fn slow() -> Vec<ModelSpec> {
    let loader = || {
        let options = LoadOptions { img_size: Some([64, 64]), ..LoadOptions::new("demo") };
        Ok(load(&options, &Device::flex())?)
    };
    vec![ModelSpec::new("demo", loader).unwrap()]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_makes_room() {
    let address = "127.0.0.1:0".parse().unwrap();
    let explain_timeout = Duration::from_secs(600);
    let config = ServerConfig { address, explain_timeout, ..ServerConfig::default() };
    let server = Server::bind(config, slow()).await.unwrap();
    let (address, app) = (server.address(), server.app().clone());
    let served = tokio::spawn(server.serve(std::future::pending()));
    let send = |route: &'static str| {
        spawn_blocking(move || {
            let mut stream = connect(address);
            send_to(route, &mut stream, &png(&picture(1)));
            stream
        })
    };
    let left = send("/explain?method=integrated_gradients").await.unwrap();
    while app.lane.passes() < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(left);
    let mut next = send("/explain?method=similarity").await.unwrap();
    let answer = spawn_blocking(move || read(&mut next)).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{}", &answer[..answer.len().min(300)]);
    // The second request has passes, too, and yet there are fewer than those of the first.
    assert!(app.lane.passes() < PASSES, "{} passes", app.lane.passes());
    served.abort();
}
