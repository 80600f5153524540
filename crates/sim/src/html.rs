//! One self-contained HTML page: the table, and per policy a time line of capacity, target, outages and cost.
//!
//! Static: no script, no font, no image from elsewhere; it opens from a file and prints.

use std::fmt::Write;

use crate::record::{Point, Record};
use crate::report::{self, Mean};
use crate::scenario::World;
use crate::simulate::{PolicyRun, Report};

/// Columns of a time line. More than a screen shows helps nobody and makes the file large.
const COLUMNS: usize = 960;

const HEIGHT: f64 = 150.0;

const STYLE: &str = "\
:root{--ink:#16202b;--dim:#5d6b7a;--line:#d9e0e7;--page:#f6f8fa;--card:#fff;--spot:#2f8f6b;--od:#4a76c9;\
--out:#d03b3b;--target:#16202b}\
@media(prefers-color-scheme:dark){:root{--ink:#e8edf2;--dim:#93a1b0;--line:#2b3744;--page:#10161c;--card:#18212a;\
--spot:#3fb286;--od:#6f98e6;--out:#ef6a6a;--target:#e8edf2}}\
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--ink);\
font:15px/1.5 system-ui,-apple-system,'Segoe UI',sans-serif}\
main{max-width:1080px;margin:0 auto;padding:40px 24px 64px}h1{font-size:26px;margin:0 0 4px}\
h2{font-size:17px;margin:0}p{margin:6px 0 0;color:var(--dim);max-width:75ch}\
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin-top:20px}\
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}\
th{font-weight:600;color:var(--dim);font-size:13px;text-align:right;padding:4px 10px;border-bottom:1px solid var(--line)}\
td{text-align:right;padding:6px 10px;border-bottom:1px solid var(--line);white-space:nowrap}tr:last-child td{border:0}\
th:first-child,td:first-child{text-align:left;padding-left:0}.scroll{overflow-x:auto}\
.key{display:flex;gap:18px;flex-wrap:wrap;color:var(--dim);font-size:13px;margin:8px 0 4px}\
.key i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}\
svg{display:block;width:100%;height:auto}svg text{fill:var(--dim);font-size:11px}\
.bar{height:8px;border-radius:4px;background:var(--line);min-width:90px}.bar b{display:block;height:8px;border-radius:4px;background:var(--spot)}";

