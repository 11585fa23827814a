//! A TCP proxy whose connections can be cut.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// It lives as long as the test program.
pub struct Proxy {
    pub url: String,
    connections: Arc<Mutex<Vec<TcpStream>>>,
}

impl Proxy {
    /// In front of `target`, which need not listen yet.
    pub fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let connections: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
        let opened = Arc::clone(&connections);
        thread::spawn(move || {
            for near in listener.incoming() {
                let near = near.unwrap();
                // Nobody listens: the connection is closed, as it would be without a proxy.
                let Ok(far) = TcpStream::connect(target) else { continue };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || {
                        // However it ends, the other side is told.
                        let _ = io::copy(&mut from, &mut to);
                        let _ = to.shutdown(Shutdown::Write);
                    });
                }
                opened.lock().unwrap().push(near);
            }
        });
        Self { url, connections }
    }

    /// Cuts every connection that was opened since the last time; how many.
    pub fn cut(&self) -> usize {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        // One that is closed already cannot be cut any more.
        connections.iter().filter(|connection| connection.shutdown(Shutdown::Both).is_ok()).count()
    }
}
