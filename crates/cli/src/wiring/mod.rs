//! What this program brings to an agent beyond the store: queues, a table, the group that waits for this machine, and
//! who is told; all by the configuration. Nothing is asked, read or connected before it is needed.

mod aws;
mod heralds;

use std::sync::Arc;

use anyhow::Context;
use lifeboat_agent::Ports;
use lifeboat_agent::cloud::Cloud;
use lifeboat_agent::config::Settings;
use lifeboat_agent::ports::{Balancer, Herald, Lifecycle, MakeBalancers, Queues, StateTable};
use lifeboat_aws::{Aws, Options};

use aws::{Hook, SqsQueues, Table, TargetGroup};
pub(crate) use lifeboat_agent::ports::SavedState;

/// AWS, as the configuration finds it.
pub(crate) fn aws(cloud: &Cloud) -> Aws {
    Aws::new(Options {
        region: cloud.aws.region.clone(),
        profile: cloud.aws.profile.clone(),
        endpoint: cloud.aws.endpoint.clone(),
        ..Options::default()
    })
}

/// Whether the environment variable of a webhook holds an address; nothing is sent.
pub(crate) fn check_webhook(variable: &str) -> Result<(), String> {
    heralds::webhook(variable).map(drop)
}

/// Everything that the configuration names.
pub(crate) fn ports(settings: &Settings) -> anyhow::Result<Ports> {
    let cloud = &settings.cloud;
    let aws = aws(cloud);
    let queues: Arc<dyn Queues> = Arc::new(SqsQueues(aws.sqs()));
    let scaling = &cloud.auto_scaling;
    let lifecycle = scaling.hook.clone().map(|hook| -> Arc<dyn Lifecycle> {
        Arc::new(Hook::new(aws.autoscaling(), scaling.group.clone(), hook, scaling.token.clone()))
    });
    let groups = cloud.load_balancer.target_groups.clone();
    let elb = aws.clone();
    let balancers = (!groups.is_empty()).then(|| -> MakeBalancers {
        Arc::new(move |target| {
            let group = |arn: &String| -> Arc<dyn Balancer> {
                Arc::new(TargetGroup::new(elb.elb(), arn.clone(), target.to_owned()))
            };
            groups.iter().map(group).collect()
        })
    });
    let heralds: Vec<Arc<dyn Herald>> = heralds::all(cloud, &aws)?;
    let table = table_of(settings, &aws)?;
    Ok(Ports { queues: vec![queues], table, lifecycle, balancers, heralds })
}

/// The table of states that the configuration names.
pub(crate) fn table(settings: &Settings) -> anyhow::Result<Option<Arc<dyn StateTable>>> {
    table_of(settings, &aws(&settings.cloud))
}

fn table_of(settings: &Settings, aws: &Aws) -> anyhow::Result<Option<Arc<dyn StateTable>>> {
    let Some(url) = &settings.state else { return Ok(None) };
    let name = url.strip_prefix("dynamodb://").filter(|name| !name.is_empty());
    let name = name.with_context(|| {
        format!("`state = \"{url}\"` names no table this program knows: write \"dynamodb://TABLE\"")
    })?;
    Ok(Some(Arc::new(Table { aws: aws.dynamodb(), name: name.to_owned() })))
}
