//! A client with a socket, as plain as can be.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Opens a connection.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

/// Asks for the classes of a picture; the connection ends with the answer.
pub fn send_picture(stream: &mut TcpStream, picture: &[u8]) {
    send_to("/predict", stream, picture);
}

/// Sends a picture to a route; the connection ends with the answer.
pub fn send_to(route: &str, stream: &mut TcpStream, picture: &[u8]) {
    let head = format!(
        "POST {route} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-type: image/png\r\ncontent-length: {}\r\n\r\n",
        picture.len()
    );
    stream.write_all(&[head.as_bytes(), picture].concat()).unwrap();
}

/// All that comes until the end.
pub fn read(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    // A connection that the server resets has ended, too.
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
