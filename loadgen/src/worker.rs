//! One generator thread: its clients, its socket, its schedule, its figures.
//!
//! A turn takes what has arrived by the schedule, closes a bundle that lingered, takes replies,
//! and rests only until the next bundle is due to leave. Arrivals fill the bundle of one client
//! until it is full or has lingered, then that of the next: many clients share the load by bundles.
//! A transaction waits in its bundle anyway, so lag is judged where it matters: how much later a
//! bundle closes than the schedule says, counted for each of its transactions.
//! Nothing on this path allocates once the load has started.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};

use client::{Client, Completion, Outbox};
use wire::ids::{Instant, NodeId};
use wire::ops::Operation;

use crate::histograms::{Counts, Interval, record_many};
use crate::history::HistoryWriter;
use crate::keys::{Keys, Values, key};
use crate::ledger::{Effects, Ledger};
use crate::operations::{InFlight, Operations};
use crate::plan::{self, Control, Plan};
use crate::port::{Port, PortConfig};
use crate::random::Random;
use crate::schedule::Schedule;

/// Arrivals taken in one turn, so that replies are never starved.
const ARRIVALS_PER_TURN_MAX: usize = 256;
/// How often the clients' timers are looked at.
const TICK_NS: u64 = 4_000_000;
/// Time slices of the report.
pub const INTERVAL_NS: u64 = 1_000_000_000;
/// Linger that a client never reaches: this thread closes the bundles.
pub const NEVER_NS: u64 = u64::MAX / 4;

/// Under this number the allocations of generator threads under load are counted.
pub const LOAD_STAGE: u8 = 0;

/// What a worker tells the coordinator.
pub enum Report {
    /// Every client has a session.
    Ready,
    /// The keys of this worker have been written.
    Preloaded,
    /// The figures of interval `index` since the start of the load.
    Interval {
        index: u64,
        figures: Box<Interval>,
    },
    /// All is answered, or given up.
    Finished {
        /// The figures of the measured window.
        measured: Box<Interval>,
        /// The socket driver that was in use.
        backend: String,
    },
    Failed(String),
}

/// Everything one thread owns.
pub struct Worker {
    pub thread: usize,
    pub plan: Arc<Plan>,
    pub control: Arc<Control>,
    pub reports: SyncSender<(usize, Report)>,
    /// Empty interval figures coming back from the coordinator.
    pub empties: Receiver<Box<Interval>>,
    pub clients: Vec<Client>,
    /// Number of this thread's first client within the run.
    pub first_client: usize,
    pub port: PortConfig,
    pub history: Option<HistoryWriter>,
}

/// The bundle being filled, as the schedule sees it.
#[derive(Clone, Copy)]
struct OpenBundle {
    first_intended: Instant,
    last_intended: Instant,
    count: usize,
}

/// A worker at work.
struct Engine {
    worker: Worker,
    port: Port,
    ledger: Ledger,
    keys: Keys,
    random: Random,
    /// The client whose bundle is being filled.
    current: usize,
    open: Option<OpenBundle>,
    next_tick: Instant,
    linger_ns: u64,
    next_number: u64,
    put_share: u64,
    all_parts: u64,
}

impl Worker {
    /// Runs to the end and reports it; the thread's body.
    pub fn run(self) {
        let (thread, reports) = (self.thread, self.reports.clone());
        let report = match Engine::new(self).and_then(Engine::run) {
            Ok(finished) => finished,
            Err(error) => Report::Failed(format!("{error:#}")),
        };
        // The coordinator may have given up already.
        let _ = reports.send((thread, report));
    }
}

