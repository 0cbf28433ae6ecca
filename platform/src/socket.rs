//! A UDP socket with large buffers, GSO and GRO where the kernel has them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use socket2::{Domain, Protocol, SockAddr, Type};

use crate::PlatformError;

/// UDP_SEGMENT and UDP_GRO of <linux/udp.h>.
pub(crate) const UDP_SEGMENT: libc::c_int = 103;
pub(crate) const UDP_GRO: libc::c_int = 104;

/// What to ask for.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Bytes of the kernel's receive and send buffers.
    pub buffer_bytes: usize,
    pub gro: bool,
    pub gso: bool,
}

impl Default for SocketOptions {
    fn default() -> SocketOptions {
        SocketOptions {
            buffer_bytes: 8 << 20,
            gro: true,
            gso: true,
        }
    }
}

/// A bound, nonblocking UDP socket.
#[derive(Debug)]
pub struct Socket {
    socket: socket2::Socket,
    address: SocketAddr,
    gro: bool,
    gso: bool,
    receive_buffer_bytes: usize,
    send_buffer_bytes: usize,
    wanted_bytes: usize,
}

impl Socket {
    /// Binds and sets everything up; what the kernel grants is read back.
    pub fn bind(address: SocketAddr, options: &SocketOptions) -> Result<Socket, PlatformError> {
        let what = || format!("UDP socket on {address}");
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )
        .map_err(PlatformError::io(what()))?;
        socket
            .set_nonblocking(true)
            .map_err(PlatformError::io(what()))?;
        set_buffers(&socket, options.buffer_bytes);
        socket
            .bind(&SockAddr::from(address))
            .map_err(|source| match source.kind() {
                io::ErrorKind::AddrInUse => PlatformError::AddressTaken { address },
                _ => PlatformError::Io {
                    what: what(),
                    source,
                },
            })?;
        if !address.ip().is_loopback() {
            // Datagrams are sized for the path; what would have to be fragmented is refused.
            let (level, option, value) = match address {
                SocketAddr::V4(_) => (
                    libc::IPPROTO_IP,
                    libc::IP_MTU_DISCOVER,
                    libc::IP_PMTUDISC_DO,
                ),
                SocketAddr::V6(_) => (
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_DO,
                ),
            };
            set(&socket, level, option, value).map_err(PlatformError::io(what()))?;
        }
        // Each receive then says how many datagrams were dropped before it; old kernels do not.
        let _ = set(&socket, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1);
        let gro = options.gro && set(&socket, libc::SOL_UDP, UDP_GRO, 1).is_ok();
        // Setting segment size 0 changes nothing and fails where GSO is unknown.
        let gso = options.gso && set(&socket, libc::SOL_UDP, UDP_SEGMENT, 0).is_ok();
        let receive_buffer_bytes = socket
            .recv_buffer_size()
            .map_err(PlatformError::io(what()))?;
        let send_buffer_bytes = socket
            .send_buffer_size()
            .map_err(PlatformError::io(what()))?;
        let local = socket.local_addr().map_err(PlatformError::io(what()))?;
        let address = local.as_socket().unwrap_or(address);
        Ok(Socket {
            socket,
            address,
            gro,
            gso,
            receive_buffer_bytes,
            send_buffer_bytes,
            wanted_bytes: options.buffer_bytes,
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The kernel joins received datagrams.
    pub fn gro(&self) -> bool {
        self.gro
    }

    /// The kernel cuts sends into datagrams.
    pub fn gso(&self) -> bool {
        self.gso
    }

    /// As the kernel granted it (it doubles what was asked for, for its own use).
    pub fn receive_buffer_bytes(&self) -> usize {
        self.receive_buffer_bytes
    }

    /// (wanted, got) when the kernel granted less to one of the two buffers.
    pub fn clamped(&self) -> Option<(usize, usize)> {
        let got = self.receive_buffer_bytes.min(self.send_buffer_bytes) / 2;
        (got < self.wanted_bytes).then_some((self.wanted_bytes, got))
    }

    pub(crate) fn raw(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The FORCE options pass the sysctl limits for root; others get what is allowed.
fn set_buffers(socket: &socket2::Socket, bytes: usize) {
    let value = bytes.min(i32::MAX as usize / 2) as libc::c_int;
    if set(socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, value).is_err() {
        let _ = socket.set_recv_buffer_size(bytes);
    }
    if set(socket, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, value).is_err() {
        let _ = socket.set_send_buffer_size(bytes);
    }
}

fn set(
    socket: &socket2::Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: passes four bytes of a local that lives through the call.
    let result = unsafe {
        let pointer = (&raw const value).cast();
        let length = size_of::<libc::c_int>() as libc::socklen_t;
        libc::setsockopt(socket.as_raw_fd(), level, option, pointer, length)
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(all(test, not(miri)))]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_and_a_clamp_are_said() {
        let options = SocketOptions::default();
        let first = Socket::bind("127.0.0.1:0".parse().unwrap(), &options).unwrap();
        let error = Socket::bind(first.local_addr(), &options).unwrap_err();
        assert!(
            matches!(error, PlatformError::AddressTaken { .. }),
            "{error}"
        );
        assert!(first.receive_buffer_bytes() > 0);
        let plain = SocketOptions {
            gro: false,
            gso: false,
            ..options
        };
        let plain = Socket::bind("127.0.0.1:0".parse().unwrap(), &plain).unwrap();
        assert!(!plain.gro() && !plain.gso());
    }
}
