//! Recorded capacity: how many Spot tasks each zone would give, tick by tick.
//!
//! Two formats: the JSON of the collected public traces (`gap_seconds`, `zones[].data`), and CSV with the columns
//! `t_s,zone,available`. What a trace must hold is checked here once; the worlds trust it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use lifeboat_core::time::{Millis, Timestamp};
use serde::Deserialize;
use thiserror::Error;

use crate::forms;

/// Ticks that a trace may have: ten years at one a minute. More is a mistake, and would fill the memory.
const TICKS_MAX: usize = 5_300_000;

/// Zones that a trace may have: AWS has some hundred in all its regions together.
const ZONES_MAX: usize = 1_000;

/// How long a trace may be: the policies look every half minute, however far its ticks are apart.
const SPAN_MAX: Millis = Millis::from_secs(3_653 * 86_400);

/// The largest file that is read, in MiB. The largest recorded trace known has two.
const FILE_MAX_MIB: u64 = 128;

/// Why a trace cannot be used.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be read.
    #[error("cannot read trace {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file is larger than any trace.
    #[error("trace {path} is larger than {FILE_MAX_MIB} MiB, which is no trace")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// The file is not the JSON of a trace.
    #[error("trace {path} is not in the JSON format")]
    Json {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A line of the CSV is not `t_s,zone,available`.
    #[error("line {line}: expected t_s,zone,available with whole numbers, found {found:?}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// The text.
        found: String,
    },
    /// A zone has two values for one moment.
    #[error("line {line}: zone {zone} has a second value at {t_s} s")]
    Twice {
        /// Counted from 1.
        line: usize,
        /// The zone.
        zone: String,
        /// The moment.
        t_s: u64,
    },
    /// The moments are not evenly spaced.
    #[error("the trace jumps from {from} s to {to} s where its step is {step} s")]
    Jump {
        /// The last moment before the gap.
        from: u64,
        /// The first after it.
        to: u64,
        /// The distance of the first two moments.
        step: u64,
    },
    /// A zone lacks a value.
    #[error("zone {zone} has no value at {t_s} s")]
    Missing {
        /// The zone.
        zone: String,
        /// The moment.
        t_s: u64,
    },
    /// Nothing to replay.
    #[error("the trace has no {what}")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// Zones of different length.
    #[error("zone {zone} has {found} values, the first zone has {expected}")]
    Ragged {
        /// The zone.
        zone: String,
        /// Its values.
        found: usize,
        /// Those of the first zone.
        expected: usize,
    },
    /// More ticks than a trace may have.
    #[error("the trace has {found} ticks, at most {TICKS_MAX} are replayed")]
    TooLong {
        /// Its ticks.
        found: usize,
    },
    /// More zones than a trace may have.
    #[error("the trace has {found} zones, at most {ZONES_MAX} are replayed")]
    TooManyZones {
        /// Its zones.
        found: usize,
    },
    /// A longer time than a trace may have.
    #[error("the trace lasts {days} days, at most {} are replayed", SPAN_MAX.0 / 86_400_000)]
    TooLate {
        /// How long it lasts.
        days: u128,
    },
    /// A zone that was asked for is not in the trace.
    #[error("no zone {zone} in the trace; it has {known}")]
    UnknownZone {
        /// The zone asked for.
        zone: String,
        /// Those it has.
        known: String,
    },
    /// One name stands for two zones.
    #[error("zone {zone} appears twice")]
    SameName {
        /// The name.
        zone: String,
    },
    /// A recorded price is not a positive number.
    #[error("zone {zone} has the price {price} at tick {tick}")]
    Price {
        /// The zone.
        zone: String,
        /// The tick.
        tick: usize,
        /// What stands there.
        price: String,
    },
}

/// One zone's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// AWS's name of the zone, or any other.
    pub name: String,
    /// Tasks that it gives at each tick.
    pub capacity: Vec<u32>,
    /// The Spot price at each tick in micro-dollars an hour; empty where none was recorded.
    pub prices: Vec<u64>,
}

/// A checked trace: at least one zone, at least one tick, all zones of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it is called in results.
    pub name: String,
    /// The time between two ticks.
    pub gap: Millis,
    /// The zones, in the order of the file.
    pub zones: Vec<Zone>,
}