impl Engine {
    fn new(mut worker: Worker) -> anyhow::Result<Engine> {
        let identities: Vec<_> = worker
            .clients
            .iter()
            .map(|client| *client.identity())
            .collect();
        let port = Port::open(&worker.port, &identities)?;
        let plan = Arc::clone(&worker.plan);
        let seed = plan
            .seed
            .wrapping_add((worker.thread as u64).wrapping_mul(0x9e37_79b9));
        let ledger = Ledger {
            operations: Operations::new(plan.in_flight_per_thread),
            interval: Box::new(Interval::new()),
            measured: Box::new(Interval::new()),
            window: (u64::MAX, u64::MAX),
            values: Values::new(plan.value_bytes, plan.seed),
            history: worker.history.take(),
            history_failed: false,
            first_client: worker.first_client,
        };
        Ok(Engine {
            port,
            keys: Keys::new(plan.keys, plan.key_distribution),
            random: Random::new(seed),
            current: 0,
            open: None,
            next_tick: Instant(0),
            linger_ns: plan.linger_ns,
            // Numbers of different threads never meet: values stay unique.
            next_number: (worker.thread as u64) << 48,
            put_share: u64::from(plan.ratio.puts),
            all_parts: u64::from(plan.ratio.puts) + u64::from(plan.ratio.gets),
            ledger,
            worker,
        })
    }

    fn report(&self, report: Report) -> anyhow::Result<()> {
        self.worker
            .reports
            .send((self.worker.thread, report))
            .map_err(|_| anyhow::anyhow!("the coordinator has gone"))
    }

    fn run(mut self) -> anyhow::Result<Report> {
        self.connect()?;
        self.report(Report::Ready)?;
        if self.worker.plan.preload {
            self.preload()?;
            self.report(Report::Preloaded)?;
        }
        let Some(start) = self.wait_for_start()? else {
            anyhow::bail!("stopped before the start");
        };
        let outside = platform::tripwire::enter(LOAD_STAGE);
        let loaded = self.load(start);
        platform::tripwire::enter(outside);
        loaded?;
        if let Some(history) = &mut self.ledger.history {
            self.ledger.history_failed |= history.flush().is_err();
        }
        anyhow::ensure!(
            !self.ledger.history_failed,
            "the history could not be written"
        );
        Ok(Report::Finished {
            measured: self.ledger.measured,
            backend: self.port.backend_name(),
        })
    }

    /// Takes whatever has been received and lets it act.
    fn receive(&mut self, now: Instant) -> usize {
        let (clients, ledger) = (&mut self.worker.clients, &mut self.ledger);
        self.port.receive(|client, datagram, port| {
            if let Some(client) = clients.get_mut(client) {
                let epoch = client.committee().epoch();
                client.receive(now, datagram, &mut Effects { now, ledger, port });
                if client.committee().epoch() != epoch {
                    let members = client.committee().members();
                    port.set_addresses(members.iter().map(|member| member.address));
                }
            }
        })
    }

    /// Looks at all timers, at most once a [`TICK_NS`].
    fn tick(&mut self, now: Instant) {
        if now < self.next_tick {
            return;
        }
        self.next_tick = now.after_ns(TICK_NS);
        let (ledger, port) = (&mut self.ledger, &mut self.port);
        for client in &mut self.worker.clients {
            if client.wake_at().is_some_and(|at| at <= now) {
                client.tick(now, &mut Effects { now, ledger, port });
            }
        }
    }

    /// Sends what is queued, takes what has come, looks at the timers. Rests until `until` at the
    /// latest when there is nothing to do; `progress` says that there was. True: something came.
    fn turn(&mut self, progress: bool, until: Instant) -> anyhow::Result<bool> {
        let due = until.min(self.next_tick);
        let due_in_ns = due.since_ns(plan::now());
        self.port.turn(progress, due_in_ns)?;
        let now = plan::now();
        let received = self.receive(now);
        self.tick(now);
        Ok(received > 0)
    }

    /// Opens a session for every client.
    fn connect(&mut self) -> anyhow::Result<()> {
        let deadline = plan::now().after_ns(self.worker.plan.connect_timeout_ns);
        while !self.worker.clients.iter().all(Client::is_ready) {
            self.turn(false, Instant(u64::MAX))?;
            if plan::now() >= deadline {
                let ready = self.worker.clients.iter().filter(|c| c.is_ready()).count();
                let links = self.worker.clients.iter().map(Client::links_up).max();
                anyhow::bail!(
                    "no quorum: {ready} of {} clients have a session, links with {} replicas stand; \
                     are the nodes running, and is this their committee?",
                    self.worker.clients.len(),
                    links.unwrap_or(0)
                );
            }
            anyhow::ensure!(!self.worker.control.stopped(), "stopped");
        }
        Ok(())
    }

