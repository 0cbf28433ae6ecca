//! The blocking connection against scripted replicas on real sockets.

mod fake;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use client::blocking::{CasOutcome, ConnectOptions, Connection, Error, ReadMode};
use client::{Secret, SubmitError, Way};
use fake::FakeCluster;
use wire::committee::Committee;
use wire::ids::{Instant, NodeId};

struct Network {
    committee: Arc<Committee>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Network {
    fn start(arrange: impl FnOnce(&mut FakeCluster)) -> Network {
        let sockets: Vec<UdpSocket> = (0..4)
            .map(|_| {
                let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
                socket.set_nonblocking(true).unwrap();
                socket
            })
            .collect();
        let addresses: Vec<SocketAddr> = sockets
            .iter()
            .map(|socket| socket.local_addr().unwrap())
            .collect();
        let committee = Arc::new(fake::committee(&addresses));
        let mut cluster = FakeCluster::new(&committee, 1472, 3);
        arrange(&mut cluster);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let started = std::time::Instant::now();
            let mut buffer = vec![0; 65_536];
            let mut out = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                for (id, socket) in sockets.iter().enumerate() {
                    while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                        let now = Instant(1 + started.elapsed().as_nanos() as u64);
                        let node = NodeId(id as u16);
                        cluster.receive(now, node, from, &buffer[..length], &mut out);
                    }
                }
                for sent in out.drain(..) {
                    let _ = sockets[sent.from.index()].send_to(&sent.bytes, sent.to);
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Network {
            committee,
            stop,
            thread: Some(thread),
        }
    }

    fn connect(&self, timeout: Duration) -> Connection {
        let secret = Secret::generate(&[55; 32]).unwrap();
        let options = ConnectOptions {
            connect_timeout: timeout,
            timeout,
            ..ConnectOptions::default()
        };
        Connection::connect(Arc::clone(&self.committee), &secret, options).unwrap()
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

const LONG: Duration = Duration::from_secs(20);

#[test]
fn every_call_has_its_result() {
    let network = Network::start(|cluster| cluster.liar = Some(NodeId(2)));
    let mut connection = network.connect(LONG);
    let put = connection.put(b"city", b"Byzantium").unwrap();
    assert!(put.replies >= 2 && put.slot.0 > 0);
    let get = connection.get(b"city", ReadMode::Ordered).unwrap();
    assert_eq!(get.value.as_deref(), Some(&b"Byzantium"[..]));
    assert!(get.slot > put.slot);
    let stale = connection.get(b"city", ReadMode::Stale(NodeId(1))).unwrap();
    assert_eq!((stale.value, stale.replies), (get.value, 1));
    let cas = connection.cas(b"city", None, b"Troy").unwrap();
    assert_eq!(cas.value, CasOutcome::Mismatch(Some(b"Byzantium".to_vec())));
    let cas = connection
        .cas(b"city", Some(b"Byzantium"), b"Troy")
        .unwrap();
    assert_eq!(cas.value, CasOutcome::Swapped);
    let scan = connection.scan(b"", b"", 10, ReadMode::Ordered).unwrap();
    assert_eq!(scan.value.entries, [(b"city".to_vec(), b"Troy".to_vec())]);
    assert!(connection.delete(b"city").unwrap().value);
    assert!(!connection.delete(b"city").unwrap().value);
    assert_eq!(
        connection.get(b"city", ReadMode::Ordered).unwrap().value,
        None
    );
    connection.put(b"city", b"Nicaea").unwrap();
    let fenced = connection.get(b"city", ReadMode::Fenced).unwrap();
    assert_eq!(fenced.value.as_deref(), Some(&b"Nicaea"[..]));
    assert_eq!((fenced.replies, fenced.way), (3, Way::Fenced));
    let nobody = connection
        .get(b"city", ReadMode::Stale(NodeId(9)))
        .unwrap_err();
    assert!(matches!(nobody, Error::Refused(SubmitError::NoSuchReplica)));

    // The same key again, as a later process would use it: the old session, new sequences.
    drop(connection);
    let mut connection = network.connect(LONG);
    connection.put(b"city", b"Athens").unwrap();
    assert!(
        connection
            .get(b"city", ReadMode::Ordered)
            .unwrap()
            .value
            .is_some()
    );
}

#[test]
fn too_few_replicas_are_no_quorum_but_stale_reads_go_on() {
    let network = Network::start(|cluster| {
        cluster.silent = vec![NodeId(0), NodeId(1), NodeId(2)];
        cluster.table.insert(b"k".to_vec(), b"v".to_vec());
    });
    let mut connection = network.connect(Duration::from_millis(500));
    let error = connection.put(b"k", b"w").unwrap_err();
    assert!(
        matches!(error, Error::NoQuorum { needed: 2, .. }),
        "{error}"
    );
    assert!(error.is_no_quorum_or_timeout());
    let stale = connection.get(b"k", ReadMode::Stale(NodeId(3))).unwrap();
    assert_eq!(stale.value.as_deref(), Some(&b"v"[..]));
    let silent = connection
        .get(b"k", ReadMode::Stale(NodeId(0)))
        .unwrap_err();
    assert!(matches!(silent, Error::ReplicaSilent(NodeId(0))));
}

/// With a session and without one the error says what the leader said.
#[test]
fn a_full_log_is_named() {
    let full = Arc::new(AtomicBool::new(true));
    let network = Network::start(|cluster| {
        cluster.log_full = Arc::clone(&full);
        cluster.table.insert(b"k".to_vec(), b"v".to_vec());
    });
    let mut connection = network.connect(Duration::from_secs(2));
    let error = connection.put(b"k", b"w").unwrap_err();
    assert!(matches!(error, Error::NoQuorum { .. }), "{error}");
    assert!(error.to_string().contains("log is full"), "{error}");
    let stale = connection.get(b"k", ReadMode::Stale(NodeId(0))).unwrap();
    assert_eq!(stale.value.as_deref(), Some(&b"v"[..]));

    full.store(false, Ordering::Release);
    connection.put(b"k", b"x").unwrap();
    full.store(true, Ordering::Release);
    let error = connection.put(b"k", b"y").unwrap_err();
    assert!(matches!(error, Error::Unknown { .. }), "{error}");
    assert!(error.to_string().contains("log is full"), "{error}");
    assert!(error.is_no_quorum_or_timeout());
}