#[derive(Deserialize)]
struct FileTrace {
    name: Option<String>,
    gap_seconds: u64,
    zones: Vec<FileZone>,
}

#[derive(Deserialize)]
struct FileZone {
    zone: String,
    data: Vec<u32>,
    #[serde(default)]
    prices: Vec<f64>,
}

impl Trace {
    /// Reads a trace; a name that ends in `.csv` is read as CSV, everything else as JSON.
    ///
    /// # Errors
    ///
    /// Whatever makes the file unusable; see [`TraceError`].
    pub fn read(path: &Path) -> Result<Self, TraceError> {
        let limit = FILE_MAX_MIB << 20;
        let text = forms::read_text(path, limit)
            .map_err(|source| TraceError::Read { path: path.to_path_buf(), source })?
            .ok_or_else(|| TraceError::TooLarge { path: path.to_path_buf() })?;
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("csv")) {
            return Self::from_csv(&stem, &text);
        }
        let file: FileTrace = serde_json::from_str(&text)
            .map_err(|source| TraceError::Json { path: path.to_path_buf(), source })?;
        let mut zones = Vec::new();
        for zone in file.zones {
            let prices = micro_dollars(&zone.zone, &zone.prices)?;
            zones.push(Zone { name: zone.zone, capacity: zone.data, prices });
        }
        Self::new(file.name.unwrap_or(stem), Millis::from_secs(file.gap_seconds), zones)
    }

    /// Reads CSV text with the columns `t_s,zone,available`, with or without that heading, in any order of lines.
    ///
    /// # Errors
    ///
    /// Lines that are no such record, moments that are not evenly spaced, zones that lack a value.
    pub fn from_csv(name: &str, text: &str) -> Result<Self, TraceError> {
        let mut zones: BTreeMap<String, BTreeMap<u64, u32>> = BTreeMap::new();
        for (index, found) in text.lines().enumerate() {
            let line = index + 1;
            if found.trim().is_empty() || (index == 0 && found.replace(' ', "") == "t_s,zone,available") {
                continue;
            }
            let (t_s, zone, available) =
                csv_record(found).ok_or_else(|| TraceError::Line { line, found: found.to_owned() })?;
            if zones.entry(zone.to_owned()).or_default().insert(t_s, available).is_some() {
                return Err(TraceError::Twice { line, zone: zone.to_owned(), t_s });
            }
        }
        let mut moments: Vec<u64> = zones.values().flat_map(|values| values.keys().copied()).collect();
        moments.sort_unstable();
        moments.dedup();
        let &[first, second, ..] = moments.as_slice() else {
            return Err(TraceError::Empty { what: "two moments to tell its step from" });
        };
        let step = second - first;
        if let Some(jump) = moments.windows(2).find(|pair| pair[1] - pair[0] != step) {
            return Err(TraceError::Jump { from: jump[0], to: jump[1], step });
        }
        let mut checked = Vec::new();
        for (zone, values) in zones {
            if let Some(t_s) = moments.iter().find(|moment| !values.contains_key(moment)) {
                return Err(TraceError::Missing { zone, t_s: *t_s });
            }
            checked.push(Zone { name: zone, capacity: values.into_values().collect(), prices: Vec::new() });
        }
        Self::new(name.to_owned(), Millis::from_secs(step), checked)
    }

    /// A trace from its parts.
    ///
    /// # Errors
    ///
    /// No zone, no tick, no time between ticks, zones of different length or of one name, or more of anything than
    /// a trace has.
    pub fn new(name: String, gap: Millis, zones: Vec<Zone>) -> Result<Self, TraceError> {
        if gap == Millis::ZERO {
            return Err(TraceError::Empty { what: "time between two ticks" });
        }
        let Some(first) = zones.first() else { return Err(TraceError::Empty { what: "zones" }) };
        let expected = first.capacity.len();
        if expected == 0 {
            return Err(TraceError::Empty { what: "ticks" });
        }
        if expected > TICKS_MAX {
            return Err(TraceError::TooLong { found: expected });
        }
        if zones.len() > ZONES_MAX {
            return Err(TraceError::TooManyZones { found: zones.len() });
        }
        let span = u128::from(gap.0) * expected as u128;
        if span > u128::from(SPAN_MAX.0) {
            return Err(TraceError::TooLate { days: span / 86_400_000 });
        }
        for (index, zone) in zones.iter().enumerate() {
            let prices = if zone.prices.is_empty() { expected } else { zone.prices.len() };
            for found in [zone.capacity.len(), prices] {
                if found != expected {
                    return Err(TraceError::Ragged { zone: zone.name.clone(), found, expected });
                }
            }
            if zones[..index].iter().any(|other| other.name == zone.name) {
                return Err(TraceError::SameName { zone: zone.name.clone() });
            }
        }
        Ok(Self { name, gap, zones })
    }

    /// The same trace with these zones only, in this order.
    ///
    /// # Errors
    ///
    /// A name that the trace does not have, or one that stands twice.
    pub fn only(&self, names: &[String]) -> Result<Self, TraceError> {
        let mut zones = Vec::new();
        for name in names {
            let found = self.zones.iter().find(|zone| zone.name == *name);
            let zone = found.ok_or_else(|| TraceError::UnknownZone {
                zone: name.clone(),
                known: self.zones.iter().map(|zone| zone.name.as_str()).collect::<Vec<_>>().join(", "),
            })?;
            zones.push(zone.clone());
        }
        Self::new(self.name.clone(), self.gap, zones)
    }

    /// The same trace with every capacity times `factor`: for traces that only tell whether a launch succeeds.
    #[must_use]
    pub fn scaled(mut self, factor: u32) -> Self {
        for zone in &mut self.zones {
            for capacity in &mut zone.capacity {
                *capacity = capacity.saturating_mul(factor);
            }
        }
        self
    }

    /// The ticks `from..to` as a trace of their own.
    ///
    /// # Errors
    ///
    /// No ticks are left.
    pub fn cut(&self, from: usize, to: usize) -> Result<Self, TraceError> {
        let range = |len: usize| from.min(len)..to.min(len).max(from.min(len));
        let zones = self.zones.iter().map(|zone| Zone {
            name: zone.name.clone(),
            capacity: zone.capacity[range(zone.capacity.len())].to_vec(),
            prices: zone.prices[range(zone.prices.len())].to_vec(),
        });
        Self::new(self.name.clone(), self.gap, zones.collect())
    }

    /// How many ticks it has.
    #[must_use]
    pub fn ticks(&self) -> usize {
        self.zones[0].capacity.len()
    }

    /// When a tick begins; the trace begins at zero.
    #[must_use]
    pub fn starts(&self, tick: usize) -> Timestamp {
        let ms = u128::from(self.gap.0) * tick as u128;
        Timestamp(i64::try_from(ms).unwrap_or(i64::MAX))
    }

    /// When the last tick ends.
    #[must_use]
    pub fn end(&self) -> Timestamp {
        self.starts(self.ticks())
    }
}

