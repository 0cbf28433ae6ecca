//! Datagrams as the kernel's message headers: addresses, gather lists, GSO and GRO.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::ops::Range;
use std::ptr;

use super::{GSO_SEGMENTS_MAX, Outgoing, SEND_BYTES_MAX};
use crate::pool::Shared;
use crate::socket::{UDP_GRO, UDP_SEGMENT};

/// Room for an address of either family.
pub(super) const NAME_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// Room for the kernel's remarks on a received datagram.
pub(super) const CONTROL_BYTES: usize = 64;
/// Head and body of each datagram of one send.
const IOVECS: usize = 2 * GSO_SEGMENTS_MAX;

/// An address in the kernel's form.
#[repr(C)]
#[derive(Clone, Copy)]
pub(super) union Name {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl Name {
    fn of(address: SocketAddr) -> (Name, usize) {
        match address {
            SocketAddr::V4(address) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (Name { v4 }, size_of::<libc::sockaddr_in>())
            }
            SocketAddr::V6(address) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
                (Name { v6 }, size_of::<libc::sockaddr_in6>())
            }
        }
    }
}

/// Reads an address that the kernel wrote.
pub(super) fn parse_name(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes([*bytes.first()?, *bytes.get(1)?]);
    let port = u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(octets), port).into())
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            Some(SocketAddrV6::new(Ipv6Addr::from(octets), port, 0, scope).into())
        }
        _ => None,
    }
}

/// What the kernel says of a receive beside its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Remarks {
    /// Bytes of each datagram that was joined into this one; none for a single datagram.
    pub segment: Option<usize>,
    /// Datagrams that the socket has dropped so far, modulo 2^32; none while there were none.
    pub drops: Option<u32>,
}

/// Reads the kernel's control messages.
pub(super) fn parse_remarks(control: &[u8]) -> Remarks {
    const HEAD: usize = size_of::<libc::cmsghdr>();
    let mut remarks = Remarks::default();
    let mut rest = control;
    while rest.len() >= HEAD {
        // SAFETY: `rest` has the bytes of a header, which may lie at any alignment.
        let head: libc::cmsghdr = unsafe { ptr::read_unaligned(rest.as_ptr().cast()) };
        let length = head.cmsg_len as usize;
        if length < HEAD || length > rest.len() {
            break;
        }
        let number = rest[HEAD..length].first_chunk().copied();
        match (head.cmsg_level, head.cmsg_type) {
            (libc::SOL_UDP, UDP_GRO) => {
                let bytes = number.map_or(0, i32::from_ne_bytes);
                remarks.segment = usize::try_from(bytes).ok().filter(|bytes| *bytes > 0);
            }
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => {
                remarks.drops = number.map(u32::from_ne_bytes);
            }
            _ => {}
        }
        let step = length.next_multiple_of(align_of::<libc::cmsghdr>());
        rest = &rest[step.min(rest.len())..];
    }
    remarks
}

/// Control data of a GSO send: one aligned message.
#[repr(C)]
#[derive(Clone, Copy)]
struct SegmentControl {
    head: libc::cmsghdr,
    segment: u16,
    padding: [u8; 6],
}

/// Everything that one send keeps in place until the kernel is done with it.
pub(super) struct SendSlot {
    pub header: libc::msghdr,
    name: Name,
    iovecs: [libc::iovec; IOVECS],
    control: SegmentControl,
    /// Owners of what the iovecs point to.
    head: Option<Shared>,
    body: Option<Shared>,
    pub datagrams: usize,
    pub bytes: usize,
}

impl SendSlot {
    /// An empty slot. It must not move between [`SendSlot::fill`] and the end of the send, so slots
    /// live in a boxed slice.
    pub fn new() -> SendSlot {
        // SAFETY: all-zero bytes are valid for these plain C structures.
        unsafe {
            SendSlot {
                header: std::mem::zeroed(),
                name: std::mem::zeroed(),
                iovecs: std::mem::zeroed(),
                control: std::mem::zeroed(),
                head: None,
                body: None,
                datagrams: 0,
                bytes: 0,
            }
        }
    }