    /// Writes this thread's part of the keys, in a closed loop.
    fn preload(&mut self) -> anyhow::Result<()> {
        let (threads, keys) = (self.worker.plan.threads as u64, self.worker.plan.keys);
        let mut next = self.worker.thread as u64;
        let mut last_progress = (plan::now(), usize::MAX);
        loop {
            let now = plan::now();
            let room = self.worker.plan.preload_in_flight;
            while next < keys && self.ledger.operations.in_flight() < room {
                if !self.submit(now, now, true, next) {
                    break;
                }
                next += threads;
            }
            if next >= keys {
                self.close(now);
                if self.ledger.operations.in_flight() == 0 {
                    break;
                }
            }
            self.turn(false, now.after_ns(TICK_NS))?;
            let in_flight = self.ledger.operations.in_flight();
            if in_flight != last_progress.1 {
                last_progress = (now, in_flight);
            }
            anyhow::ensure!(
                now.since_ns(last_progress.0) < self.worker.plan.connect_timeout_ns,
                "writing the keys made no progress: no quorum answers"
            );
            anyhow::ensure!(!self.worker.control.stopped(), "stopped");
        }
        let counts = self.ledger.interval.counts;
        anyhow::ensure!(
            counts.timeouts + counts.rejected == 0,
            "{} of the keys could not be written before the load",
            counts.timeouts + counts.rejected
        );
        self.ledger.interval.clear();
        self.ledger.measured.clear();
        Ok(())
    }

    fn wait_for_start(&mut self) -> anyhow::Result<Option<Instant>> {
        loop {
            if let Some(start) = self.worker.control.start() {
                return Ok(Some(start));
            }
            if self.worker.control.stopped() {
                return Ok(None);
            }
            let now = plan::now();
            self.turn(false, now.after_ns(TICK_NS))?;
        }
    }

    fn load(&mut self, start: Instant) -> anyhow::Result<()> {
        let plan = Arc::clone(&self.worker.plan);
        let mut end_ns = plan.warmup_ns + plan.duration_ns;
        self.ledger.window = (start.0 + plan.warmup_ns, start.0 + end_ns);
        let mut schedule = Schedule::new(
            plan.arrival,
            plan.rate_tps,
            self.worker.thread,
            plan.threads,
            self.random.word(),
        );
        let mut next_interval = 1;
        let mut before: Option<Counts> = None;
        let mut rotated = self.client_counts();
        while plan::now() < start {
            self.turn(false, start)?;
        }
        loop {
            let now = plan::now();
            let elapsed_ns = now.since_ns(start);
            let sooner_ns = self.worker.control.end_ns();
            if sooner_ns < end_ns {
                end_ns = sooner_ns;
                self.ledger.window.1 = start.0 + end_ns;
            }
            let end = start.after_ns(end_ns);
            if before.is_none() && elapsed_ns >= plan.warmup_ns {
                before = Some(self.client_counts());
            }
            let loading = elapsed_ns < end_ns;
            let mut progress = false;
            if !plan.saturate {
                progress = self.arrivals(now, start, elapsed_ns.min(end_ns - 1), &mut schedule);
            } else if loading {
                progress = self.fill();
            }
            if self.lingered_by(now) || (!loading && self.open.is_some()) {
                self.close(now);
                progress = true;
            }
            if elapsed_ns >= next_interval * INTERVAL_NS {
                self.rotate(next_interval - 1, &mut rotated)?;
                next_interval = elapsed_ns / INTERVAL_NS + 1;
            }
            if !loading && self.ledger.operations.in_flight() == 0 {
                break;
            }
            let drain_end = end.after_ns(plan.timeout_ns + 1_000_000_000);
            if now >= drain_end || self.worker.control.stopped() {
                break;
            }
            let until = match loading && !plan.saturate {
                true => self.next_close(start, &schedule).min(end),
                false => end,
            };
            self.turn(progress, until)?;
        }
        self.rotate(next_interval - 1, &mut rotated)?;
        let before = before.unwrap_or_default();
        let after = self.client_counts();
        let counts = &mut self.ledger.measured.counts;
        counts.wrong_replies = after.wrong_replies - before.wrong_replies;
        counts.retransmissions = after.retransmissions - before.retransmissions;
        counts.busy = after.busy - before.busy;
        self.ledger.give_up_rest();
        Ok(())
    }

