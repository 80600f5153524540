//! Elastic Load Balancing: taking a target out of its group before it stops.

use std::time::Duration;

use aws_sdk_elasticloadbalancingv2::types::TargetDescription;

use crate::client::call;
use crate::{Aws, AwsError, Operation};

/// Elastic Load Balancing, as one account sees it.
#[derive(Clone, Debug)]
pub struct Elb(Aws);

/// What a target group sends requests to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// An instance id or an IP address, as the group's type is.
    pub id: String,
    /// `None`: the group's.
    pub port: Option<u16>,
}

/// How a target stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Which.
    pub target: Target,
    /// `healthy`, `draining`, `unused`, … as AWS writes it.
    pub state: String,
    /// `Target.DeregistrationInProgress` and its like.
    pub reason: Option<String>,
}

impl Health {
    /// Whether requests may still be under way to it.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.state == "draining"
    }
}

impl Aws {
    /// Elastic Load Balancing.
    #[must_use]
    pub fn elb(&self) -> Elb {
        Elb(self.clone())
    }
}

impl Elb {
    /// Takes targets out of a group: it gets no new requests, those under way are drained.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn deregister(
        &self,
        group: &str,
        targets: &[Target],
        within: Duration,
    ) -> Result<(), AwsError> {
        let answer = async {
            let request = self.0.elb_client().await.deregister_targets().target_group_arn(group);
            request.set_targets(Some(targets.iter().map(described).collect())).send().await
        };
        call(Operation::DeregisterTargets, group, within, answer).await.map(drop)
    }

    /// How targets stand; all of the group's where `targets` is empty.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn health(
        &self,
        group: &str,
        targets: &[Target],
        within: Duration,
    ) -> Result<Vec<Health>, AwsError> {
        let asked = (!targets.is_empty()).then(|| targets.iter().map(described).collect());
        let answer = async {
            let request = self.0.elb_client().await.describe_target_health().target_group_arn(group);
            request.set_targets(asked).send().await
        };
        let answer = call(Operation::DescribeTargetHealth, group, within, answer).await?;
        let health = answer.target_health_descriptions.unwrap_or_default().into_iter().filter_map(|one| {
            let (target, health) = (one.target?, one.target_health?);
            let port = target.port.and_then(|port| u16::try_from(port).ok());
            Some(Health {
                target: Target { id: target.id?, port },
                state: health.state.map(|state| state.as_str().to_owned()).unwrap_or_default(),
                reason: health.reason.map(|reason| reason.as_str().to_owned()),
            })
        });
        Ok(health.collect())
    }

    /// How long the group drains a target that was taken out.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn deregistration_delay(
        &self,
        group: &str,
        within: Duration,
    ) -> Result<Option<Duration>, AwsError> {
        let answer = async {
            let request = self.0.elb_client().await.describe_target_group_attributes();
            request.target_group_arn(group).send().await
        };
        let answer = call(Operation::DescribeTargetGroupAttributes, group, within, answer).await?;
        let attributes = answer.attributes.unwrap_or_default();
        let delay = attributes
            .iter()
            .find(|attribute| attribute.key.as_deref() == Some("deregistration_delay.timeout_seconds"))
            .and_then(|attribute| attribute.value.as_deref()?.parse().ok());
        Ok(delay.map(Duration::from_secs))
    }
}

fn described(target: &Target) -> TargetDescription {
    TargetDescription::builder().id(&target.id).set_port(target.port.map(i32::from)).build()
}
