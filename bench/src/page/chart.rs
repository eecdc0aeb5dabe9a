//! Line charts as SVG. Colours are classes: the page, or the file they stand in alone, says what they look like in light
//! and dark.

use std::fmt::Write;

use super::escape;

/// One direction of a chart.
pub(super) struct Axis {
    label: &'static str,
    ticks: Vec<(f64, String)>,
    low: f64,
    high: f64,
    is_log: bool,
}

impl Axis {
    /// From zero to a round number.
    pub(super) fn linear(label: &'static str, most: f64, text: impl Fn(f64) -> String) -> Self {
        let step = round_up(most.max(1e-9) / 5.0);
        let count = (most / step).ceil().max(1.0);
        let ticks = (0..=count as usize).map(|it| (it as f64 * step, text(it as f64 * step))).collect();
        Self { label, ticks, low: 0.0, high: count * step, is_log: false }
    }

    /// Whole powers of ten around what there is.
    pub(super) fn powers(label: &'static str, least: f64, most: f64, text: impl Fn(f64) -> String) -> Self {
        let first = least.max(1e-3).log10().floor() as i32;
        let last = (most.max(1e-3).log10().ceil() as i32).max(first + 1);
        let ticks = (first..=last).map(|it| (10f64.powi(it), text(10f64.powi(it)))).collect();
        Self { label, ticks, low: 10f64.powi(first), high: 10f64.powi(last), is_log: true }
    }

    /// Percentiles: every nine takes as much room as the one before it. `most` is the highest that is shown.
    pub(super) fn percentiles(label: &'static str, most: f64) -> Self {
        let last = rarity(most).max(1.0);
        let all =
            [(50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99"), (99.999, "99.999")];
        let ticks =
            all.iter().map(|(it, text)| (rarity(*it), format!("{text}%"))).filter(|it| it.0 <= last + 0.01);
        Self { label, ticks: ticks.collect(), low: 0.0, high: last, is_log: false }
    }

    /// Between 0 and 1.
    fn place(&self, value: f64) -> f64 {
        let scale = |it: f64| if self.is_log { it.max(self.low).log10() } else { it };
        ((scale(value) - scale(self.low)) / (scale(self.high) - scale(self.low))).clamp(0.0, 1.0)
    }
}

/// How many nines a percentile has.
pub(super) fn rarity(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).max(1e-9).log10()
}

/// 1, 2 or 5 with zeros.
fn round_up(value: f64) -> f64 {
    let unit = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|it| it * unit).find(|it| *it >= value * 0.999).unwrap_or(10.0 * unit)
}

/// What is drawn in one colour.
pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(f64, f64)>,
    /// At some x, the least and the most.
    pub(super) band: Vec<(f64, f64, f64)>,
    /// Whether the points were measured one by one and are drawn.
    pub(super) dots: Dots,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dots {
    Shown,
    Hidden,
}

/// A chart, without its legend.
pub(super) struct Chart {
    pub(super) title: String,
    pub(super) x: Axis,
    pub(super) y: Axis,
    pub(super) series: Vec<Series>,
}

const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 320.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 30.0;
const TOP: f64 = 28.0;
const BOTTOM: f64 = 56.0;
/// Of a line of the legend.
const LINE: f64 = 18.0;
/// Classes of colours; then they begin again.
pub(super) const COLOURS: usize = 6;

