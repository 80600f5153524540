//! A real S3 server on loopback: s3s-fs, which `cargo xtask ci` installs.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use lifeboat_snapshot::store::{Keys, StoreUrl};

/// What the tests are written for; others may refuse or accept something else.
const VERSION: &str = "0.14.1";

/// A running server; it ends with this value.
pub(crate) struct S3Server {
    program: PathBuf,
    pub(crate) port: u16,
    pub(crate) directory: tempfile::TempDir,
    options: &'static [&'static str],
    child: Option<Child>,
}

/// Where the server is; `None` where it is not installed, which `LIFEBOAT_TEST_S3=1` (as set by CI) makes a failure.
fn program() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute())
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let program = cache.join(format!("lifeboat/tools/s3s-fs-{VERSION}/bin/s3s-fs"));
    let is_there = program.is_file();
    assert!(
        is_there || std::env::var_os("LIFEBOAT_TEST_S3").is_none(),
        "{} is missing: cargo xtask ci --step s3-server",
        program.display()
    );
    is_there.then_some(program)
}

impl S3Server {
    /// Starts one with the bucket `bucket`, or says that there is none to start.
    pub(crate) fn start() -> Option<Self> {
        Self::start_as(&[])
    }

    /// As [`Self::start`], with further options of the program.
    pub(crate) fn start_as(options: &'static [&'static str]) -> Option<Self> {
        let program = program()?;
        let directory = super::temp();
        std::fs::create_dir(directory.path().join("bucket")).expect("a bucket");
        let mut server = Self { program, port: free_port(), directory, options, child: None };
        server.launch();
        Some(server)
    }

    /// Starts it (again), on the same port and directory.
    pub(crate) fn launch(&mut self) {
        let child = Command::new(&self.program)
            .args(["--host", "127.0.0.1", "--access-key", "AKTEST", "--secret-key", "SKTEST", "--port"])
            .arg(self.port.to_string())
            .args(self.options)
            .arg(self.directory.path())
            .env("RUST_LOG", "off")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        self.child = Some(child);
        let until = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(("127.0.0.1", self.port)).is_err() {
            assert!(Instant::now() < until, "the server does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills it as a power cut would.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
    }

    /// The bucket, with further options (`&name=value`).
    pub(crate) fn store_url(&self, options: &str) -> StoreUrl {
        let text = format!("s3://bucket/some/prefix?endpoint=http://127.0.0.1:{}{options}", self.port);
        let Ok(StoreUrl::S3(mut url)) = text.parse() else { panic!("{text}") };
        url.keys = Some(Keys { id: "AKTEST".to_owned(), secret: "SKTEST".to_owned() });
        StoreUrl::S3(url)
    }
}

impl Drop for S3Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port that nothing uses. Those of one test process differ, and start apart by its number.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 20_000 + u16::try_from(std::process::id() % 400).expect("small") * 100;
    loop {
        let port = start + NEXT.fetch_add(1, Ordering::Relaxed) % 100;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
