//! Space-time diagrams: a lifeline for each replica and client, an arrow for each message.
//!
//! One self-contained SVG of bounded size, light or dark as the reader prefers. Every arrow and mark
//! tells in a tooltip what it is.

use std::collections::BTreeMap;
use std::fmt::Write;

use wire::header::Kind;

use crate::network::End;
use crate::record::{Mark, Message, Record, What, Window};

/// Messages drawn at most; reports of state are left out first.
const MESSAGES_MAX: usize = 1500;
/// Marks drawn at most.
const MARKS_MAX: usize = 1500;
/// So many messages carry their slot in writing.
const LABELLED_MAX: usize = 90;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 92.0;
const ROW: f64 = 96.0;
const WIDTH: f64 = 1600.0;

const STYLE: &str = "
svg { --ground: #ffffff; --ink: #1f2328; --faint: #8a929c; --line: #b7bec8; --band: #e8ebf0;
  --propose: #0b62d6; --vote: #1a7f37; --decided: #7a3fc4; --repair: #b35900; --status: #a9b1bb;
  --client: #0a7d8c; --reply: #b8286f; --views: #c62f26; --state: #7d6200; --bad: #d1242f; }
@media (prefers-color-scheme: dark) {
  svg { --ground: #0f1318; --ink: #e3e8ee; --faint: #8b95a1; --line: #4a5461; --band: #232b35;
    --propose: #6cb0ff; --vote: #52c76c; --decided: #c396ff; --repair: #f2a04f; --status: #5d6774;
    --client: #4cc9d8; --reply: #ff86bd; --views: #ff7a70; --state: #dbb62c; --bad: #ff5c57; } }
text { font: 12px ui-sans-serif, system-ui, sans-serif; fill: var(--ink); }
.title { font-size: 15px; font-weight: 600; } .faint { fill: var(--faint); }
.small { font-size: 10px; } .halo { paint-order: stroke; stroke: var(--ground); stroke-width: 3px; }
.life { stroke: var(--line); stroke-width: 1.5; } .grid { stroke: var(--band); stroke-width: 1; }
.down { stroke: var(--ground); stroke-width: 4; }
.dashed { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 3 5; }
.paused { stroke: var(--faint); stroke-width: 7; opacity: .45; }
.m { fill: none; stroke-width: 1.3; } .lost { stroke-dasharray: 5 4; opacity: .7; }
.thin { stroke-width: .8; opacity: .6; }
.propose { stroke: var(--propose); } .vote { stroke: var(--vote); }
.decided { stroke: var(--decided); } .repair { stroke: var(--repair); }
.status { stroke: var(--status); } .client { stroke: var(--client); }
.reply { stroke: var(--reply); } .views { stroke: var(--views); } .state { stroke: var(--state); }
.cross { stroke: var(--bad); stroke-width: 2; fill: none; }
.up { fill: var(--vote); } .box { fill: var(--ground); stroke: var(--ink); stroke-width: 1.2; }
.dot { fill: var(--decided); } .enter { stroke: var(--views); stroke-width: 3; }
.ring { fill: var(--ground); stroke: var(--reply); stroke-width: 1.5; }
";

/// The colours, with what they stand for.
const GROUPS: [(&str, &str); 9] = [
    ("propose", "PROPOSE"),
    ("vote", "VOTE, COMMIT"),
    ("decided", "DECIDED"),
    ("repair", "FETCH, BLOCK, FORWARD"),
    ("status", "STATUS"),
    ("client", "client to replica"),
    ("reply", "replica to client"),
    ("views", "view change"),
    ("state", "checkpoint, state"),
];

fn group(kind: Kind) -> &'static str {
    match kind {
        Kind::Propose => "propose",
        Kind::Vote | Kind::Commit => "vote",
        Kind::Decided => "decided",
        Kind::FetchBlock | Kind::Block | Kind::FetchRange | Kind::Forward => "repair",
        Kind::Status => "status",
        Kind::Hello | Kind::Open | Kind::Request | Kind::Read => "client",
        Kind::Cookie | Kind::Welcome | Kind::Reply | Kind::Busy | Kind::ReadReply => "reply",
        Kind::Checkpoint | Kind::CheckpointCertificate | Kind::FetchState | Kind::Chunk => "state",
        _ => "views",
    }
}

/// What the picture is of.
#[derive(Clone, Debug)]
pub struct Frame {
    pub title: String,
    pub nodes: usize,
    pub ends: usize,
    /// Replicas that lie.
    pub liars: Vec<usize>,
    pub window: Window,
}

/// A window worth looking at: around the first decision.
pub fn window_of(record: &Record) -> Window {
    let decisions = record.marks.iter();
    let mut decisions = decisions.filter(|mark| matches!(mark.what, What::Decides(_)));
    let at_ns = decisions.next().map_or(1_000_000_000, |mark| mark.at_ns);
    Window {
        from_ns: at_ns.saturating_sub(1_500_000),
        until_ns: at_ns + 2_500_000,
    }
}

struct Picture<'a> {
    frame: &'a Frame,
    svg: String,
}

/// Draws what of a record lies in the frame's window.
pub fn draw(record: &Record, frame: &Frame) -> String {
    let mut frame = frame.clone();
    frame.window.until_ns = frame.window.until_ns.min(record.end_ns() + 100_000);
    frame.window.from_ns = frame.window.from_ns.min(frame.window.until_ns);
    let mut picture = Picture {
        frame: &frame,
        svg: String::new(),
    };
    let left_out = picture.draw(record) + record.left_out;
    let height = TOP + ROW * (frame.ends as f64 - 1.0) + 150.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         width=\"{WIDTH}\" height=\"{height}\" role=\"img\">\n<style>{STYLE}</style>\n\
         <clipPath id=\"window\"><rect x=\"{LEFT}\" width=\"{}\" height=\"{height}\"/></clipPath>\n\
         <rect width=\"{WIDTH}\" height=\"{height}\" style=\"fill: var(--ground)\"/>\n",
        WIDTH - LEFT - RIGHT
    );
    let title = escape(&frame.title);
    let _ = write!(
        out,
        "<text class=\"title\" x=\"16\" y=\"28\">{title}</text>\n{}",
        picture.svg
    );
    out += &picture.legend(height, left_out);
    out += "</svg>\n";
    out
}

