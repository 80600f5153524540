//! The mock metadata service that the agents watch: `lifeboat mock-imds`, started and told what to announce.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::process::{LOOK_AGAIN, Running};

/// Longer than any machine takes to start it.
const START: Duration = Duration::from_secs(20);

/// An exchange over loopback takes less than a millisecond.
const EXCHANGE: Duration = Duration::from_secs(5);

/// A running mock without a notice.
#[derive(Debug)]
pub(crate) struct Mock {
    _process: Running,
    /// As `127.0.0.1:4711`.
    address: String,
}

impl Mock {
    /// Starts one on a free port. Its output goes into `folder`.
    ///
    /// # Errors
    /// When it cannot be started or does not say where it listens.
    pub(crate) fn start(lifeboat: &Path, folder: &Path) -> anyhow::Result<Self> {
        let said = folder.join("mock.out");
        let mut command = Command::new(lifeboat);
        command.args(["mock-imds", "--port", "0", "--no-notice"]).stdout(fs::File::create(&said)?);
        let mut process = Running::start(&mut command, &folder.join("mock.err"))?;
        let begun = Instant::now();
        loop {
            if let Some(address) = address_in(&fs::read_to_string(&said)?) {
                return Ok(Self { _process: process, address });
            }
            process.check_running()?;
            if begun.elapsed() > START {
                bail!("the mock metadata service does not say where it listens");
            }
            thread::sleep(LOOK_AGAIN);
        }
    }

    /// Host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// For `AWS_EC2_METADATA_SERVICE_ENDPOINT`.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Announces a termination, at once.
    ///
    /// # Errors
    /// When the mock does not take it.
    pub(crate) fn announce(&self) -> anyhow::Result<()> {
        self.control("PUT", r#"{"action":"terminate"}"#)
    }

    /// Announces nothing any more.
    ///
    /// # Errors
    /// When the mock does not take it.
    pub(crate) fn withdraw(&self) -> anyhow::Result<()> {
        self.control("DELETE", "")
    }

    fn control(&self, method: &str, body: &str) -> anyhow::Result<()> {
        let mut stream = TcpStream::connect(&self.address).context("the mock metadata service is gone")?;
        stream.set_read_timeout(Some(EXCHANGE))?;
        stream.set_nodelay(true)?;
        let (address, length) = (&self.address, body.len());
        let request = format!(
            "{method} /lifeboat-mock/notice HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        if !answer.starts_with("HTTP/1.1 204") {
            bail!("the mock metadata service refused {method} notice: {answer}");
        }
        Ok(())
    }
}

fn address_in(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("http://")?;
    // A line that is not whole yet may hold half a port.
    let (address, _) = rest.split_once('\n')?;
    Some(address.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_taken_from_a_whole_line() {
        assert_eq!(address_in("mock metadata service on http://127.0.0.1:47"), None);
        let text = "mock metadata service on http://127.0.0.1:4711\nexport X=http://127.0.0.1:4711\n";
        assert_eq!(address_in(text).as_deref(), Some("127.0.0.1:4711"));
    }
}
