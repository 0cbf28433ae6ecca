//! Inline SVG charts: no script, no font, no network; colours come from the page's variables.

use std::fmt::Write;

const WIDTH: f64 = 760.0;
const HEIGHT: f64 = 260.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 36.0;
const TOP: f64 = 14.0;
const BOTTOM: f64 = 40.0;

/// One line of a chart.
pub struct Series<'a> {
    pub name: &'a str,
    /// `(x, y)` in the units of the axes.
    pub points: Vec<(f64, f64)>,
    /// Name of a colour variable of the page, such as `--accent`.
    pub color: &'a str,
}

/// A tick: where, and what it says.
pub type Tick = (f64, String);

/// Round steps over `0..=top`.
pub fn linear_ticks(top: f64, label: impl Fn(f64) -> String) -> Vec<Tick> {
    if top <= 0.0 || !top.is_finite() {
        return vec![(0.0, label(0.0))];
    }
    let raw = top / 5.0;
    let magnitude = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= raw)
        .unwrap_or(raw);
    let count = (top / step).ceil() as usize;
    (0..=count)
        .map(|index| {
            let value = index as f64 * step;
            (value, label(value))
        })
        .collect()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Draws lines over the box that the ticks span. Points beyond it are cut off at its edge.
pub fn lines(
    title: &str,
    x_label: &str,
    x_ticks: &[Tick],
    y_ticks: &[Tick],
    series: &[Series<'_>],
) -> String {
    let span = |ticks: &[Tick]| {
        let low = ticks
            .iter()
            .map(|tick| tick.0)
            .fold(f64::INFINITY, f64::min);
        let high = ticks
            .iter()
            .map(|tick| tick.0)
            .fold(f64::NEG_INFINITY, f64::max);
        if low < high { (low, high) } else { (0.0, 1.0) }
    };
    let ((x_low, x_high), (y_low, y_high)) = (span(x_ticks), span(y_ticks));
    let x_at = |x: f64| {
        let part = ((x - x_low) / (x_high - x_low)).clamp(0.0, 1.0);
        LEFT + part * (WIDTH - LEFT - RIGHT)
    };
    let y_at = |y: f64| {
        let part = ((y - y_low) / (y_high - y_low)).clamp(0.0, 1.0);
        HEIGHT - BOTTOM - part * (HEIGHT - TOP - BOTTOM)
    };
    let mut svg = String::new();
    let _ = write!(
        svg,
        r#"<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{}">"#,
        escape(title)
    );
    for (y, label) in y_ticks {
        let at = y_at(*y);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{LEFT}" x2="{:.1}" y1="{at:.1}" y2="{at:.1}"/><text x="{:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
            WIDTH - RIGHT,
            LEFT - 8.0,
            at + 4.0,
            escape(label)
        );
    }
    for (x, label) in x_ticks {
        let at = x_at(*x);
        let _ = write!(
            svg,
            r#"<line class="grid" x1="{at:.1}" x2="{at:.1}" y1="{TOP}" y2="{:.1}"/><text x="{at:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            HEIGHT - BOTTOM,
            HEIGHT - BOTTOM + 16.0,
            escape(label)
        );
    }
    let _ = write!(
        svg,
        r#"<text class="axis" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
        (LEFT + WIDTH - RIGHT) / 2.0,
        HEIGHT - 6.0,
        escape(x_label)
    );
    for line in series {
        let mut path = String::new();
        for (index, (x, y)) in line.points.iter().enumerate() {
            let command = if index == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{command}{:.1} {:.1}", x_at(*x), y_at(*y));
        }
        let _ = write!(
            svg,
            r#"<path d="{path}" fill="none" stroke="var({})" stroke-width="2" stroke-linejoin="round"><title>{}</title></path>"#,
            line.color,
            escape(line.name)
        );
        if let [(x, y)] = line.points[..] {
            let _ = write!(
                svg,
                r#"<circle cx="{:.1}" cy="{:.1}" r="3" fill="var({})"/>"#,
                x_at(x),
                y_at(y),
                line.color
            );
        }
    }
    svg.push_str("</svg>");
    let mut legend = String::new();
    for line in series {
        let _ = write!(
            legend,
            r#"<span><i style="background:var({})"></i>{}</span>"#,
            line.color,
            escape(line.name)
        );
    }
    format!(
        r#"<figure><figcaption><b>{}</b><span class="legend">{legend}</span></figcaption>{svg}</figure>"#,
        escape(title)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_cover_the_top() {
        let values = |top| -> Vec<f64> {
            linear_ticks(top, |_| String::new())
                .into_iter()
                .map(|tick| tick.0)
                .collect()
        };
        assert_eq!(values(10.0), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(values(0.0), [0.0]);
        let last = *values(123_456.0).last().unwrap();
        assert!(last >= 123_456.0);
    }

    #[test]
    fn charts_escape_their_text_and_survive_odd_points() {
        let chart = lines(
            "a < b",
            "x",
            &linear_ticks(1.0, |v| v.to_string()),
            &[],
            &[Series {
                name: "one",
                points: vec![(5.0, -3.0)],
                color: "--accent",
            }],
        );
        assert!(chart.contains("a &lt; b") && !chart.contains("NaN"));
    }
}
