//! Which instance this is.

use lifeboat_core::clock::ClockSample;
use lifeboat_core::time::Millis;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::client::{Client, deadline_in};
use crate::error::GetError;
use crate::wire::bounded;

/// The instance's id.
/// Source: <https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-categories.html> (read 2023-06),
/// as for the other paths here.
pub const INSTANCE_ID_PATH: &str = "instance-id";
/// `spot`, `on-demand` or `scheduled`.
pub const LIFE_CYCLE_PATH: &str = "instance-life-cycle";
/// As `c5.large`.
pub const INSTANCE_TYPE_PATH: &str = "instance-type";
/// As `us-east-1a`.
pub const AVAILABILITY_ZONE_PATH: &str = "placement/availability-zone";
/// As `us-east-1`.
pub const REGION_PATH: &str = "placement/region";

/// Which instance this is. What the service does not know is `None`; nothing is guessed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Identity {
    /// As `i-0123456789abcdef0`.
    pub instance_id: Option<String>,
    /// `spot`, `on-demand`, `scheduled`, or a name that is not documented.
    pub life_cycle: Option<String>,
    /// As `c5.large`.
    pub instance_type: Option<String>,
    /// As `us-east-1a`.
    pub availability_zone: Option<String>,
    /// As `us-east-1`.
    pub region: Option<String>,
}

impl Identity {
    /// Whether the service says that this is a Spot instance.
    #[must_use]
    pub fn is_spot(&self) -> bool {
        self.life_cycle.as_deref() == Some("spot")
    }
}

/// Asks which instance this is, repeating what may pass, until `within` is over.
///
/// # Errors
///
/// The [`GetError`] of the first path that could not be read in time.
pub async fn identity(client: &mut Client, within: Millis) -> Result<Identity, GetError> {
    identity_until(client, deadline_in(within), |_| {}).await
}

/// The same, with the clocks around each answer told to `observe`.
pub(crate) async fn identity_until(
    client: &mut Client,
    deadline: Instant,
    mut observe: impl FnMut(ClockSample),
) -> Result<Identity, GetError> {
    let mut values = [const { None }; 5];
    let paths = [INSTANCE_ID_PATH, LIFE_CYCLE_PATH, INSTANCE_TYPE_PATH, AVAILABILITY_ZONE_PATH, REGION_PATH];
    for (value, path) in values.iter_mut().zip(paths) {
        let answer = client.get_until(path, deadline).await?;
        if let Some(sample) = answer.clock {
            observe(sample);
        }
        *value = answer.value.map(|text| bounded(text.trim())).filter(|text| !text.is_empty());
    }
    let [instance_id, life_cycle, instance_type, availability_zone, region] = values;
    Ok(Identity { instance_id, life_cycle, instance_type, availability_zone, region })
}
