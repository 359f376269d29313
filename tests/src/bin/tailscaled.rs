//! Stands in for tailscaled: owns the socket that its program talks to, and
//! forwards requests to a gateway the way Serve does, with what the headers
//! are to say. A program of its own, because whose sockets they are is the
//! point of it.
//!
//! `tailscaled SOCKET GATEWAY-PORT TAILNET-ADDRESS LOGIN` prints the port it
//! listens on.

// It has no other way to answer.
#![allow(clippy::print_stdout)]

use std::{env, io};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional},
    net::{TcpListener, TcpStream, UnixListener},
};

const NAME: &str = "box.tail1234.ts.net";

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [socket, port, address, login] = &arguments[..] else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let port: u16 = port.parse().map_err(io::Error::other)?;
    let daemon = UnixListener::bind(socket)?;
    let serve = TcpListener::bind(("127.0.0.1", 0)).await?;
    println!("{}", serve.local_addr()?.port());
    loop {
        tokio::select! {
            asked = daemon.accept() => drop(asked?),
            client = serve.accept() => {
                let headers = headers(address, login);
                tokio::spawn(forward(client?.0, port, headers, address.clone()));
            }
        }
    }
}

fn headers(address: &str, login: &str) -> String {
    let mut text = format!(
        "Host: {NAME}\r\nX-Forwarded-For: {address}\r\nX-Forwarded-Proto: https\r\n\
         X-Forwarded-Host: {NAME}\r\n"
    );
    if !login.is_empty() {
        text += &format!("Tailscale-User-Login: {login}\r\nTailscale-User-Name: Somebody\r\n");
    }
    text
}

/// What a client says of itself under these names is dropped. A header of the
/// test's own, `Visitor`, chooses the address it comes from.
async fn forward(
    mut client: TcpStream,
    port: u16,
    headers: String,
    address: String,
) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head);
    let mut lines = head.trim_end().split("\r\n");
    let visitor = head.lines().find_map(|line| line.strip_prefix("Visitor: "));
    let visitor = visitor.or_else(|| head.lines().find_map(|line| line.strip_prefix("visitor: ")));
    let headers = visitor.map_or(headers.clone(), |ip| headers.replace(&address, ip));
    let mut request = format!("{}\r\n{headers}", lines.next().unwrap_or_default());
    for line in lines {
        let lower = line.to_ascii_lowercase();
        let dropped = ["host:", "x-forwarded-", "tailscale-", "visitor:"];
        if !dropped.iter().any(|name| lower.starts_with(name)) {
            request += &format!("{line}\r\n");
        }
    }
    let mut gateway = TcpStream::connect(("127.0.0.1", port)).await?;
    gateway.write_all(format!("{request}\r\n").as_bytes()).await?;
    copy_bidirectional(&mut client, &mut gateway).await.map(drop)
}
