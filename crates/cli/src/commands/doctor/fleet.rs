//! A controller's fleet: whether its services are there and run where they should, how long their load balancers drain,
//! and, for what ECS does not say in these answers, the command that does. Reads, and changes nothing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use lifeboat_aws::ecs::Service;
use lifeboat_aws::{Aws, AwsError};
use lifeboat_controller::config::{Config, ListedService, Settings};
use lifeboat_core::precondition::{Check, Facts, OnDemand, Pool, TargetGroup};
use lifeboat_core::time::Millis;
use tokio::time::Instant;

use super::look::{Needs, about, failed};
use super::{Finding, Verdict, judged};

/// All of it.
const WITHIN: Duration = Duration::from_secs(20);

/// Looks at every pair that the file lists.
///
/// # Errors
/// When the file is no controller's configuration.
pub(super) async fn fleet(file: &Path) -> anyhow::Result<Vec<Finding>> {
    let config = Config::read(file)?;
    let settings = config.settings()?;
    let aws = crate::commands::controller::aws(&config);
    let until = Instant::now() + WITHIN;
    let mut found = Vec::new();
    if settings.services.is_empty() {
        found.push(nothing_listed(&settings));
    }
    let (mut groups, mut definitions) = (BTreeSet::new(), BTreeSet::new());
    for pair in &settings.services {
        let names = [pair.spot.clone(), pair.on_demand.clone()];
        let left = until.saturating_duration_since(Instant::now());
        match aws.ecs().describe_services(&pair.cluster, &names, left).await {
            Ok(described) => {
                for name in &names {
                    let service = described.found.iter().find(|service| service.name == *name);
                    found.push(of_service(pair, name, service));
                }
                for service in described.found {
                    groups.extend(service.target_groups);
                    definitions.extend(service.task_definition);
                }
            }
            Err(error) => found.push(unread(&pair.cluster, &error)),
        }
    }
    let target_groups = delays(&aws, groups, until, &mut found).await;
    let on_demand = vec![OnDemand { pool: Pool::Fargate, needed: None, quota: None }];
    found.extend(judged(&Facts { target_groups, on_demand, ..Facts::default() }));
    found.extend(definitions.iter().map(|arn| of_definition(arn)));
    Ok(found)
}

fn nothing_listed(settings: &Settings) -> Finding {
    let clusters = settings.clusters.join(", ");
    let remedy =
        "name them in [[service]] to have them looked at, or see `lifeboat status` of a running controller";
    let what = "services are found while the controller runs, and none is listed".to_owned();
    about("services", &clusters, Verdict::Skipped, what, Some(remedy))
}

/// Source: ECS guide, "Fargate capacity providers" (read 2023): `FARGATE_SPOT` is the one that is interrupted.
fn of_service(pair: &ListedService, name: &str, service: Option<&Service>) -> Finding {
    let check = "service";
    let Some(service) = service else {
        let what = format!("is not in the cluster {}", pair.cluster);
        return about(check, name, Verdict::Fail, what, Some("create it, or mend its name in [[service]]"));
    };
    let providers: Vec<&str> = service.capacity_providers.iter().map(|one| one.name.as_str()).collect();
    let runs_on = if providers.is_empty() {
        service.launch_type.as_deref().unwrap_or("?").to_owned()
    } else {
        providers.join(", ")
    };
    let what =
        format!("{}, {} of {} tasks run, on {runs_on}", service.status, service.running, service.desired);
    let is_on_spot = providers.iter().any(|provider| provider.contains("SPOT"));
    if service.status != "ACTIVE" {
        about(
            check,
            name,
            Verdict::Fail,
            what,
            Some("create it anew: ECS changes an inactive service no more"),
        )
    } else if name == pair.on_demand && is_on_spot {
        let remedy = "give it the capacity provider FARGATE: a failover from Spot to Spot helps nobody";
        about(check, name, Verdict::Fail, what, Some(remedy))
    } else if name == pair.spot && !is_on_spot {
        about(
            check,
            name,
            Verdict::Warn,
            what,
            Some("give it the capacity provider FARGATE_SPOT, or nothing is saved"),
        )
    } else {
        about(check, name, Verdict::Ok, what, None)
    }
}

fn unread(cluster: &str, error: &AwsError) -> Finding {
    failed("services", cluster, error, Needs::Agent)
}

async fn delays(
    aws: &Aws,
    arns: BTreeSet<String>,
    until: Instant,
    found: &mut Vec<Finding>,
) -> Vec<TargetGroup> {
    let mut all = Vec::new();
    for arn in arns {
        let left = until.saturating_duration_since(Instant::now());
        let delay = match aws.elb().deregistration_delay(&arn, left).await {
            Ok(delay) => delay.map(|time| Millis::from_secs(time.as_secs())),
            Err(error) => {
                found.push(failed("target group", &arn, &error, Needs::Doctor));
                None
            }
        };
        all.push(TargetGroup { arn, delay });
    }
    all
}

fn of_definition(arn: &str) -> Finding {
    let remedy = format!(
        "aws ecs describe-task-definition --task-definition {arn} > task.json; with it, the quota's answer and that of \
         aws ecs describe-services: lifeboat doctor --from task.json quota.json services.json"
    );
    let what = "its containers' time from SIGTERM to SIGKILL, and its vCPUs, are not known".to_owned();
    about(Check::StopTimeout.name(), arn, Verdict::Unknown, what, Some(&remedy))
}
