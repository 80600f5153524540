//! What this program brings to an agent beyond the store: which queues and which table, by the configuration.

use anyhow::bail;
use lifeboat_agent::Ports;
use lifeboat_agent::config::Settings;

/// The queues and the table that the configuration names.
#[expect(clippy::unused_async, reason = "clients of a cloud are built by asking for credentials")]
pub(crate) async fn ports(settings: &Settings) -> anyhow::Result<Ports> {
    if let Some(state) = &settings.state {
        bail!(
            "`state = \"{state}\"`: this build keeps the state in the store alone; take the key out of the configuration"
        );
    }
    Ok(Ports::default())
}
