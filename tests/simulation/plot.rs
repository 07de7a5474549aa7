//! Plots as SVG: no script and no font of their own, legible on light and on dark pages.

use std::fmt::Write as _;

/// One colour for each scheduler on light pages and on dark ones (Okabe, Ito: Color Universal Design, 2008), and how its lines are dashed.
const COLOURS: [(&str, &str, &str); 4] = [
    ("#0072b2", "#56b4e9", "none"),
    ("#d55e00", "#f5a14a", "7 4"),
    ("#008f68", "#3ddba9", "2 4"),
    ("#a8447e", "#e08fbd", "9 3 2 3"),
];
const WIDTH: f64 = 860.0;
const LEFT: f64 = 300.0;
const RIGHT: f64 = 60.0;

struct Svg(String);

impl Svg {
    fn new(height: f64, title: &str, note: &str) -> Self {
        let mut text = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" \
             aria-label=\"{title}\" font-family=\"system-ui, sans-serif\" font-size=\"13\">\n<style>\n\
             .page {{ fill: #ffffff }} .ink {{ fill: #1f2328 }} .soft {{ fill: #59636e }} .grid {{ stroke: #d1d9e0 }}\n"
        );
        for (number, (light, _, _)) in COLOURS.iter().enumerate() {
            let _ = writeln!(text, ".s{number} {{ fill: {light} }} .l{number} {{ stroke: {light} }}");
        }
        text.push_str("@media (prefers-color-scheme: dark) {\n");
        text.push_str(
            ".page { fill: #0d1117 } .ink { fill: #f0f6fc } .soft { fill: #9198a1 } .grid { stroke: #3d444d }\n",
        );
        for (number, (_, dark, _)) in COLOURS.iter().enumerate() {
            let _ = writeln!(text, ".s{number} {{ fill: {dark} }} .l{number} {{ stroke: {dark} }}");
        }
        let _ = writeln!(text, "}}\n</style>\n<rect class=\"page\" width=\"{WIDTH}\" height=\"{height}\" rx=\"6\"/>");
        let mut svg = Self(text);
        svg.text(16.0, 26.0, "ink", "start", title, 16);
        svg.text(16.0, 46.0, "soft", "start", note, 13);
        svg
    }

    fn text(&mut self, x: f64, y: f64, class: &str, anchor: &str, text: &str, size: u32) {
        let text = text.replace('&', "&amp;").replace('<', "&lt;");
        let at = format!("x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" font-size=\"{size}\"");
        let _ = writeln!(self.0, "<text class=\"{class}\" {at}>{text}</text>");
    }

    fn grid(&mut self, x1: f64, y1: f64, x2: f64, y2: f64) {
        let _ = writeln!(self.0, "<path class=\"grid\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>");
    }

    fn legend(&mut self, names: &[&str]) {
        for (number, name) in names.iter().enumerate() {
            let x = 16.0 + number as f64 * 170.0;
            let _ =
                writeln!(self.0, "<rect class=\"s{number}\" x=\"{x}\" y=\"58\" width=\"22\" height=\"10\" rx=\"2\"/>");
            self.text(x + 30.0, 68.0, "ink", "start", name, 13);
        }
    }

    fn end(mut self) -> String {
        self.0.push_str("</svg>\n");
        self.0
    }
}

/// Bars from the left: a group for each row, one bar for each name in it. `most`: where the scale ends.
pub fn bars(title: &str, note: &str, names: &[&str], rows: &[(&str, Vec<f64>)], most: f64) -> String {
    let (bar, gap, top) = (11.0, 14.0, 88.0);
    let group = bar * names.len() as f64 + gap;
    let height = top + group * rows.len() as f64 + 30.0;
    let mut svg = Svg::new(height, title, note);
    svg.legend(names);
    let scale = (WIDTH - LEFT - RIGHT) / most;
    for tick in 0..=4 {
        let value = most * f64::from(tick) / 4.0;
        let x = LEFT + value * scale;
        svg.grid(x, top - 6.0, x, height - 26.0);
        svg.text(x, height - 10.0, "soft", "middle", &short(value), 12);
    }
    for (row, (name, values)) in rows.iter().enumerate() {
        let y = top + group * row as f64;
        svg.text(LEFT - 10.0, y + bar * names.len() as f64 / 2.0 + 4.0, "ink", "end", name, 13);
        for (number, value) in values.iter().enumerate() {
            let (y, width) = (y + bar * number as f64, (value.min(most) * scale).max(1.0));
            let at = format!("x=\"{LEFT}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\"", bar - 1.0);
            let _ = writeln!(svg.0, "<rect class=\"s{number}\" {at}/>");
            svg.text(LEFT + width + 5.0, y + bar - 1.5, "soft", "start", &short(*value), 10);
        }
    }
    svg.end()
}

/// Lines over a horizontal scale that is logarithmic from `from` on, by tens, where `log` is set. Vertically from 0 to `most`.
pub struct Lines<'a> {
    pub title: &'a str,
    pub note: &'a str,
    pub names: &'a [&'a str],
    /// What stands below, and beside.
    pub axes: (&'a str, &'a str),
    /// Points of each line, from left to right.
    pub lines: Vec<Vec<(f64, f64)>>,
    /// The horizontal scale, logarithmic.
    pub from: f64,
    pub to: f64,
    pub most: f64,
}

impl Lines<'_> {
    /// Draws them.
    pub fn draw(&self) -> String {
        let (left, top, height) = (70.0, 92.0, 420.0);
        let bottom = height - 58.0;
        let mut svg = Svg::new(height, self.title, self.note);
        svg.legend(self.names);
        let decades = (self.to / self.from).log10();
        let x = |value: f64| {
            let place = (value.max(self.from) / self.from).log10() / decades;
            left + (WIDTH - left - 30.0) * place.min(1.0)
        };
        let y = |value: f64| bottom - (bottom - top) * value.clamp(0.0, self.most) / self.most;
        for tick in 0..=decades.round() as i32 {
            let value = self.from * 10_f64.powi(tick);
            svg.grid(x(value), top, x(value), bottom);
            svg.text(x(value), bottom + 18.0, "soft", "middle", &short(value), 12);
        }
        for tick in 0..=4 {
            let value = self.most * f64::from(tick) / 4.0;
            svg.grid(left, y(value), WIDTH - 30.0, y(value));
            svg.text(left - 8.0, y(value) + 4.0, "soft", "end", &short(value), 12);
        }
        svg.text((left + WIDTH) / 2.0, height - 14.0, "soft", "middle", self.axes.0, 13);
        svg.text(left - 54.0, top - 8.0, "soft", "start", self.axes.1, 12);
        for (number, points) in self.lines.iter().enumerate() {
            let mut path = String::new();
            for (at, (across, up)) in points.iter().enumerate() {
                let step = if at == 0 { 'M' } else { 'L' };
                let _ = write!(path, "{step}{:.1} {:.1}", x(*across), y(*up));
            }
            let dashes = COLOURS.get(number).map_or("none", |(_, _, dashes)| dashes);
            let style = format!("fill=\"none\" stroke-width=\"2.5\" stroke-dasharray=\"{dashes}\"");
            let _ = writeln!(svg.0, "<path class=\"l{number}\" {style} d=\"{path}\"/>");
        }
        svg.end()
    }
}

/// A number as a reader wants it.
fn short(value: f64) -> String {
    let places = match value.abs() {
        value if value >= 100.0 || value == 0.0 => 0,
        value if value >= 10.0 => 1,
        value if value >= 1.0 => 2,
        _ => 3,
    };
    let text = format!("{value:.places$}");
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}
