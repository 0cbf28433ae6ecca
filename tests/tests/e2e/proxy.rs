//! A userspace network between processes: one UDP socket per directed link, which loses and
//! doubles datagrams by a seeded generator.

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// What happens to a datagram, in percent.
#[derive(Clone, Copy)]
pub struct Weather {
    pub loss: u64,
    pub duplication: u64,
}

/// One link: what arrives at its own address goes on to `target`; what comes from `target` goes
/// back to whoever was heard last.
pub struct Link {
    pub address: SocketAddr,
    ended: Arc<AtomicBool>,
    pub dropped: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    pub fn start(target: SocketAddr, weather: Weather, seed: u64) -> Link {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("proxy socket");
        socket
            .set_read_timeout(Some(Duration::from_millis(50)))
            .expect("timeout");
        let address = socket.local_addr().expect("address");
        let ended = Arc::new(AtomicBool::new(false));
        let dropped = Arc::new(AtomicU64::new(0));
        let (stop, lost) = (ended.clone(), dropped.clone());
        let thread = std::thread::spawn(move || {
            forward(&socket, target, weather, seed | 1, &stop, &lost);
        });
        Link {
            address,
            ended,
            dropped,
            thread: Some(thread),
        }
    }
}

fn forward(
    socket: &UdpSocket,
    target: SocketAddr,
    weather: Weather,
    mut random: u64,
    ended: &AtomicBool,
    dropped: &AtomicU64,
) {
    let mut buffer = vec![0; 65_536];
    let mut last = None;
    while !ended.load(Ordering::Relaxed) {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let to = if from == target { last } else { Some(target) };
        if from != target {
            last = Some(from);
        }
        let mut percent = || {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            random % 100
        };
        if percent() < weather.loss {
            dropped.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let copies = if percent() < weather.duplication {
            2
        } else {
            1
        };
        for _ in 0..copies {
            if let Some(to) = to {
                let _ = socket.send_to(&buffer[..length], to);
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