    /// Whether the open bundle should have left by `at`.
    fn lingered_by(&self, at: Instant) -> bool {
        self.open
            .is_some_and(|open| at >= open.first_intended.after_ns(self.linger_ns))
    }

    /// When the next bundle will be full or has lingered, if all goes by the schedule.
    fn next_close(&self, start: Instant, schedule: &Schedule) -> Instant {
        let filled = self.open.map_or(0, |open| open.count);
        let missing = self.worker.plan.bundle_max - filled;
        let full = start.after_ns(schedule.ahead_ns(missing.max(1) - 1));
        let first = match self.open {
            Some(open) => open.first_intended,
            None => start.after_ns(schedule.peek_ns()),
        };
        full.min(first.after_ns(self.linger_ns))
    }

    /// Hands over what the schedule says should have left by now; whether there was anything.
    fn arrivals(
        &mut self,
        now: Instant,
        start: Instant,
        elapsed_ns: u64,
        schedule: &mut Schedule,
    ) -> bool {
        for taken in 0..ARRIVALS_PER_TURN_MAX {
            if schedule.peek_ns() > elapsed_ns {
                return taken > 0;
            }
            let intended = start.after_ns(schedule.take_ns());
            // Late as we may be, the bundles are those that a punctual generator would make.
            if self.lingered_by(intended) {
                self.close(now);
            }
            let is_put = self.put_share == self.all_parts
                || self.random.below(self.all_parts) < self.put_share;
            let key = self.keys.draw(&mut self.random);
            let measured = self.ledger.in_window(intended.0);
            self.ledger.interval.counts.offered += 1;
            self.ledger.measured.counts.offered += u64::from(measured);
            if !self.submit(now, intended, is_put, key) {
                self.ledger.interval.counts.dropped += 1;
                self.ledger.measured.counts.dropped += u64::from(measured);
            }
        }
        true
    }

    /// Closed loop: whole bundles, until as many are outstanding as allowed. Whether any left.
    fn fill(&mut self) -> bool {
        let before = self.ledger.operations.in_flight();
        let bundle = self.worker.plan.bundle_max;
        while self.ledger.operations.in_flight() + bundle <= self.worker.plan.in_flight_per_thread {
            let now = plan::now();
            for _ in 0..bundle {
                let is_put = self.put_share == self.all_parts
                    || self.random.below(self.all_parts) < self.put_share;
                let key = self.keys.draw(&mut self.random);
                if !self.submit(now, now, is_put, key) {
                    self.close(now);
                    return false;
                }
                let measured = self.ledger.in_window(now.0);
                self.ledger.interval.counts.offered += 1;
                self.ledger.measured.counts.offered += u64::from(measured);
            }
        }
        self.ledger.operations.in_flight() > before
    }