fn escape(text: &str) -> String {
    let text = text.replace('&', "&amp;").replace('<', "&lt;");
    text.replace('"', "&quot;")
}

impl Picture<'_> {
    fn x(&self, at_ns: u64) -> f64 {
        let Window { from_ns, until_ns } = self.frame.window;
        let span = (until_ns - from_ns).max(1) as f64;
        let at = at_ns as f64 - from_ns as f64;
        LEFT + at / span * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, end: End) -> f64 {
        TOP + ROW * end.0 as f64
    }

    fn name(&self, end: End) -> String {
        match end.0.checked_sub(self.frame.nodes) {
            None if self.frame.liars.contains(&end.0) => format!("{} (liar)", end.0),
            None => format!("replica {}", end.0),
            Some(user) => format!("client {user}"),
        }
    }

    fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = (from, to);
        let _ = writeln!(
            self.svg,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    fn text(&mut self, class: &str, x: f64, y: f64, anchor: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.svg,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }

    /// Returns how many messages and marks there was no room for.
    fn draw(&mut self, record: &Record) -> u64 {
        self.axis();
        self.lifelines(record);
        let window = self.frame.window;
        let inside = |message: &&Message| {
            window.has(message.sent_ns) || message.arrives_ns.is_some_and(|at| window.has(at))
        };
        let mut messages = record.messages.iter().filter(inside).collect::<Vec<_>>();
        let count = messages.len();
        if count > MESSAGES_MAX {
            messages.retain(|message| message.kind != Kind::Status);
            messages.truncate(MESSAGES_MAX);
        }
        // Reports of state lie below, so that they hide nothing.
        messages.sort_by_key(|message| message.kind != Kind::Status);
        let labelled = messages.iter().filter(|m| m.kind != Kind::Status).count() <= LABELLED_MAX;
        self.svg += "<g clip-path=\"url(#window)\">\n";
        for message in &messages {
            self.message(message, labelled);
        }
        self.svg += "</g>\n";
        let marks = record.marks.iter().filter(|mark| window.has(mark.at_ns));
        let marks = marks.collect::<Vec<_>>();
        let drawn = marks.len().min(MARKS_MAX);
        let mut labels = BTreeMap::new();
        for mark in &marks[..drawn] {
            self.mark(mark, &mut labels);
        }
        (count - messages.len() + marks.len() - drawn) as u64
    }

    fn axis(&mut self) {
        let Window { from_ns, until_ns } = self.frame.window;
        let span = (until_ns - from_ns).max(1);
        let steps = (0..10).flat_map(|power| [1, 2, 5].map(|step| step * 10u64.pow(power)));
        let step = steps
            .into_iter()
            .find(|step| span / step <= 12)
            .unwrap_or(span);
        let bottom = self.y(End(self.frame.ends - 1)) + 26.0;
        let mut at_ns = from_ns.div_ceil(step) * step;
        while at_ns <= until_ns {
            let x = self.x(at_ns);
            self.line("grid", (x, TOP - 26.0), (x, bottom));
            let digits = if step < 1_000_000 { 3 } else { 0 };
            let text = format!("{:.digits$} ms", at_ns as f64 / 1e6);
            let anchor = if x > WIDTH - 60.0 { "end" } else { "middle" };
            self.text("faint", x.min(WIDTH - 4.0), TOP - 34.0, anchor, &text);
            at_ns += step;
        }
    }

    /// Lines, with gaps where a process was down and bands where it was paused.
    fn lifelines(&mut self, record: &Record) {
        let window = self.frame.window;
        for end in (0..self.frame.ends).map(End) {
            let y = self.y(end);
            let name = self.name(end);
            self.text("", 16.0, y + 4.0, "start", &name);
            self.line("life", (LEFT, y), (WIDTH - RIGHT, y));
            for (from, to, class) in [
                (What::Crashes, What::Starts, "dashed"),
                (What::Pauses, What::Resumes, "paused"),
            ] {
                let mut since = None;
                let marks = record.marks.iter().filter(|mark| mark.end == end);
                let ends = marks.map(|mark| (mark.at_ns, mark.what));
                for (at_ns, what) in ends.chain([(window.until_ns, to)]) {
                    if what == from {
                        since = Some(at_ns);
                    } else if what == to
                        && let Some(from_ns) = since.take()
                        && at_ns >= window.from_ns
                        && from_ns <= window.until_ns
                    {
                        let begin = self.x(from_ns.max(window.from_ns));
                        let end = self.x(at_ns.min(window.until_ns));
                        let ends = ((begin, y), (end, y));
                        if class == "dashed" {
                            self.line("down", ends.0, ends.1);
                        }
                        self.line(class, ends.0, ends.1);
                    }
                }
            }
        }
    }

    fn message(&mut self, message: &Message, labelled: bool) {
        let Message {
            from,
            to,
            kind,
            view,
            slot,
            sent_ns,
            arrives_ns,
            spoiled,
        } = *message;
        let class = group(kind);
        let (x1, y1) = (self.x(sent_ns), self.y(from));
        // What is lost goes half of the way.
        let whole_ns = 100_000;
        let arrives = arrives_ns.unwrap_or(sent_ns + whole_ns);
        let (mut x2, mut y2) = (self.x(arrives), self.y(to));
        let mut classes = format!("m {class}");
        if arrives_ns.is_none() {
            (x2, y2) = (x1.midpoint(x2), y1.midpoint(y2));
            classes += " lost";
        }
        if kind == Kind::Status {
            classes += " thin";
        }
        let fate = match (arrives_ns, spoiled) {
            (None, _) => "lost".to_owned(),
            (Some(at), true) => format!("arrives at {:.3} ms with flipped bits", at as f64 / 1e6),
            (Some(at), false) => format!("arrives at {:.3} ms", at as f64 / 1e6),
        };
        let (one, other) = (self.name(from), self.name(to));
        let sent = sent_ns as f64 / 1e6;
        let _ = write!(
            self.svg,
            "<g><title>{kind:?} view {view} slot {slot}, {one} to {other}, sent at {sent:.3} ms, \
             {fate}</title><path class=\"{classes}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}"
        );
        // The head, along the line.
        let (dx, dy) = (x2 - x1, y2 - y1);
        let length = dx.hypot(dy).max(1e-6);
        let (ux, uy) = (dx / length, dy / length);
        let (bx, by) = (x2 - 7.0 * ux, y2 - 7.0 * uy);
        if arrives_ns.is_some() {
            let _ = write!(
                self.svg,
                "M{:.1} {:.1}L{x2:.1} {y2:.1}L{:.1} {:.1}",
                bx - 3.0 * uy,
                by + 3.0 * ux,
                bx + 3.0 * uy,
                by - 3.0 * ux
            );
        }
        self.svg += "\"/>";
        if arrives_ns.is_none() || spoiled {
            let _ = write!(
                self.svg,
                "<path class=\"cross\" d=\"M{:.1} {:.1}l6 6m-6 0l6 -6\"/>",
                x2 - 3.0,
                y2 - 3.0
            );
        }
        self.svg += "</g>\n";
        if labelled && slot.0 > 0 && matches!(class, "propose" | "repair" | "views") {
            // Near the sender, and further along for each further receiver.
            let part = 0.3 + 0.12 * (to.0 % 4) as f64;
            let text = format!("{slot}");
            let (x, y) = (x1 + dx * part + 4.0, y1 + dy * part);
            self.text("small halo", x, y, "start", &text);
        }
    }

    fn mark(&mut self, mark: &Mark, labels: &mut BTreeMap<(usize, bool), f64>) {
        let (x, y) = (self.x(mark.at_ns), self.y(mark.end));
        let name = self.name(mark.end);
        let at = mark.at_ns as f64 / 1e6;
        let (what, shape, label, above) = match mark.what {
            What::Starts => {
                let shape = format!(
                    "<path class=\"up\" d=\"M{:.1} {:.1}l11 6l-11 6z\"/>",
                    x - 3.0,
                    y - 6.0
                );
                ("starts".to_owned(), shape, None, true)
            }
            What::Crashes => {
                let (x, y) = (x - 6.0, y - 6.0);
                let shape =
                    format!("<path class=\"cross\" d=\"M{x:.1} {y:.1}l12 12m-12 0l12 -12\"/>");
                ("crashes".to_owned(), shape, None, true)
            }
            What::Pauses | What::Resumes => return,
            What::Durable(slot) => {
                let (x, y) = (x - 3.5, y - 3.5);
                let shape = format!(
                    "<rect class=\"box\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"7\" height=\"7\"/>"
                );
                (
                    format!("has slot {slot} on its disk"),
                    shape,
                    Some(slot),
                    false,
                )
            }
            What::Decides(slot) => {
                let shape = format!("<circle class=\"dot\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"5\"/>");
                (format!("decides slot {slot}"), shape, Some(slot), true)
            }
            What::Answered(slot) => {
                let shape = format!("<circle class=\"ring\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
                (
                    format!("is answered from slot {slot}"),
                    shape,
                    Some(slot),
                    true,
                )
            }
            What::Enters(view) => {
                let (top, bottom) = (y - 14.0, y + 14.0);
                let shape = format!(
                    "<line class=\"enter\" x1=\"{x:.1}\" y1=\"{top:.1}\" x2=\"{x:.1}\" y2=\"{bottom:.1}\"/>\
                     <text class=\"small halo\" x=\"{:.1}\" y=\"{:.1}\">view {view}</text>",
                    x + 4.0,
                    y - 12.0
                );
                (format!("enters view {view}"), shape, None, true)
            }
        };
        let _ = writeln!(
            self.svg,
            "<g><title>{name} {what} at {at:.3} ms</title>{shape}</g>"
        );
        // A label for each mark as far as they do not touch.
        let last = labels.entry((mark.end.0, above)).or_insert(f64::MIN);
        if let Some(slot) = label
            && x - *last > 24.0
        {
            *last = x;
            let y = if above { y - 9.0 } else { y + 17.0 };
            self.text("small halo", x, y, "middle", &slot.to_string());
        }
    }

    fn legend(&mut self, height: f64, left_out: u64) -> String {
        self.svg.clear();
        let y = height - 76.0;
        let mut x = 16.0;
        for (class, text) in GROUPS {
            self.line(&format!("m {class}"), (x, y), (x + 26.0, y));
            self.text("", x + 32.0, y + 4.0, "start", text);
            x += 52.0 + 7.4 * text.len() as f64;
        }
        let y = height - 46.0;
        let mut x = 16.0;
        let marks = [
            (
                "<rect class=\"box\" x=\"-3.5\" y=\"-3.5\" width=\"7\" height=\"7\"/>",
                "durable up to slot",
            ),
            ("<circle class=\"dot\" r=\"5\"/>", "decided up to slot"),
            (
                "<circle class=\"ring\" r=\"4\"/>",
                "client answered from slot",
            ),
            (
                "<path class=\"cross\" d=\"M-6 -6l12 12m-12 0l12 -12\"/>",
                "crash",
            ),
            ("<path class=\"up\" d=\"M-4 -6l11 6l-11 6z\"/>", "start"),
            ("<line class=\"paused\" x1=\"-8\" x2=\"8\"/>", "paused"),
            ("<line class=\"enter\" y1=\"-8\" y2=\"8\"/>", "enters view"),
            (
                "<path class=\"cross\" d=\"M-3 -3l6 6m-6 0l6 -6\"/>",
                "lost, or bits flipped",
            ),
        ];
        for (shape, text) in marks {
            let _ = writeln!(
                self.svg,
                "<g transform=\"translate({:.1} {y:.1})\">{shape}</g>",
                x + 10.0
            );
            self.text("", x + 26.0, y + 4.0, "start", text);
            x += 50.0 + 7.0 * text.len() as f64;
        }
        if left_out > 0 {
            let text = format!(
                "{left_out} messages or marks are not drawn; choose a smaller window with --from and --to"
            );
            self.text("faint", 16.0, height - 18.0, "start", &text);
        }
        std::mem::take(&mut self.svg)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Options, Plan};
    use crate::world;

    fn picture(seed: u64, window: Option<Window>) -> String {
        let plan = Plan::new(seed, Options::default());
        let (_, record) = world::run_recorded(&plan, Window::ALL);
        let frame = Frame {
            title: "a & b < c".to_owned(),
            nodes: 4,
            ends: 4 + plan.users.len(),
            liars: vec![3],
            window: window.unwrap_or_else(|| window_of(&record)),
        };
        draw(&record, &frame)
    }

    #[test]
    fn a_picture_is_whole_and_bounded() {
        let svg = picture(7, None);
        assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
        assert!(svg.contains("a &amp; b &lt; c") && svg.contains("decides slot 1"));
        assert!(svg.contains("PROPOSE") && svg.contains("prefers-color-scheme: dark"));
        assert!(svg.contains("3 (liar)") && !svg.contains("NaN"));
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
        let all = picture(7, Some(Window::ALL));
        assert!(all.len() < 2_000_000, "{} bytes", all.len());
        assert!(all.contains("are not drawn"));
    }

    #[test]
    fn pictures_repeat() {
        assert_eq!(picture(3, None), picture(3, None));
    }
}