    /// Describes the datagrams `range` of `outgoing` and keeps their owners.
    pub fn fill(&mut self, outgoing: &Outgoing, range: Range<usize>) {
        let (name, name_bytes) = Name::of(outgoing.to);
        self.name = name;
        self.head = Some(outgoing.head.clone());
        self.body = outgoing.body.clone();
        (self.datagrams, self.bytes) = (range.len(), 0);
        let mut used = 0;
        for index in range {
            let (head, body) = outgoing.datagram(index);
            for part in [head, body] {
                if !part.is_empty() {
                    self.iovecs[used] = libc::iovec {
                        iov_base: part.as_ptr().cast_mut().cast(),
                        iov_len: part.len(),
                    };
                    used += 1;
                    self.bytes += part.len();
                }
            }
        }
        // SAFETY: all-zero bytes are a valid message header.
        self.header = unsafe { std::mem::zeroed() };
        self.header.msg_name = (&raw mut self.name).cast();
        self.header.msg_namelen = name_bytes as libc::socklen_t;
        self.header.msg_iov = self.iovecs.as_mut_ptr();
        self.header.msg_iovlen = used;
        if self.datagrams > 1 {
            let each = datagram_bytes(outgoing);
            self.control.head.cmsg_level = libc::SOL_UDP;
            self.control.head.cmsg_type = UDP_SEGMENT;
            self.control.head.cmsg_len = (size_of::<libc::cmsghdr>() + size_of::<u16>()) as _;
            self.control.segment = each as u16;
            self.header.msg_control = (&raw mut self.control).cast();
            self.header.msg_controllen = size_of::<SegmentControl>() as _;
        }
    }

    /// The kernel is done: the buffers may go home.
    pub fn clear(&mut self) {
        self.head = None;
        self.body = None;
    }
}

/// Bytes of each datagram but the last, which may be shorter.
fn datagram_bytes(outgoing: &Outgoing) -> usize {
    outgoing.head_each + outgoing.body.as_ref().map_or(0, |_| outgoing.body_each)
}

/// The sends that `outgoing` takes: ranges of datagrams.
pub(super) fn batches(
    outgoing: &Outgoing,
    gso: bool,
) -> impl Iterator<Item = Range<usize>> + use<> {
    let count = outgoing.count();
    let each = datagram_bytes(outgoing);
    let most = if gso {
        (SEND_BYTES_MAX / each.max(1)).clamp(1, GSO_SEGMENTS_MAX)
    } else {
        1
    };
    (0..count)
        .step_by(most)
        .map(move |start| start..(start + most).min(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(level: i32, kind: i32, number: i32) -> Vec<u8> {
        let mut bytes = (size_of::<libc::cmsghdr>() + 4).to_ne_bytes().to_vec();
        bytes.extend([level, kind, number, 0].map(i32::to_ne_bytes).concat());
        bytes
    }

    #[test]
    fn remarks_are_found_in_any_order_and_broken_ones_end_the_search() {
        let segment = control(libc::SOL_UDP, UDP_GRO, 1400);
        let drops = control(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 9);
        let both = Remarks {
            segment: Some(1400),
            drops: Some(9),
        };
        assert_eq!(parse_remarks(&[&segment[..], &drops].concat()), both);
        assert_eq!(parse_remarks(&[&drops[..], &segment].concat()), both);
        assert_eq!(parse_remarks(&[]), Remarks::default());
        let zero = control(libc::SOL_UDP, UDP_GRO, 0);
        assert_eq!(
            parse_remarks(&zero),
            Remarks::default(),
            "nobody may divide by zero"
        );
        for cut in 0..20 {
            assert_eq!(parse_remarks(&segment[..cut]), Remarks::default());
        }
        let mut broken = segment.clone();
        broken[0] = 3;
        assert_eq!(
            parse_remarks(&[&broken[..], &drops].concat()),
            Remarks::default()
        );
    }

    #[test]
    fn addresses_survive_the_form_of_the_kernel() {
        for text in ["10.1.2.3:4567", "[fe80::1:2%7]:89"] {
            let address: SocketAddr = text.parse().unwrap();
            let (name, bytes) = Name::of(address);
            // SAFETY: `name` is a local of at least `bytes` initialised bytes.
            let raw = unsafe { std::slice::from_raw_parts((&raw const name).cast::<u8>(), bytes) };
            assert_eq!(parse_name(raw), Some(address));
            assert_eq!(parse_name(&raw[..bytes.min(7)]), None);
        }
        assert_eq!(parse_name(&[0; NAME_BYTES]), None);
    }
}
