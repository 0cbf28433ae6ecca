//! The metrics of peers and of discovery.

use std::fmt::Error;

use wire::ids::{Instant, NodeId};

use super::super::health::is_up;
use super::Page;
use crate::telemetry::{Telemetry, Whereabouts};

impl Page<'_> {
    pub(super) fn peers(&mut self, telemetry: &Telemetry, now: Instant) -> Result<(), Error> {
        let up = telemetry.peers.iter().enumerate().map(|(id, _)| {
            let up = is_up(telemetry, NodeId(id as u16), now);
            (id.to_string(), u64::from(up))
        });
        self.gauges(
            "peer_up",
            "1 when the peer was heard within a second",
            "peer",
            up,
        )?;
        let slots = telemetry.peers.iter().enumerate();
        let slots = slots.map(|(id, peer)| (id.to_string(), peer.committed_slot.get()));
        self.gauges(
            "peer_committed_slot",
            "Highest slot the peer said it decided",
            "peer",
            slots,
        )?;
        let silent = telemetry.peers.iter().enumerate();
        let silent = silent.map(|(id, peer)| (id.to_string(), peer.silent_until.get()));
        self.gauges(
            "peer_silent_until_slot",
            "A checkpoint at this slot ends the silence of the peer; 0 when it is not silent",
            "peer",
            silent,
        )?;

        // The own entry says nothing.
        let others = || {
            let all = telemetry.whereabouts.iter().enumerate();
            all.filter(|(id, _)| *id != telemetry.node.index())
        };
        let of_others = |value: fn(&Whereabouts) -> Option<f64>| {
            others().filter_map(move |(id, seen)| Some((id.to_string(), value(seen)?)))
        };
        self.plain_gauges(
            "peer_state",
            "2 up, 1 suspect, 0 down, by the age of the last word, with hysteresis",
            "peer",
            of_others(|seen| Some(f64::from(seen.state.get() as u8))),
        )?;
        self.plain_gauges(
            "peer_moved",
            "1 when the peer is not where the committee file says",
            "peer",
            of_others(|seen| Some(f64::from(u8::from(seen.source.get() as u8 != 0)))),
        )?;
        self.plain_gauges(
            "peer_round_trip_seconds",
            "Smoothed round trip to the peer; absent until it answered",
            "peer",
            of_others(|seen| match seen.round_trip_ns.get() {
                0 => None,
                nanoseconds => Some(nanoseconds as f64 / 1e9),
            }),
        )?;
        self.plain_gauges(
            "peer_loss_ratio",
            "Share of the peer's datagrams of ten seconds that did not come; absent when it sent few",
            "peer",
            of_others(|seen| {
                let loss = seen.loss_ppm.get() as f64 / 1e6;
                seen.loss_known.get().then_some(loss)
            }),
        )?;
        let ages = others().filter_map(|(id, _)| {
            let heard_ns = telemetry.peers[id].last_heard_ns.get();
            let age = now.since_ns(Instant(heard_ns)) as f64 / 1e9;
            (heard_ns != 0).then_some((id.to_string(), age))
        });
        self.plain_gauges(
            "peer_last_word_age_seconds",
            "Age of the peer's last authentic word; absent when there was none",
            "peer",
            ages,
        )?;

        let discovery = &telemetry.discovery;
        self.counter(
            "discovery_moves",
            "Times the address of a peer changed",
            discovery.moves.get(),
        )?;
        self.counter(
            "discovery_signature_checks",
            "Signatures of beacons checked",
            discovery.signature_checks.get(),
        )?;
        self.counter(
            "discovery_received_datagrams",
            "Beacons and probes taken in, good or not",
            discovery.received.get(),
        )?;
        self.counter(
            "discovery_sent_datagrams",
            "Beacons and probes sent",
            discovery.sent.get(),
        )?;
        self.counter(
            "discovery_send_errors",
            "Beacons and probes that the kernel refused",
            discovery.send_errors.get(),
        )
    }
}
