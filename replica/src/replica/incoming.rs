//! Datagrams in: what the link admits goes to the queue that wants it.

use std::net::SocketAddr;

use storage::machine::StateMachine;
use wire::bytes::{Buffers, SharedBytes, UniqueBytes};
use wire::canary::planted;
use wire::header::Kind;
use wire::ids::{Instant, PublicKey};
use wire::limits::RECORD_HEADER_BYTES;
use wire::link::{Body, FromClient, FromPeer, Incoming};
use wire::reject::Reject;
use wire::request::RequestView;
use wire::seal::{Signer, Verifier};

use super::{Effect, JOBS_MAX, Query, Replica};
use crate::admission::{Admission, Standing};
use crate::blocks::Raw;
use crate::ordering;
use crate::peer::{PeerMessage, is_verified};
use crate::verifying::{Job, body_of};

impl<Bu, S, V, M> Replica<Bu, S, V, M>
where
    Bu: Buffers + Clone,
    S: Signer,
    V: Verifier + Clone,
    M: StateMachine,
{
    pub(super) fn on_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        bytes: &Bu::Shared,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) {
        let outcome = match self.endpoint.receive(now, from, bytes) {
            Ok(Some(Incoming::Respond { to, datagram })) => {
                let datagram = datagram.to_vec();
                out.push(Effect::Send { to, datagram });
                Ok(())
            }
            Ok(Some(Incoming::Peer(message))) => self.on_peer(now, message.into_inner()),
            Ok(Some(Incoming::Client(message))) => self.on_client(now, message.into_inner(), out),
            Ok(None) => Ok(()),
            Err(reject) => Err(reject),
        };
        self.rejected += u64::from(outcome.is_err());
    }

    fn on_peer(&mut self, now: Instant, message: FromPeer<Bu>) -> Result<(), Reject> {
        let FromPeer {
            from,
            kind,
            view,
            slot,
            body,
        } = message;
        if planted("shedvotes") && kind == Kind::Vote && self.ordering.depth() > 0 {
            return Err(Reject::QueueFull);
        }
        if is_verified(kind, self.votes_verified) {
            if self.word_jobs.len() >= JOBS_MAX {
                return Err(Reject::QueueFull);
            }
            self.word_jobs.push_back(Job::Message {
                from,
                kind,
                view,
                slot,
                body: body_of(body),
            });
            return Ok(());
        }
        if kind == Kind::Forward {
            if self.request_jobs.len() >= JOBS_MAX {
                return Err(Reject::QueueFull);
            }
            let body = body_of(body);
            self.request_jobs.push_back(Job::Forwarded { from, body });
            return Ok(());
        }
        if kind == Kind::Chunk {
            return self.query(Query::Chunk(from, body_of(body)));
        }
        if !kind.is_block() {
            let message = PeerMessage::decode(kind, view, slot, body.bytes())?;
            if let PeerMessage::FetchState { slot, part } = message {
                return self.query(Query::FetchState(from, slot, part));
            }
            self.ordering
                .handle(now, ordering::Input::Peer { from, message });
            return Ok(());
        }
        let Body::Assembled(buffer, message_bytes) = body else {
            return Err(Reject::BodyMalformed);
        };
        let raw = Raw {
            buffer,
            message_bytes,
        };
        if kind == Kind::Propose {
            self.ordering
                .handle(now, ordering::Input::Proposed { from, raw });
            return Ok(());
        }
        self.ordering
            .handle(now, ordering::Input::Offered { from, raw });
        Ok(())
    }

    fn on_client(
        &mut self,
        now: Instant,
        message: FromClient<Bu>,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) -> Result<(), Reject> {
        let FromClient { client, kind, body } = message;
        let bytes = match body {
            Body::Whole(bytes) => bytes,
            Body::Assembled(buffer, length) => buffer
                .freeze()
                .slice(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length),
        };
        match kind {
            Kind::Request | Kind::Open => self.request(now, &client, bytes, out),
            Kind::Read => self.query(Query::Read(client, bytes)),
            _ => Err(Reject::UnknownKind),
        }
    }

    pub(super) fn query(&mut self, query: Query<Bu::Shared>) -> Result<(), Reject> {
        if self.queries.len() >= JOBS_MAX {
            return Err(Reject::QueueFull);
        }
        self.queries.push_back(query);
        Ok(())
    }

    /// Says Busy, or answers what was executed, before any signature work; or has it verified.
    fn request(
        &mut self,
        now: Instant,
        client: &PublicKey,
        bytes: Bu::Shared,
        out: &mut Vec<Effect<Bu::Shared>>,
    ) -> Result<(), Reject> {
        let view = RequestView::parse(&bytes)?;
        if view.client() != client {
            return Err(Reject::BadSignature);
        }
        let (session, first, count) = (view.session(), view.first_sequence(), view.count() as u16);
        let open = view.is_open();
        let standing = Standing {
            is_leader: self.ordering.summary().leader == self.me,
            may_propose: self.ordering.may_propose(),
            log_full: self.ordering.log_full().is_some(),
            queues_full: self.ordering.depth() >= self.waiting_max
                || self.request_jobs.len() >= JOBS_MAX,
        };
        match standing.admit() {
            Admission::Verify => self.request_jobs.push_back(Job::Request(bytes)),
            Admission::Refuse(reason) => {
                self.busy(client, first, reason, out);
                return Err(Reject::QueueFull);
            }
            Admission::Resend { busy } => {
                if let Some(reason) = busy {
                    self.busy(client, first, reason, out);
                }
                let follows = busy.is_none() && self.request_jobs.len() < JOBS_MAX;
                if follows && self.followed.may_admit(now, client) {
                    self.request_jobs.push_back(Job::Request(bytes));
                }
                if !open {
                    return self.query(Query::Resend(*client, session, first, count));
                }
            }
        }
        Ok(())
    }
}