impl Chart {
    /// Inside a page.
    pub(super) fn svg(&self) -> String {
        let mut svg = format!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&self.title)
        );
        self.draw(&mut svg);
        svg.push_str("</svg>\n");
        svg
    }

    /// A file of its own, with a title, a legend and its colours.
    pub(super) fn file(&self, style: &str) -> String {
        let height = HEIGHT + LINE * self.series.len() as f64 + 34.0;
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"chart\" viewBox=\"0 0 {WIDTH} {height}\" width=\"720\" role=\"img\">\n\
             <style>{style}</style>\n<rect class=\"back\" width=\"{WIDTH}\" height=\"{height}\"/>\n\
             <text class=\"title\" x=\"16\" y=\"22\">{}</text>\n<g transform=\"translate(0 26)\">",
            escape(&self.title)
        );
        self.draw(&mut svg);
        for (number, series) in self.series.iter().enumerate() {
            let y = HEIGHT + LINE * (number as f64 + 0.5) - 4.0;
            // Writing to a string can't fail.
            let _ = writeln!(
                svg,
                "<path class=\"line c{}\" d=\"M{LEFT} {y}h24\"/><text x=\"{}\" y=\"{}\">{}</text>",
                number % COLOURS,
                LEFT + 32.0,
                y + 4.0,
                escape(&series.name)
            );
        }
        svg.push_str("</g></svg>\n");
        svg
    }

    fn at(&self, x: f64, y: f64) -> (f64, f64) {
        (
            LEFT + self.x.place(x) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - self.y.place(y) * (HEIGHT - TOP - BOTTOM),
        )
    }

    fn draw(&self, svg: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for (value, text) in &self.y.ticks {
            let y = self.at(0.0, *value).1;
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/><text class=\"end\" x=\"{}\" y=\"{:.1}\">{text}</text>",
                LEFT - 8.0,
                y + 5.0
            );
        }
        for (value, text) in &self.x.ticks {
            let x = self.at(*value, 0.0).0;
            let _ = writeln!(
                svg,
                "<path class=\"grid\" d=\"M{x:.1} {TOP}V{bottom}\"/><text class=\"middle\" x=\"{x:.1}\" y=\"{}\">{text}</text>",
                bottom + 20.0
            );
        }
        let _ = writeln!(
            svg,
            "<text class=\"middle label\" x=\"{}\" y=\"{}\">{}</text><text class=\"label\" x=\"8\" y=\"14\">{}</text>",
            (LEFT + right) / 2.0,
            HEIGHT - 8.0,
            self.x.label,
            self.y.label
        );
        for (number, series) in self.series.iter().enumerate() {
            self.draw_series(svg, series, number % COLOURS);
        }
    }

    fn draw_series(&self, svg: &mut String, series: &Series, colour: usize) {
        let path = |points: &mut dyn Iterator<Item = (f64, f64)>| {
            points.fold(String::new(), |mut path, (x, y)| {
                let (x, y) = self.at(x, y);
                let _ = write!(path, "{}{x:.1} {y:.1}", if path.is_empty() { 'M' } else { 'L' });
                path
            })
        };
        if !series.band.is_empty() {
            let there = series.band.iter().map(|(x, least, _)| (*x, *least));
            let back = series.band.iter().rev().map(|(x, _, most)| (*x, *most));
            let _ = writeln!(svg, "<path class=\"band c{colour}\" d=\"{}Z\"/>", path(&mut there.chain(back)));
        }
        let line = path(&mut series.points.iter().copied());
        let _ = writeln!(svg, "<path class=\"line c{colour}\" d=\"{line}\"/>");
        if series.dots == Dots::Shown {
            for (x, y) in &series.points {
                let (x, y) = self.at(*x, *y);
                let _ = write!(svg, "<circle class=\"dot c{colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\"/>");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let texts = |axis: &Axis| axis.ticks.iter().map(|it| it.1.clone()).collect::<Vec<_>>().join(" ");
        let whole = |it: f64| format!("{it:.0}");
        assert_eq!(texts(&Axis::linear("", 43.0, whole)), "0 10 20 30 40 50");
        assert_eq!(texts(&Axis::linear("", 40_000.0, whole)), "0 10000 20000 30000 40000");
        assert_eq!(texts(&Axis::powers("", 47.0, 1300.0, whole)), "10 100 1000 10000");
        assert_eq!(texts(&Axis::percentiles("", 99.95)), "50% 90% 99% 99.9%");
    }

    #[test]
    fn places_lie_inside() {
        let axis = Axis::powers("", 10.0, 1000.0, |_| String::new());
        assert_eq!([1.0, 10.0, 100.0, 1000.0, 1e9].map(|it| axis.place(it)), [0.0, 0.0, 0.5, 1.0, 1.0]);
        assert!((rarity(99.9) - 3.0).abs() < 1e-9 && rarity(0.0) == 0.0);
    }
}
