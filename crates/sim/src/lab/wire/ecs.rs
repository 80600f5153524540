//! ECS, JSON 1.1: the calls that a controller makes of services and tasks.
//!
//! Source: Amazon ECS API reference, the operations named here; read 2026-11. Assumed: `runningCount` leaves out
//! tasks that were warned, as the scheduler replaces them at once.

use lifeboat_core::failover::observation::Capacity;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Fault, epoch_s, read};
use crate::lab::events::group;
use crate::lab::names::provider;
use crate::lab::state::Lab;
use crate::lab::task::Status;

/// Source: DescribeServices, up to 10 services a call; DescribeTasks, up to 100 tasks; read 2026-11.
const SERVICES_MAX: usize = 10;
const TASKS_MAX: usize = 100;

/// Source: ListServices, 10 results a page where nothing is said; ListTasks, 100.
const LIST_SERVICES_DEFAULT: usize = 10;
const PAGE_MAX: usize = 100;

/// Source: ECS service quotas, 5,000 tasks a service; read 2026-11.
const DESIRED_MAX: u32 = 5_000;

pub(super) fn call(lab: &mut Lab, operation: &str, input: &Value) -> Result<Value, Fault> {
    match operation {
        "DescribeClusters" => describe_clusters(lab, input),
        "ListClusters" => Ok(json!({ "clusterArns": [lab.names.cluster()] })),
        "DescribeServices" => describe_services(lab, input),
        "ListServices" => list_services(lab, input),
        "ListTasks" => list_tasks(lab, input),
        "DescribeTasks" => describe_tasks(lab, input),
        "UpdateService" => update_service(lab, input),
        "TagResource" => tag(lab, input),
        "UntagResource" => untag(lab, input),
        "ListTagsForResource" => list_tags(lab, input),
        _ => Err(Fault::not_served(&format!("ecs:{operation}"))),
    }
}