fn csv_record(line: &str) -> Option<(u64, &str, u32)> {
    let mut fields = line.split(',').map(str::trim);
    let record = (fields.next()?.parse().ok()?, fields.next()?, fields.next()?.parse().ok()?);
    (fields.next().is_none() && !record.1.is_empty()).then_some(record)
}

fn micro_dollars(zone: &str, prices: &[f64]) -> Result<Vec<u64>, TraceError> {
    let mut checked = Vec::with_capacity(prices.len());
    for (tick, price) in prices.iter().enumerate() {
        // No instance costs a million dollars an hour; a larger number is a wrong unit.
        // A price below half a micro-dollar would count as nothing.
        if !price.is_finite() || *price < 5e-7 || *price > 1e6 {
            return Err(TraceError::Price { zone: zone.to_owned(), tick, price: price.to_string() });
        }
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "positive and below 1e12"
        )]
        checked.push((price * 1e6).round() as u64);
    }
    Ok(checked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &str) -> String {
        Trace::from_csv("t", text).expect_err("the trace is bad").to_string()
    }

    #[test]
    fn csv_in_any_order_becomes_a_trace() {
        let trace =
            Trace::from_csv("t", "t_s,zone,available\n60,b,1\n0,a,3\n0,b,2\n60,a,4\n").expect("it is good");
        assert_eq!(trace.gap, Millis::from_secs(60));
        assert_eq!(trace.zones[0].capacity, [3, 4]);
        assert_eq!(trace.zones[1].capacity, [2, 1]);
        assert_eq!(trace.end(), Timestamp(120_000));
    }

    #[test]
    fn bad_csv_says_what_is_wrong_and_where() {
        assert_eq!(message(""), "the trace has no two moments to tell its step from");
        assert_eq!(
            message("0,a,1\n60,a,x"),
            "line 2: expected t_s,zone,available with whole numbers, found \"60,a,x\""
        );
        assert_eq!(
            message("0,a,1\n60,a,-1"),
            "line 2: expected t_s,zone,available with whole numbers, found \"60,a,-1\""
        );
        assert_eq!(
            message("0,a,1\n60,a,1\n180,a,1"),
            "the trace jumps from 60 s to 180 s where its step is 60 s"
        );
        assert_eq!(message("0,a,1\n60,a,1\n0,b,1"), "zone b has no value at 60 s");
        assert_eq!(message("0,a,1\n0,a,1"), "line 2: zone a has a second value at 0 s");
    }

    #[test]
    fn bad_json_says_what_is_wrong() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let read = |text: &str| {
            let path = dir.path().join("t.json");
            std::fs::write(&path, text).expect("the test may write");
            Trace::read(&path).expect_err("the trace is bad").to_string()
        };
        assert!(read("{").ends_with("t.json is not in the JSON format"));
        assert_eq!(read(r#"{"gap_seconds":0,"zones":[]}"#), "the trace has no time between two ticks");
        assert_eq!(read(r#"{"gap_seconds":60,"zones":[]}"#), "the trace has no zones");
        assert_eq!(read(r#"{"gap_seconds":60,"zones":[{"zone":"a","data":[]}]}"#), "the trace has no ticks");
        let ragged = r#"{"gap_seconds":60,"zones":[{"zone":"a","data":[1]},{"zone":"b","data":[1,2]}]}"#;
        assert_eq!(read(ragged), "zone b has 2 values, the first zone has 1");
        let price = r#"{"gap_seconds":60,"zones":[{"zone":"a","data":[1],"prices":[-2]}]}"#;
        assert_eq!(read(price), "zone a has the price -2 at tick 0");
    }

    #[test]
    fn more_of_anything_than_a_trace_has_is_refused_at_once() {
        assert_eq!(
            message("0,a,1\n18446744073709551615,a,1"),
            "the trace lasts 427007964669 days, at most 3653 are replayed"
        );
        assert_eq!(
            message(
                "0,a,1\n31557600,a,1\n63115200,a,1\n94672800,a,1\n126230400,a,1\n157788000,a,1\n\
                     189345600,a,1\n220903200,a,1\n252460800,a,1\n284018400,a,1\n315576000,a,1"
            ),
            "the trace lasts 4017 days, at most 3653 are replayed"
        );
        let many: String = (0..1_001).map(|zone| format!("0,{zone},1\n60,{zone},1\n")).collect();
        assert_eq!(message(&many), "the trace has 1001 zones, at most 1000 are replayed");
        let text = r#"{"gap_seconds":60,"zones":[{"zone":"a","data":[1],"prices":[1e-9]}]}"#;
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("t.json");
        std::fs::write(&path, text).expect("the test may write");
        let error = Trace::read(&path).expect_err("the price is nothing").to_string();
        assert_eq!(error, "zone a has the price 0.000000001 at tick 0");
    }

    /// Sparse: it takes no room on the disk.
    #[test]
    fn a_file_that_is_no_trace_does_not_fill_the_memory() {
        let dir = tempfile::tempdir().expect("a directory for the test");
        let path = dir.path().join("t.csv");
        let file = std::fs::File::create(&path).expect("the test may write");
        file.set_len(1 << 40).expect("a sparse file");
        let error = Trace::read(&path).expect_err("it is no trace").to_string();
        assert!(error.ends_with("t.csv is larger than 128 MiB, which is no trace"), "{error}");
    }

    #[test]
    fn unknown_zones_are_named_with_those_there_are() {
        let trace = Trace::from_csv("t", "0,a,1\n60,a,1\n0,b,1\n60,b,1").expect("it is good");
        let error = trace.only(&["c".to_owned()]).expect_err("there is no c").to_string();
        assert_eq!(error, "no zone c in the trace; it has a, b");
    }
}
