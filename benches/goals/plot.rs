//! Plots as SVG: a cost against the number of forwards, with a logarithmic scale on both sides.

use std::fmt::Write as _;

/// The size of the picture.
const SIZE: (f64, f64) = (640.0, 400.0);
/// The place of the diagram in it: left, top, right and bottom.
const FRAME: (f64, f64, f64, f64) = (70.0, 48.0, 470.0, 350.0);
/// The colours of the series, which people with colour blindness can tell apart (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072B2", "#56B4E9", "#D55E00", "#E69F00", "#009E73", "#CC79A7"];

/// One line of a plot.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// Its name.
    pub(crate) name: String,
    /// The number of forwards and the cost.
    pub(crate) points: Vec<(f64, f64)>,
}

/// Draws a plot. `unit` is that of the costs.
pub(crate) fn draw(title: &str, unit: &str, series: &[Series]) -> String {
    let all: Vec<(f64, f64)> = series.iter().flat_map(|one| one.points.iter().copied()).collect();
    let (x, y) = (Scale::of(all.iter().map(|point| point.0)), Scale::of(all.iter().map(|point| point.1)));
    let across = |value: f64| FRAME.0 + x.place(value) * (FRAME.2 - FRAME.0);
    let up = |value: f64| FRAME.3 - y.place(value) * (FRAME.3 - FRAME.1);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {}\" font-family=\"sans-serif\" font-size=\"13\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{}\" y=\"26\" font-size=\"15\" font-weight=\"bold\">{title}</text>\n",
        SIZE.0, SIZE.1, FRAME.0
    );
    let mut add = |line: std::fmt::Arguments<'_>| writeln!(svg, "{line}").expect("text can grow");
    for tick in x.ticks() {
        let at = across(tick);
        add(format_args!("<line x1=\"{at:.1}\" y1=\"{}\" x2=\"{at:.1}\" y2=\"{}\" stroke=\"#dddddd\"/>", FRAME.1, FRAME.3));
        add(format_args!("<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{}</text>", FRAME.3 + 18.0, label(tick)));
    }
    for tick in y.ticks() {
        let at = up(tick);
        add(format_args!("<line x1=\"{}\" y1=\"{at:.1}\" x2=\"{}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>", FRAME.0, FRAME.2));
        add(format_args!("<text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>", FRAME.0 - 6.0, at + 4.0, label(tick)));
    }
    add(format_args!(
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">forwards</text>",
        f64::midpoint(FRAME.0, FRAME.2),
        FRAME.3 + 38.0
    ));
    add(format_args!("<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{unit}</text>", FRAME.0 - 6.0, FRAME.1 - 8.0));
    for ((index, one), colour) in series.iter().enumerate().zip(COLOURS.iter().cycle()) {
        let points: Vec<String> =
            one.points.iter().map(|(count, cost)| format!("{:.1},{:.1}", across(*count), up(*cost))).collect();
        add(format_args!("<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>", points.join(" ")));
        for point in &points {
            let (left, top) = point.split_once(',').unwrap_or_default();
            add(format_args!("<circle cx=\"{left}\" cy=\"{top}\" r=\"3.5\" fill=\"{colour}\"/>"));
        }
        let row = FRAME.1 + 14.0 + 22.0 * f64::from(u32::try_from(index).unwrap_or_default());
        let (left, right) = (FRAME.2 + 12.0, FRAME.2 + 32.0);
        add(format_args!(
            "<line x1=\"{left}\" y1=\"{row}\" x2=\"{right}\" y2=\"{row}\" stroke=\"{colour}\" stroke-width=\"3\"/>"
        ));
        add(format_args!("<text x=\"{}\" y=\"{}\">{}</text>", right + 6.0, row + 4.0, one.name));
    }
    svg + "</svg>\n"
}

/// A logarithmic scale over whole powers of ten.
struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|value| *value > 0.0)
            .fold((f64::INFINITY, 0.0_f64), |(low, high), value| (low.min(value), high.max(value)));
        let (low, high) = if low.is_finite() { (low.log10().floor(), high.log10().ceil()) } else { (0.0, 1.0) };
        Self { low, high: if high > low { high } else { low + 1.0 } }
    }

    /// Where a value is between the ends, from 0 to 1.
    fn place(&self, value: f64) -> f64 {
        ((value.log10() - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    fn ticks(&self) -> impl Iterator<Item = f64> + use<> {
        let (low, high) = (self.low, self.high);
        std::iter::successors(Some(low), |power| Some(power + 1.0))
            .take_while(move |power| *power <= high)
            .map(|power| 10_f64.powf(power))
    }
}

fn label(value: f64) -> String {
    if value >= 1_000.0 { format!("{},000", value / 1_000.0) } else { format!("{value}") }
}