fn cluster_of(lab: &Lab, cluster: Option<&str>) -> Result<(), Fault> {
    if lab.names.is_cluster(cluster.unwrap_or("default")) {
        return Ok(());
    }
    Err(Fault::new("ClusterNotFoundException", "Cluster not found."))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeClusters {
    #[serde(default)]
    clusters: Vec<String>,
}

fn describe_clusters(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: DescribeClusters = read(input)?;
    let asked = if asked.clusters.is_empty() { vec!["default".to_owned()] } else { asked.clusters };
    let (mut clusters, mut failures) = (Vec::new(), Vec::new());
    for name in asked {
        if !lab.names.is_cluster(&name) {
            let arn = lab.names.arn("ecs", &format!("cluster/{name}"));
            failures.push(json!({ "arn": arn, "reason": "MISSING" }));
            continue;
        }
        let active = lab.services.iter().filter(|service| !service.is_inactive).count();
        let running = lab.tasks.values().filter(|task| task.status == Status::Running).count();
        let pending = lab.tasks.values().filter(|task| task.status < Status::Running).count();
        clusters.push(json!({
            "clusterArn": lab.names.cluster(),
            "clusterName": lab.names.cluster,
            "status": "ACTIVE",
            "registeredContainerInstancesCount": 0,
            "runningTasksCount": running,
            "pendingTasksCount": pending,
            "activeServicesCount": active,
            "statistics": [],
            "tags": [],
            "settings": [],
            "capacityProviders": ["FARGATE", "FARGATE_SPOT"],
            "defaultCapacityProviderStrategy": [],
        }));
    }
    Ok(json!({ "clusters": clusters, "failures": failures }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeServices {
    cluster: Option<String>,
    services: Vec<String>,
    #[serde(default)]
    include: Vec<String>,
}

fn describe_services(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: DescribeServices = read(input)?;
    cluster_of(lab, asked.cluster.as_deref())?;
    if asked.services.is_empty() {
        return Err(Fault::new("InvalidParameterException", "Services cannot be empty."));
    }
    if asked.services.len() > SERVICES_MAX {
        return Err(Fault::new(
            "InvalidParameterException",
            format!("Services cannot have more than {SERVICES_MAX} elements."),
        ));
    }
    let with_tags = asked.include.iter().any(|what| what == "TAGS");
    let (mut services, mut failures) = (Vec::new(), Vec::new());
    for given in &asked.services {
        match lab.by_name.get(lab.names.service_name(given)) {
            Some(index) => services.push(service(lab, *index, with_tags)),
            None => {
                let arn = lab.names.service(lab.names.service_name(given));
                failures.push(json!({ "arn": arn, "reason": "MISSING" }));
            }
        }
    }
    Ok(json!({ "services": services, "failures": failures }))
}

/// A service as DescribeServices and UpdateService show it.
fn service(lab: &Lab, index: usize, with_tags: bool) -> Value {
    let found = &lab.services[index];
    let figures = lab.live.figures(found.pair);
    let (desired, running, pending) = match found.capacity {
        Capacity::Spot => (figures.spot_desired, figures.spot_ready, figures.spot_starting),
        Capacity::OnDemand => {
            (figures.on_demand_desired, figures.on_demand_ready, figures.on_demand_starting)
        }
    };
    let born = epoch_s(lab.clock.stamp(lifeboat_core::time::Timestamp(0)));
    let strategy = json!([{ "capacityProvider": provider(found.capacity), "weight": 1, "base": 0 }]);
    let deployment = |id: String, status: &str, rollout: &str, counts: (u32, u32, u32)| {
        json!({
            "id": id,
            "status": status,
            "taskDefinition": lab.names.task_definition(&found.name),
            "desiredCount": counts.0,
            "runningCount": counts.1,
            "pendingCount": counts.2,
            "failedTasks": 0,
            "createdAt": born,
            "updatedAt": born,
            "capacityProviderStrategy": strategy,
            "platformVersion": "1.4.0",
            "platformFamily": "Linux",
            "rolloutState": rollout,
            "rolloutStateReason": format!("ECS deployment {id} {}.", rollout.to_lowercase().replace('_', " ")),
        })
    };
    let id = lab.deployment(index);
    let deployments = if found.deploys {
        vec![
            deployment(id.replace("ecs-svc/1", "ecs-svc/2"), "PRIMARY", "IN_PROGRESS", (desired, 0, 0)),
            deployment(id, "ACTIVE", "COMPLETED", (desired, running, pending)),
        ]
    } else {
        vec![deployment(id, "PRIMARY", "COMPLETED", (desired, running, pending))]
    };
    let messages: Vec<Value> = found
        .messages
        .iter()
        .map(|(id, stamp, message)| {
            let id = crate::lab::names::uuid(index as u64, *id);
            json!({ "id": id, "createdAt": epoch_s(*stamp), "message": message })
        })
        .collect();
    let mut value = json!({
        "serviceArn": lab.names.service(&found.name),
        "serviceName": found.name,
        "clusterArn": lab.names.cluster(),
        "loadBalancers": [],
        "serviceRegistries": [],
        "status": if found.is_inactive { "INACTIVE" } else { "ACTIVE" },
        "desiredCount": desired,
        "runningCount": running,
        "pendingCount": pending,
        "capacityProviderStrategy": strategy,
        "platformVersion": "LATEST",
        "platformFamily": "Linux",
        "taskDefinition": lab.names.task_definition(&found.name),
        "deploymentConfiguration": {
            "deploymentCircuitBreaker": { "enable": false, "rollback": false },
            "maximumPercent": 200,
            "minimumHealthyPercent": 100,
        },
        "deployments": deployments,
        "roleArn": lab.names.arn("iam", "role/aws-service-role/ecs.amazonaws.com/AWSServiceRoleForECS"),
        "events": messages,
        "createdAt": born,
        "placementConstraints": [],
        "placementStrategy": [],
        "networkConfiguration": { "awsvpcConfiguration": {
            "subnets": ["subnet-0lab"], "securityGroups": ["sg-0lab"], "assignPublicIp": "DISABLED",
        } },
        "healthCheckGracePeriodSeconds": 0,
        "schedulingStrategy": "REPLICA",
        "deploymentController": { "type": "ECS" },
        "createdBy": lab.names.arn("iam", "role/lab"),
        "enableECSManagedTags": true,
        "propagateTags": "NONE",
        "enableExecuteCommand": false,
    });
    if with_tags {
        value["tags"] = tags(found);
    }
    value
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    cluster: Option<String>,
    service_name: Option<String>,
    desired_status: Option<String>,
    next_token: Option<String>,
    max_results: Option<usize>,
}

impl List {
    fn page(&self, default: usize) -> Result<usize, Fault> {
        let size = self.max_results.unwrap_or(default);
        if size == 0 || size > PAGE_MAX {
            return Err(Fault::new("InvalidParameterException", "maxResults must be between 1 and 100."));
        }
        Ok(size)
    }

    fn after(&self) -> Result<Option<u64>, Fault> {
        let number = self.next_token.as_ref().map(|token| token.parse());
        number.transpose().map_err(|_| Fault::new("InvalidParameterException", "Invalid token."))
    }
}

fn list_services(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: List = read(input)?;
    cluster_of(lab, asked.cluster.as_deref())?;
    let size = asked.page(LIST_SERVICES_DEFAULT)?;
    let from = usize::try_from(asked.after()?.unwrap_or(0)).unwrap_or(usize::MAX);
    let active = lab.services.iter().enumerate().skip(from).filter(|(_, service)| !service.is_inactive);
    let mut arns = Vec::new();
    let mut next = None;
    for (index, service) in active {
        if arns.len() == size {
            next = Some(index.to_string());
            break;
        }
        arns.push(lab.names.service(&service.name));
    }
    Ok(paged("serviceArns", arns, next))
}

fn list_tasks(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: List = read(input)?;
    cluster_of(lab, asked.cluster.as_deref())?;
    let size = asked.page(PAGE_MAX)?;
    let after = asked.after()?.map_or(0, |key| key + 1);
    let status = asked.desired_status.as_deref().unwrap_or("RUNNING");
    if !matches!(status, "RUNNING" | "PENDING" | "STOPPED") {
        return Err(Fault::new("InvalidParameterException", "desiredStatus is not valid."));
    }
    let keys: Box<dyn Iterator<Item = u64> + '_> = match &asked.service_name {
        None => Box::new(lab.tasks.range(after..).map(|(key, _)| *key)),
        Some(given) => {
            let index = lab.by_name.get(lab.names.service_name(given));
            let index = index.ok_or_else(|| Fault::new("ServiceNotFoundException", "Service not found."))?;
            Box::new(lab.services[*index].tasks.range(after..).copied())
        }
    };
    // ECS never sets a desired status of PENDING: such a list is empty.
    let wanted = keys.filter(|key| lab.tasks.get(key).is_some_and(|task| task.desired() == status));
    let mut arns = Vec::new();
    let (mut last, mut next) = (0, None);
    for key in wanted {
        if arns.len() == size {
            next = Some(last.to_string());
            break;
        }
        arns.push(lab.names.task(key));
        last = key;
    }
    Ok(paged("taskArns", arns, next))
}

fn paged(key: &str, arns: Vec<String>, next: Option<String>) -> Value {
    let mut value = Map::new();
    value.insert(key.to_owned(), json!(arns));
    if let Some(next) = next {
        value.insert("nextToken".to_owned(), json!(next));
    }
    Value::Object(value)
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DescribeTasks {
    cluster: Option<String>,
    tasks: Vec<String>,
}

fn describe_tasks(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: DescribeTasks = read(input)?;
    cluster_of(lab, asked.cluster.as_deref())?;
    if asked.tasks.is_empty() {
        return Err(Fault::new("InvalidParameterException", "Tasks cannot be empty."));
    }
    if asked.tasks.len() > TASKS_MAX {
        return Err(Fault::new(
            "InvalidParameterException",
            format!("Tasks cannot have more than {TASKS_MAX} elements."),
        ));
    }
    let (mut tasks, mut failures) = (Vec::new(), Vec::new());
    for given in &asked.tasks {
        match lab.names.task_key(given).filter(|key| lab.tasks.contains_key(key)) {
            Some(key) => tasks.push(task(lab, key, &epoch_s)),
            None => failures.push(json!({ "arn": given, "reason": "MISSING" })),
        }
    }
    Ok(json!({ "tasks": tasks, "failures": failures }))
}

/// A task as DescribeTasks and the events show it; they differ in how a time is written.
pub(crate) fn task(lab: &Lab, key: u64, time: &dyn Fn(i64) -> Value) -> Value {
    let Some(task) = lab.tasks.get(&key) else { return Value::Null };
    let service = &lab.services[task.service];
    let arn = lab.names.task(key);
    let is_running = task.status == Status::Running;
    let zone = lab.zone_name(task.zone);
    let mut value = json!({
        "taskArn": arn,
        "clusterArn": lab.names.cluster(),
        "taskDefinitionArn": lab.names.task_definition(&service.name),
        "group": group(&service.name),
        "startedBy": lab.deployment(task.service),
        "launchType": "FARGATE",
        "capacityProviderName": provider(service.capacity),
        "platformVersion": "1.4.0",
        "platformFamily": "Linux",
        "availabilityZone": zone,
        "desiredStatus": task.desired(),
        "lastStatus": task.status.as_str(),
        "healthStatus": "UNKNOWN",
        "version": task.version,
        "cpu": "4096",
        "memory": "16384",
        "ephemeralStorage": { "sizeInGiB": 20 },
        "createdAt": time(task.created_at),
        "overrides": { "containerOverrides": [{ "name": "app" }], "inferenceAcceleratorOverrides": [] },
        "enableExecuteCommand": false,
        "attachments": [],
        "attributes": [],
        "inferenceAccelerators": [],
        "tags": [],
        "containers": [{
            "containerArn": lab.names.arn("ecs", &format!("container/{}/{}/0", lab.names.cluster, lab.names.task_id(key))),
            "taskArn": arn,
            "name": "app",
            "image": "lab",
            "lastStatus": task.status.as_str(),
            "networkInterfaces": [],
            "healthStatus": "UNKNOWN",
            "cpu": "0",
        }],
    });
    if let Some(at) = task.started_at {
        value["startedAt"] = time(at);
        value["pullStartedAt"] = time(at);
        value["pullStoppedAt"] = time(at);
    }
    if is_running {
        value["connectivity"] = json!("CONNECTED");
        value["connectivityAt"] = time(task.started_at.unwrap_or(task.created_at));
    }
    if let Some(at) = task.stopping_at {
        value["stoppingAt"] = time(at);
    }
    if let Some(at) = task.stopped_at {
        value["stoppedAt"] = time(at);
        value["executionStoppedAt"] = time(at);
    }
    if let Some(stop) = &task.stop {
        value["stopCode"] = json!(stop.code());
        value["stoppedReason"] = json!(stop.reason());
    }
    value
}

/// What UpdateService may say; everything else is refused.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpdateService {
    cluster: Option<String>,
    service: String,
    desired_count: Option<i64>,
}

fn update_service(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let asked = UpdateService::deserialize(input).map_err(|error| {
        let message = format!("lifeboat lab changes a service's desired count and nothing else: {error}");
        Fault::new("InvalidParameterException", message)
    })?;
    cluster_of(lab, asked.cluster.as_deref())?;
    let index = lab.by_name.get(lab.names.service_name(&asked.service)).copied();
    let index = index.ok_or_else(|| Fault::new("ServiceNotFoundException", "Service not found."))?;
    if lab.services[index].is_inactive {
        return Err(Fault::new("ServiceNotActiveException", "Service was not ACTIVE."));
    }
    if let Some(count) = asked.desired_count {
        let count = u32::try_from(count).ok().filter(|count| *count <= DESIRED_MAX).ok_or_else(|| {
            Fault::new("InvalidParameterException", format!("desiredCount must be 0 to {DESIRED_MAX}."))
        })?;
        let share = lab.live.faults().landed_late;
        if lab.live.fails(share) {
            let after = 500 + lab.live.draw() % 29_500;
            lab.set_desired_later(index, count, lifeboat_core::time::Millis(after));
            return Err(Fault::server());
        }
        lab.set_desired(index, count);
    }
    Ok(json!({ "service": service(lab, index, false) }))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct TagResource {
    resource_arn: String,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    tag_keys: Vec<String>,
}

#[derive(Deserialize)]
struct Tag {
    key: String,
    #[serde(default)]
    value: String,
}

fn tagged(lab: &Lab, arn: &str) -> Result<usize, Fault> {
    let index = lab.by_name.get(lab.names.service_name(arn)).copied();
    index.ok_or_else(|| {
        Fault::new(
            "ResourceNotFoundException",
            "The specified service could not be found: the lab tags services.",
        )
    })
}

fn tag(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let asked: TagResource = read(input)?;
    let index = tagged(lab, &asked.resource_arn)?;
    lab.services[index].tags.extend(asked.tags.into_iter().map(|tag| (tag.key, tag.value)));
    Ok(json!({}))
}

fn untag(lab: &mut Lab, input: &Value) -> Result<Value, Fault> {
    let asked: TagResource = read(input)?;
    let index = tagged(lab, &asked.resource_arn)?;
    lab.services[index].tags.retain(|key, _| !asked.tag_keys.contains(key));
    Ok(json!({}))
}

fn list_tags(lab: &Lab, input: &Value) -> Result<Value, Fault> {
    let asked: TagResource = read(input)?;
    let index = tagged(lab, &asked.resource_arn)?;
    Ok(json!({ "tags": tags(&lab.services[index]) }))
}

fn tags(service: &crate::lab::state::Service) -> Value {
    service.tags.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect()
}
