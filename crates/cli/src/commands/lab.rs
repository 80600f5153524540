//! `lifeboat lab`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Args;
use lifeboat_sim::lab::{self, LabScenario, Pair, Settings, Stamps};

use crate::output;

/// What `lifeboat lab` serves; flags lie over the scenario file.
#[derive(Args, Debug)]
pub(crate) struct LabArgs {
    /// Scenario file (TOML).
    scenario: Option<PathBuf>,
    /// Pair of services NAME-spot and NAME-standard; may be given several times [default: web=20].
    #[arg(long = "service", value_name = "NAME=TASKS")]
    services: Vec<Pair>,
    /// Recorded trace of Spot capacity: JSON (`gap_seconds`, `zones`) or CSV (`t_s,zone,available`).
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// World seconds for each second; 0 stands still until `POST /lab/advance`.
    #[arg(long, default_value_t = 1)]
    speed: u32,
    /// Time stamps on the wire: this machine's time, or the world's own.
    #[arg(long, value_enum, default_value_t = Stamps::Wall)]
    stamps: Stamps,
    /// Address of loopback; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:4570")]
    listen: SocketAddr,
    /// Draws everything [default: 1].
    #[arg(long)]
    seed: Option<u64>,
}

impl LabArgs {
    fn settings(self) -> anyhow::Result<Settings> {
        let mut scenario = match &self.scenario {
            Some(path) => LabScenario::read(path)?,
            None => LabScenario::default(),
        };
        scenario.services.extend(self.services);
        if scenario.services.is_empty() {
            scenario.services.push(Pair { name: "web".to_owned(), tasks: 20 });
        }
        scenario.trace = self.trace.or(scenario.trace);
        scenario.seed = self.seed.unwrap_or(scenario.seed);
        Ok(Settings { scenario, speed: self.speed, stamps: self.stamps })
    }
}

/// Serves until SIGINT or SIGTERM.
pub(crate) async fn serve(args: LabArgs, json: bool) -> anyhow::Result<u8> {
    let addr = args.listen;
    let settings = args.settings()?;
    let listener = lab::listen(addr).await?;
    let addr = listener.local_addr().context("cannot tell the address")?;
    let queue = format!("http://{addr}/{}/{}", settings.scenario.account, settings.scenario.queue);
    if json {
        let ready = serde_json::json!({ "url": format!("http://{addr}"), "queue": queue });
        output::result(&format!("{ready}\n"))?;
    } else {
        let LabScenario { region, cluster, .. } = &settings.scenario;
        output::result(&format!(
            "lab on http://{addr} (watch it there), cluster {cluster}, queue {queue}\n\
             export AWS_ENDPOINT_URL=http://{addr} AWS_REGION={region}\n\
             export AWS_ACCESS_KEY_ID=lab AWS_SECRET_ACCESS_KEY=lab AWS_EC2_METADATA_DISABLED=true\n"
        ))?;
    }
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    let stopped = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
    };
    lab::serve(listener, settings, stopped).await?;
    Ok(0)
}
