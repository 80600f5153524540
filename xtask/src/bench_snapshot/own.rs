//! What only Lifeboat does: a second save, a save that is short of time; and the limits of this machine.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;

use super::loads::{Load, MIB, write_noise};
use super::tools::{Tools, store_url};
use crate::tree::output_of;

/// The save that is short of time has so long…
const SHORT_SECONDS: u64 = 5;

/// …over a link of so many bytes a second…
const SHORT_RATE: u64 = 10_000_000;

/// …for data that need so many times as long.
const SHORT_OF: u64 = 4;

/// A second save.
#[derive(Clone, Debug)]
pub(crate) struct Second {
    pub(crate) name: &'static str,
    pub(crate) full_seconds: f64,
    pub(crate) seconds: f64,
    pub(crate) stored_mib: f64,
}

/// Value saved in time, as parts of the fractional optimum.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Value5 {
    pub(crate) saved: f64,
    pub(crate) plain: f64,
}

/// What bounds every tool.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Reading and hashing 1 GiB from the page cache, with all processors.
    pub(crate) hash_mib_s: f64,
    /// The best of several clients that send 8 MiB objects from memory and read nothing.
    pub(crate) server_mib_s: f64,
    pub(crate) server_concurrency: u64,
}

#[derive(Clone, Debug)]
pub(crate) struct Own {
    pub(crate) limits: Limits,
    pub(crate) seconds: Vec<Second>,
    pub(crate) value: Value5,
}

/// Measures all of it.
pub(super) fn measure(tools: &Tools, work: &Path, divisor: u64, say: &dyn Fn(&str)) -> anyhow::Result<Own> {
    let limits = limits(tools, work, divisor)?;
    say(&format!("limits: {limits:?}"));
    let seconds = seconds(tools, work, divisor, say)?;
    let value = value(tools, work)?;
    say(&format!("short of time: {value:?}"));
    Ok(Own { limits, seconds, value })
}

fn asked(tools: &Tools, args: &[&str]) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&output_of(&mut tools.example(args))?)?)
}

fn number(answer: &Value, key: &str) -> anyhow::Result<f64> {
    answer[key].as_f64().with_context(|| format!("no {key} in {answer}"))
}

fn limits(tools: &Tools, work: &Path, divisor: u64) -> anyhow::Result<Limits> {
    const CONCURRENCIES: [u64; 4] = [1, 2, 4, 8];
    let source = work.join("source");
    let made = Load::Noise { count: 1, size: 1024 * MIB / divisor }.make(&source)?;
    let answer = asked(tools, &["hash", &source.to_string_lossy()])?;
    let mib = made.bytes as f64 / MIB as f64;
    let hash_mib_s = mib / (number(&answer, "ms")? / 1000.0);
    fs::remove_dir_all(&source)?;
    let (mut server_mib_s, mut server_concurrency) = (0.0, 0);
    for concurrency in CONCURRENCIES {
        let server = tools.serve(&work.join("server"))?;
        let objects = (mib / 8.0).ceil();
        let args = ["put", &store_url(server.port()), &objects.to_string(), &concurrency.to_string()];
        let rate = objects * 8.0 / (number(&asked(tools, &args)?, "ms")? / 1000.0);
        if rate > server_mib_s {
            (server_mib_s, server_concurrency) = (rate, concurrency);
        }
    }
    Ok(Limits { hash_mib_s, server_mib_s, server_concurrency })
}

/// What a second save costs.
fn seconds(tools: &Tools, work: &Path, divisor: u64, say: &dyn Fn(&str)) -> anyhow::Result<Vec<Second>> {
    /// The best of so many counts.
    const ROUNDS: usize = 3;
    let small = Load::Noise { count: 20_000 / divisor, size: 16 * 1024 };
    let one = Load::Noise { count: 1, size: 1024 * MIB / divisor };
    // One file in a hundred, and none of those that have just been made.
    let touch = "find . -type f -name '*00' | while read f; do echo new >> $f; done";
    let table = [
        ("1 % of many files of 16 KiB changed", small, touch),
        ("1 MiB appended to a large file", one, "head -c 1048576 /dev/urandom >> 000/0"),
        ("nothing changed", small, "true"),
    ];
    let source = work.join("source");
    let mut rows = Vec::new();
    for (name, load, change) in table {
        let mut best: Option<Second> = None;
        for _ in 0..ROUNDS {
            load.make(&source)?;
            let server = tools.serve(&work.join("server"))?;
            let answer =
                asked(tools, &["again", &source.to_string_lossy(), &store_url(server.port()), change])?;
            let second = Second {
                name,
                full_seconds: number(&answer, "full_ms")? / 1000.0,
                seconds: number(&answer, "ms")? / 1000.0,
                stored_mib: number(&answer, "stored")? / MIB as f64,
            };
            if best
                .as_ref()
                .is_none_or(|best| second.seconds / second.full_seconds < best.seconds / best.full_seconds)
            {
                best = Some(second);
            }
        }
        let best = best.context("measured at least once")?;
        say(&format!(
            "{name}: {:.3} s of {:.3} s, {:.2} MiB",
            best.seconds, best.full_seconds, best.stored_mib
        ));
        rows.push(best);
        fs::remove_dir_all(&source)?;
    }
    Ok(rows)
}

/// A file with what it is worth.
struct Worth {
    name: String,
    priority: u64,
    size: u64,
}

/// How much of the value is saved when the time is short: what is restored afterwards counts.
fn value(tools: &Tools, work: &Path) -> anyhow::Result<Value5> {
    let source = work.join("source");
    fs::create_dir_all(&source)?;
    let (mut files, mut total) = (Vec::new(), 0);
    for number in 0_u64.. {
        let priority = [1, 10, 100, 1000, 10_000][usize::try_from(number * 7 % 5)?];
        let size = 4_000 << (number * 3 % 10);
        let name = format!("{priority}-{number}");
        write_noise(&source.join(&name), number, size)?;
        files.push(Worth { name, priority, size });
        total += size;
        if total > SHORT_OF * SHORT_RATE * SHORT_SECONDS {
            break;
        }
    }
    let server = tools.serve(&work.join("server"))?.behind(Duration::from_millis(1), SHORT_RATE)?;
    let url = store_url(server.port());
    asked(tools, &["save", &source.to_string_lossy(), &url, &SHORT_SECONDS.to_string()])?;
    fs::remove_dir_all(&source)?;
    let back = work.join("back");
    asked(tools, &["restore", &back.to_string_lossy(), &url])?;
    let saved: u64 =
        files.iter().filter(|file| back.join(&file.name).exists()).map(|file| file.priority).sum();
    fs::remove_dir_all(&back)?;
    files.sort_by(|a, b| a.name.cmp(&b.name));
    let room = SHORT_RATE * SHORT_SECONDS;
    let plain = worth(&files, room);
    files.sort_by(|a, b| (b.priority * (a.size + 1)).cmp(&(a.priority * (b.size + 1))));
    let optimum = worth(&files, room);
    Ok(Value5 { saved: saved as f64 / optimum, plain: plain / optimum })
}

/// The value of the first files that fit into `bytes`, the last in proportion.
fn worth(files: &[Worth], bytes: u64) -> f64 {
    let mut left = bytes as f64;
    let mut sum = 0.0;
    for file in files {
        sum += file.priority as f64 * (left / file.size as f64).clamp(0.0, 1.0);
        left -= file.size as f64;
    }
    sum
}