/// The page.
#[must_use]
pub fn page(report: &Report) -> String {
    let scenario = &report.scenario;
    let mut html = String::new();
    push(&mut html, "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">");
    push(&mut html, "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">");
    push(&mut html, &format!("<title>{}</title><style>{STYLE}</style><main>", escape(&scenario.name)));
    push(&mut html, &format!("<h1>{}</h1>", escape(&scenario.name)));
    if !scenario.about.is_empty() {
        push(&mut html, &format!("<p>{}</p>", escape(&scenario.about)));
    }
    push(&mut html, &format!("<p>{}</p>", escape(&conditions(report))));
    table(&mut html, &report::means(report));
    for run in report.results.iter().filter(|run| !run.record.line.is_empty()) {
        // Recorded prices differ by zone and hour, which a time line of tasks does not know.
        let ratio = scenario.on_demand_price.is_none().then_some(scenario.spot_price_ratio);
        timeline(&mut html, run, ratio);
    }
    push(&mut html, "</main></html>\n");
    html
}

fn conditions(report: &Report) -> String {
    let scenario = &report.scenario;
    let world = match scenario.world {
        World::Ecs => "ECS world",
        World::Zones => "zone-choosing world",
    };
    let source = match (&scenario.trace, &scenario.model) {
        (Some(path), _) => {
            path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
        }
        (None, _) => "modelled capacity (no public trace of Fargate Spot exists)".to_owned(),
    };
    let price = match scenario.on_demand_price {
        None => format!("Spot at {} % of the On-Demand price", f64::from(scenario.ratio_per_mille()) / 10.0),
        Some(price) => format!("Spot at the recorded prices, On-Demand at ${price} an hour"),
    };
    format!(
        "{world}, {source}; {} replicas, {price}, notice {}, {} % of the reclaims announced, {} seed(s) from {}.",
        scenario.replicas,
        scenario.notice,
        f64::from(scenario.announced_per_mille()) / 10.0,
        scenario.seeds,
        scenario.seed
    )
}

fn table(html: &mut String, means: &[Mean]) {
    push(html, "<section><div class=\"scroll\"><table><tr><th>policy<th>cost<th><th>× bound<th>target ready");
    push(html, "<th>capacity<th>outages / week<th>worst outage<th>requests / day<th>mode changes");
    let has_gaps = means.iter().any(|mean| mean.gaps.is_some());
    if has_gaps {
        push(html, "<th>gap P50<th>gap P99");
    }
    push(html, "</tr>");
    for mean in means {
        let cost = mean.cost * 100.0;
        push(
            html,
            &format!(
                "<tr><td>{}<td>{cost:.2} %<td><div class=\"bar\"><b style=\"width:{:.1}%\"></b></div>\
                 <td>{:.3}<td>{:.3} %<td>{:.4} %<td>{:.1}<td>{:.0} s<td>{:.0}<td>{:.0}",
                escape(&mean.policy),
                cost.min(100.0),
                mean.bound,
                mean.ready * 100.0,
                mean.capacity * 100.0,
                mean.outages,
                mean.worst_s,
                mean.requests,
                mean.modes
            ),
        );
        match mean.gaps {
            Some((p50, p99)) => push(html, &format!("<td>{p50:.0} s<td>{p99:.0} s")),
            None if has_gaps => push(html, "<td><td>"),
            None => {}
        }
        push(html, "</tr>");
    }
    push(html, "</table></div></section>");
}

/// One column of a time line: means over its span, and whether anything was missing within it.
#[derive(Clone, Copy, Debug, Default)]
struct Column {
    spot: f64,
    on_demand: f64,
    target: f64,
    is_short: bool,
}

fn timeline(html: &mut String, run: &PolicyRun, ratio: Option<f64>) {
    let figures = &run.figures;
    let columns = columns(&run.record);
    let top = columns.iter().map(|column| column.spot + column.on_demand).fold(0.0, f64::max);
    let top = columns.iter().map(|column| column.target).fold(top, f64::max).max(1.0) * 1.08;
    push(html, "<section>");
    push(html, &format!("<h2>{} <small>seed {}</small></h2>", escape(&figures.policy), figures.seed));
    push(
        html,
        &format!(
            "<div class=\"key\"><span><i style=\"background:var(--spot)\"></i>Spot ready</span>\
             <span><i style=\"background:var(--od)\"></i>On-Demand ready</span>\
             <span><i style=\"background:var(--target);height:2px;vertical-align:4px\"></i>target</span>\
             <span><i style=\"background:var(--out)\"></i>less than the target</span>\
             <span>cost {:.2} % of all On-Demand · ready {:.3} %</span></div>",
            figures.cost_vs_on_demand * 100.0,
            figures.ready_fraction * 100.0
        ),
    );
    push(html, &format!("<svg viewBox=\"0 0 1040 {}\" role=\"img\">", HEIGHT + 80.0));
    let y = |tasks: f64| HEIGHT - tasks / top * HEIGHT + 8.0;
    area(html, &columns, "var(--spot)", &y, |column| (0.0, column.spot));
    area(html, &columns, "var(--od)", &y, |column| (column.spot, column.spot + column.on_demand));
    outages(html, &columns);
    stroke(html, &columns, "var(--target)", |column| y(column.target));
    let most = columns.iter().map(|column| column.target).fold(0.0, f64::max);
    push(html, &format!("<text x=\"66\" y=\"{:.1}\" text-anchor=\"end\">{most:.0}</text>", y(most) + 4.0));
    push(html, &format!("<text x=\"66\" y=\"{:.1}\" text-anchor=\"end\">0</text>", y(0.0)));
    if let Some(ratio) = ratio {
        cost(html, &columns, ratio);
    }
    axis(html, &run.record);
    push(html, "</svg></section>");
}

fn columns(record: &Record) -> Vec<Column> {
    let end = record.end.0.max(1) as f64;
    let width = end / COLUMNS as f64;
    let mut columns = vec![Column::default(); COLUMNS];
    for (index, point) in record.line.iter().enumerate() {
        let until = record.line.get(index + 1).map_or(end, |next| next.at.0 as f64);
        spread(&mut columns, point, (point.at.0 as f64, until), width);
    }
    columns
}

/// Adds a point to every column that it reaches into, by the share of the column that it fills.
fn spread(columns: &mut [Column], point: &Point, (from, until): (f64, f64), width: f64) {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0…COLUMNS by construction")]
    let column_of = |at: f64| ((at / width).max(0.0) as usize).min(COLUMNS - 1);
    let first = column_of(from);
    for (index, column) in columns.iter_mut().enumerate().take(column_of(until) + 1).skip(first) {
        let begin = index as f64 * width;
        let share = ((until.min(begin + width) - from.max(begin)) / width).max(0.0);
        column.spot += f64::from(point.spot) * share;
        column.on_demand += f64::from(point.on_demand) * share;
        column.target += f64::from(point.target) * share;
        column.is_short |= share > 0.0 && point.spot + point.on_demand < point.target;
    }
}

fn x(index: usize) -> f64 {
    72.0 + index as f64
}

fn area(
    html: &mut String,
    columns: &[Column],
    colour: &str,
    y: &impl Fn(f64) -> f64,
    span: impl Fn(&Column) -> (f64, f64),
) {
    let mut path = String::new();
    for (index, column) in columns.iter().enumerate() {
        let (_, high) = span(column);
        put(&mut path, format_args!("{}{:.0} {:.1}", if index == 0 { "M" } else { "L" }, x(index), y(high)));
    }
    for (index, column) in columns.iter().enumerate().rev() {
        let (low, _) = span(column);
        put(&mut path, format_args!("L{:.0} {:.1}", x(index), y(low)));
    }
    push(html, &format!("<path d=\"{path}Z\" fill=\"{colour}\" opacity=\".85\"/>"));
}

fn stroke(html: &mut String, columns: &[Column], colour: &str, y: impl Fn(&Column) -> f64) {
    let mut path = String::new();
    for (index, column) in columns.iter().enumerate() {
        put(
            &mut path,
            format_args!("{}{:.0} {:.1}", if index == 0 { "M" } else { "L" }, x(index), y(column)),
        );
    }
    push(html, &format!("<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>"));
}

/// A red mark under every column in which the target was missed, however shortly.
fn outages(html: &mut String, columns: &[Column]) {
    let mut path = String::new();
    for (index, column) in columns.iter().enumerate() {
        if column.is_short {
            put(&mut path, format_args!("M{:.0} {:.0}v8", x(index), HEIGHT + 10.0));
        }
    }
    if !path.is_empty() {
        push(html, &format!("<path d=\"{path}\" stroke=\"var(--out)\" stroke-width=\"1.6\"/>"));
    }
    push(html, &format!("<text x=\"66\" y=\"{:.0}\" text-anchor=\"end\">outages</text>", HEIGHT + 18.0));
}

/// The cost so far, as a share of the same time On-Demand.
fn cost(html: &mut String, columns: &[Column], ratio: f64) {
    let (mut spent, mut full) = (0.0, 0.0);
    let mut path = String::new();
    for (index, column) in columns.iter().enumerate() {
        spent += column.spot * ratio + column.on_demand;
        full += column.target;
        let share = if full > 0.0 { (spent / full).min(1.0) } else { 0.0 };
        let y = HEIGHT + 54.0 - share * 30.0;
        put(&mut path, format_args!("{}{:.0} {y:.1}", if index == 0 { "M" } else { "L" }, x(index)));
    }
    push(html, &format!("<path d=\"{path}\" fill=\"none\" stroke=\"var(--dim)\" stroke-width=\"1.5\"/>"));
    push(html, &format!("<text x=\"66\" y=\"{:.0}\" text-anchor=\"end\">cost so far</text>", HEIGHT + 44.0));
    push(html, &format!("<text x=\"1036\" y=\"{:.0}\" text-anchor=\"end\">100 %</text>", HEIGHT + 34.0));
}

fn axis(html: &mut String, record: &Record) {
    for part in 0..=6 {
        let ms = record.end.0 / 6 * part;
        let at = 72.0 + COLUMNS as f64 / 6.0 * part as f64;
        let anchor = if part == 6 { "end" } else { "middle" };
        let label = report::clock(ms);
        let label = label.get(..label.len() - 7).unwrap_or_default();
        push(
            html,
            &format!(
                "<text x=\"{at:.0}\" y=\"{:.0}\" text-anchor=\"{anchor}\">{label}</text>",
                HEIGHT + 74.0
            ),
        );
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn push(html: &mut String, part: &str) {
    html.push_str(part);
}

fn put(path: &mut String, part: std::fmt::Arguments<'_>) {
    path.write_fmt(part).expect("a string takes every write");
}
