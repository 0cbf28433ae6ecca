//! UDP sockets beside the main one, for datagrams to and from everybody on the local network.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::PlatformError;

/// A flood must not fill memory; what does not fit is dropped by the kernel.
const RECEIVE_BUFFER_BYTES: usize = 64 * 1024;

/// A nonblocking socket that hears a multicast group, or broadcasts, on one interface. Several
/// processes of one machine may listen; each hears everything. `interface` is an address of the
/// interface; unspecified leaves the choice to the system.
///
/// Fails when the group cannot be joined, for example because no interface has that address.
pub fn listen(group: SocketAddrV4, interface: Ipv4Addr) -> Result<UdpSocket, PlatformError> {
    let what = || format!("cannot listen to {group} on the interface {interface}");
    let failed = |source| PlatformError::Io {
        what: what(),
        source,
    };
    let socket = socket2::Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
        .map_err(PlatformError::io(what()))?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.set_reuse_address(true).map_err(failed)?;
    socket
        .set_recv_buffer_size(RECEIVE_BUFFER_BYTES)
        .map_err(failed)?;
    // Bound to the group itself, the socket hears nothing that was sent to the port otherwise.
    let bound = if group.ip().is_multicast() {
        group
    } else {
        SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, group.port())
    };
    socket.bind(&SockAddr::from(bound)).map_err(failed)?;
    if group.ip().is_multicast() {
        socket
            .join_multicast_v4(group.ip(), &interface)
            .map_err(failed)?;
    }
    Ok(socket.into())
}

/// A nonblocking socket that sends from `address`, port chosen by the system, to single receivers,
/// and to groups on `interface` no further than the local network. Nobody reads what comes to it.
pub fn sender(address: IpAddr, interface: Ipv4Addr) -> Result<UdpSocket, PlatformError> {
    let what = || format!("cannot send from {address} on the interface {interface}");
    let failed = |source| PlatformError::Io {
        what: what(),
        source,
    };
    let own = SocketAddr::new(address, 0);
    let socket = socket2::Socket::new(Domain::for_address(own), Type::DGRAM, Some(Protocol::UDP))
        .map_err(PlatformError::io(what()))?;
    socket.set_nonblocking(true).map_err(failed)?;
    socket.set_recv_buffer_size(1).map_err(failed)?;
    if address.is_ipv4() {
        socket.set_broadcast(true).map_err(failed)?;
        socket.set_multicast_ttl_v4(1).map_err(failed)?;
        // Other nodes may run on this machine.
        socket.set_multicast_loop_v4(true).map_err(failed)?;
        if !interface.is_unspecified() {
            socket.set_multicast_if_v4(&interface).map_err(failed)?;
        }
    }
    socket.bind(&SockAddr::from(own)).map_err(failed)?;
    Ok(socket.into())
}

/// The address of this machine from which packets to `destination` leave. Sends nothing.
pub fn source_towards(destination: SocketAddr) -> Option<IpAddr> {
    let any: IpAddr = match destination {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(destination).ok()?;
    let source = socket.local_addr().ok()?.ip();
    (!source.is_unspecified()).then_some(source)
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn the_group_is_heard_on_loopback_by_all() {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = port.local_addr().unwrap().port();
        let group = SocketAddrV4::new(Ipv4Addr::new(239, 255, 72, 81), port);
        let ears = [(); 2].map(|()| listen(group, Ipv4Addr::LOCALHOST).unwrap());
        let mouth = sender(Ipv4Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST).unwrap();
        mouth.send_to(b"here", group).unwrap();
        for ear in &ears {
            ear.set_nonblocking(false).unwrap();
            ear.set_read_timeout(Some(std::time::Duration::from_secs(5)))
                .unwrap();
            let mut bytes = [0; 16];
            let (length, from) = ear.recv_from(&mut bytes).unwrap();
            assert_eq!(&bytes[..length], b"here");
            assert_eq!(from, mouth.local_addr().unwrap());
        }
    }

    #[test]
    fn a_foreign_interface_is_refused() {
        let group = "239.255.72.81:7199".parse().unwrap();
        let error = listen(group, Ipv4Addr::new(192, 0, 2, 1)).unwrap_err();
        assert!(error.to_string().contains("192.0.2.1"), "{error}");
    }

    #[test]
    fn the_way_to_loopback_starts_there() {
        let source = source_towards("127.0.0.1:9".parse().unwrap());
        assert_eq!(source, Some(Ipv4Addr::LOCALHOST.into()));
    }
}