    /// Gives one operation to the client whose bundle is open, or to the next one with room.
    /// False: nobody has room.
    fn submit(&mut self, now: Instant, intended: Instant, is_put: bool, key_index: u64) -> bool {
        if !self.ledger.operations.has_room() {
            return false;
        }
        if !self.worker.clients[self.current].has_room() {
            self.close(now);
            let count = self.worker.clients.len();
            let free = (0..count)
                .map(|step| (self.current + step) % count)
                .find(|&index| self.worker.clients[index].has_room());
            match free {
                Some(index) => self.current = index,
                None => return false,
            }
        }
        // The last of a bundle has it signed and sent: earlier ones of this turn took their time.
        let filled = self.open.map_or(0, |open| open.count);
        let now = if filled + 1 >= self.worker.plan.bundle_max {
            plan::now()
        } else {
            now
        };
        let number = self.next_number;
        self.next_number += 1;
        let measured = self.ledger.in_window(intended.0);
        let record = InFlight {
            intended_ns: intended.0,
            measured,
            is_put,
            key: key_index,
            number,
            client: self.current as u32,
        };
        let Some(tag) = self.ledger.operations.insert(record) else {
            return false;
        };
        let key = key(key_index);
        let (clients, port) = (&mut self.worker.clients, &mut self.port);
        let client = &mut clients[self.current];
        // The value is copied into the bundle before the ledger is needed again.
        let mut sent = Sent {
            port,
            completions: 0,
        };
        let submitted = if is_put {
            let value = self.ledger.values.value(number);
            let operation = Operation::Put { key: &key, value };
            client.submit(now, &operation, tag, &mut sent)
        } else {
            client.submit(now, &Operation::Get { key: &key }, tag, &mut sent)
        };
        assert_eq!(sent.completions, 0, "a submission completes nothing");
        if submitted.is_err() {
            self.ledger.operations.remove(tag);
            return false;
        }
        let open = self.open.get_or_insert(OpenBundle {
            first_intended: intended,
            last_intended: intended,
            count: 0,
        });
        open.last_intended = intended;
        open.count += 1;
        if client.open_operations() == 0 {
            self.closed(now, intended);
        }
        true
    }

    /// Closes the open bundle before it is full.
    fn close(&mut self, now: Instant) {
        let Some(open) = self.open else {
            return;
        };
        let (clients, port) = (&mut self.worker.clients, &mut self.port);
        let ledger = &mut self.ledger;
        clients[self.current].flush(now, &mut Effects { now, ledger, port });
        let lingered = open.first_intended.after_ns(self.linger_ns);
        self.closed(now, lingered.max(open.last_intended).min(now));
    }

    /// A bundle that was due to leave at `due` has left: on to the next client.
    fn closed(&mut self, now: Instant, due: Instant) {
        let Some(open) = self.open.take() else {
            return;
        };
        let (lag_ns, count) = (now.since_ns(due), open.count as u64);
        let measured = self.ledger.in_window(open.first_intended.0);
        for figures in [
            Some(&mut self.ledger.interval),
            measured.then_some(&mut self.ledger.measured),
        ]
        .into_iter()
        .flatten()
        {
            record_many(&mut figures.lag, lag_ns, count);
            figures.counts.bundles += 1;
            figures.counts.bundled += count;
        }
        self.current = (self.current + 1) % self.worker.clients.len();
    }

    fn client_counts(&self) -> Counts {
        let mut counts = Counts::default();
        for client in &self.worker.clients {
            let counters = client.counters();
            counts.wrong_replies += counters.wrong_replies;
            counts.retransmissions += counters.retransmissions;
            counts.busy += counters.busy;
        }
        counts
    }

    /// Sends the interval's figures and goes on with empty ones; when none have come back the
    /// figures simply grow into the next interval.
    fn rotate(&mut self, index: u64, rotated: &mut Counts) -> anyhow::Result<()> {
        let Ok(empty) = self.worker.empties.try_recv() else {
            return Ok(());
        };
        let counts = self.client_counts();
        let mine = &mut self.ledger.interval.counts;
        mine.wrong_replies = counts.wrong_replies - rotated.wrong_replies;
        mine.retransmissions = counts.retransmissions - rotated.retransmissions;
        mine.busy = counts.busy - rotated.busy;
        *rotated = counts;
        let figures = std::mem::replace(&mut self.ledger.interval, empty);
        self.report(Report::Interval { index, figures })
    }
}

/// Effects of a submission: it can send a bundle, never complete one.
struct Sent<'a> {
    port: &'a mut Port,
    completions: usize,
}

impl Outbox for Sent<'_> {
    fn send(&mut self, to: NodeId, datagram: &[u8]) {
        self.port.send(to, datagram);
    }

    fn complete(&mut self, _: Completion<'_>) {
        self.completions += 1;
    }
}
