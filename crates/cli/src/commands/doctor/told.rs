//! Facts from files: what `aws … describe-…` prints, launch template data, task definitions. Files of several kinds are
//! put together: an instance finds its Spot request, its volume, its type, its group.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use lifeboat_core::notice::Action;
use lifeboat_core::precondition::{
    Container, Facts, Fleet, FleetKind, Group, Hook, Machine, MaximumPrice, OnDemand, Pool, RequestKind,
    Root, TargetGroup, Task,
};
use lifeboat_core::time::Millis;

use super::wire::{
    Attribute, Document, FleetShape, GroupShape, Image, Instance, Mapping, Request, TaskDefinition,
    TemplateData, TypeShape, Volume, tag,
};

/// What describes some thousand instances is smaller.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The first character of a family's letters tells its quota; these begin with one of [`STANDARD`] and count elsewhere.
const ELSEWHERE: [&str; 4] = ["inf", "trn", "dl", "hpc"];

/// Source: Service Quotas, "Running On-Demand Standard (A, C, D, H, I, M, R, T, Z) instances" (read November 2026).
const STANDARD: &str = "acdhimrtz";

/// Reads every file.
///
/// # Errors
/// When one cannot be read, is no JSON, or is nothing that is known here.
pub(super) fn read<P: AsRef<Path>>(files: &[P]) -> anyhow::Result<Facts> {
    let documents = files.iter().map(|file| {
        let file = file.as_ref();
        let name = file.file_stem().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Ok((name, document(file).with_context(|| format!("cannot use {}", file.display()))?))
    });
    Ok(facts(documents.collect::<anyhow::Result<Vec<_>>>()?))
}

fn document(file: &Path) -> anyhow::Result<Document> {
    let mut text = Vec::new();
    // A pipe or a device does not say how much it has.
    File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        bail!("it has too many bytes; what `aws` prints here has {FILE_BYTES_MAX} at most");
    }
    parse(&text)
}

fn parse(text: &[u8]) -> anyhow::Result<Document> {
    let value: serde_json::Value = serde_json::from_slice(text).context(
        "it is no JSON; save what `aws …` prints with `--output json`, a launch template's data or a task definition",
    )?;
    let keys: Vec<String> = match value.as_object() {
        Some(object) => object.keys().take(10).cloned().collect(),
        None => bail!("it is JSON, but no object"),
    };
    let document: Document =
        serde_json::from_value(value).context("a value in it is of another form than AWS's")?;
    if !document.says_something() {
        bail!(
            "nothing in it is known: it has {}; known is what `aws` prints for ec2 describe-instances, \
             describe-spot-instance-requests, describe-launch-template-versions, describe-fleets, describe-volumes, \
             describe-instance-types, describe-images, autoscaling describe-auto-scaling-groups, \
             describe-lifecycle-hooks, ecs describe-task-definition, describe-services, elbv2 describe-target-groups, \
             describe-target-group-attributes, service-quotas get-service-quota, list-service-quotas",
            if keys.is_empty() { "no keys".to_owned() } else { keys.join(", ") }
        );
    }
    Ok(document)
}

fn facts(documents: Vec<(String, Document)>) -> Facts {
    let mut all = All::default();
    for (name, document) in documents {
        all.take(&name, document);
    }
    all.facts()
}

/// What all files say together.
#[derive(Default)]
struct All {
    instances: Vec<Instance>,
    templates: Vec<(String, TemplateData)>,
    requests: Vec<Request>,
    fleets: Vec<FleetShape>,
    groups: Vec<GroupShape>,
    /// By group; the key is empty where the answer names none.
    hooks: BTreeMap<String, Vec<Hook>>,
    volumes: BTreeMap<String, Volume>,
    types: BTreeMap<String, TypeShape>,
    images: BTreeMap<String, Image>,
    target_groups: Vec<String>,
    /// With the name of their file: they do not say whose they are.
    delays: Vec<(String, Option<Millis>)>,
    tasks: Vec<TaskDefinition>,
    services: Option<Vec<(u64, String)>>,
    quotas: BTreeMap<String, f64>,
}

impl All {
    fn take(&mut self, file: &str, document: Document) {
        let all = |list: Option<Vec<_>>| list.unwrap_or_default();
        let reservations = document.reservations.unwrap_or_default();
        self.instances.extend(reservations.into_iter().flat_map(|one| one.instances));
        for version in document.launch_template_versions.unwrap_or_default() {
            let name = version.launch_template_name.or(version.launch_template_id).unwrap_or_default();
            let name = version
                .version_number
                .map_or_else(|| name.clone(), |number| format!("{name} version {number}"));
            self.templates.push((name, version.launch_template_data));
        }
        let bare = document.launch_template_data.or_else(|| document.bare.into_template());
        self.templates.extend(bare.map(|data| (file.to_owned(), data)));
        self.requests.extend(all(document.spot_instance_requests));
        self.fleets.extend(document.fleets.unwrap_or_default());
        let old = document.spot_fleet_request_configs.unwrap_or_default();
        self.fleets.extend(old.into_iter().map(FleetShape::from));
        self.groups.extend(document.auto_scaling_groups.unwrap_or_default());
        if let Some(hooks) = document.lifecycle_hooks {
            if hooks.is_empty() {
                self.hooks.insert(String::new(), Vec::new());
            }
            for hook in hooks {
                let of = hook.auto_scaling_group_name.clone().unwrap_or_default();
                self.hooks.entry(of).or_default().push(hook.into());
            }
        }
        let volumes = document.volumes.unwrap_or_default();
        self.volumes.extend(volumes.into_iter().map(|one| (one.volume_id.clone(), one)));
        let types = document.instance_types.unwrap_or_default();
        self.types.extend(types.into_iter().map(|one| (one.instance_type.clone(), one)));
        let images = document.images.unwrap_or_default();
        self.images.extend(images.into_iter().map(|one| (one.image_id.clone(), one)));
        let groups = document.target_groups.unwrap_or_default();
        self.target_groups.extend(groups.into_iter().map(|one| one.target_group_arn));
        self.delays.extend(document.attributes.map(|attributes| (file.to_owned(), delay(&attributes))));
        self.tasks.extend(document.task_definition.or_else(|| document.bare_task.into_task()));
        if let Some(services) = document.services {
            let services = services.into_iter().map(|one| (one.desired_count, one.task_definition));
            self.services.get_or_insert_default().extend(services);
        }
        let quotas = document.quotas.unwrap_or_default().into_iter().chain(document.quota);
        self.quotas.extend(quotas.map(|quota| (quota.quota_code, quota.value)));
    }

    fn facts(mut self) -> Facts {
        let fleets: Vec<Fleet> = self.fleets.iter().map(fleet).collect();
        let mut machines: Vec<Machine> = self.instances.iter().map(|one| self.instance(one)).collect();
        for request in &self.requests {
            match machines.iter_mut().find(|machine| request.instance_id.as_deref() == Some(&machine.name)) {
                Some(machine) => fill(machine, request),
                None if request.is_over() => {}
                None => {
                    let name =
                        request.instance_id.clone().or_else(|| request.spot_instance_request_id.clone());
                    let mut machine = Machine { name: name.unwrap_or_default(), ..Machine::default() };
                    fill(&mut machine, request);
                    machines.push(machine);
                }
            }
        }
        machines.extend(self.templates.iter().map(|(name, data)| self.template(name, data)));
        for machine in &mut machines {
            if machine.behaviour.is_none() {
                let of = fleets.iter().find(|fleet| machine.fleet.as_deref() == Some(&fleet.id));
                machine.behaviour = of.and_then(|fleet| fleet.behaviour);
            }
            let kind = machine.instance_type.as_ref().and_then(|name| self.types.get(name));
            machine.type_hibernates = kind.and_then(|kind| kind.hibernation_supported);
            machine.memory_mib = kind.and_then(|kind| kind.memory_info.as_ref()?.size_in_mi_b);
        }
        let on_demand = self.on_demand();
        let tasks = self.tasks.iter().map(task).collect();
        let target_groups = self.target_groups();
        Facts { machines, fleets, groups: self.groups(), target_groups, tasks, on_demand, ..Facts::default() }
    }

    fn instance(&self, from: &Instance) -> Machine {
        let group = self.groups.iter().find(|group| group.has(&from.instance_id));
        let group = group.map(|group| group.auto_scaling_group_name.clone());
        let group = group.or_else(|| tag(&from.tags, "aws:autoscaling:groupName"));
        let fleet =
            tag(&from.tags, "aws:ec2:fleet-id").or_else(|| tag(&from.tags, "aws:ec2spot:fleet-request-id"));
        let root = match from.root_device_type.as_deref() {
            Some("instance-store") => Some(Root::InstanceStore),
            Some("ebs") => Some(self.ebs_root(from)),
            Some(_) | None => None,
        };
        let metadata = from.metadata_options.as_ref();
        Machine {
            name: from.instance_id.clone(),
            is_spot: Some(from.instance_lifecycle.as_deref() == Some("spot")),
            // A group starts its instances through fleets of its own.
            fleet: fleet.filter(|_| group.is_none()),
            group,
            instance_type: from.instance_type.clone(),
            is_windows: Some(from.platform.as_deref().is_some_and(is_windows)),
            is_hibernation_enabled: from.hibernation_options.as_ref().and_then(|options| options.configured),
            root,
            has_metadata: metadata.and_then(|options| options.is_enabled()),
            hop_limit: metadata.and_then(|options| options.http_put_response_hop_limit),
            ..Machine::default()
        }
    }

    fn ebs_root(&self, from: &Instance) -> Root {
        let device = from.root_device_name.as_deref();
        let mapping = from.block_device_mappings.iter().find(|one| one.device_name.as_deref() == device);
        let volume = mapping.and_then(|mapping| mapping.ebs.as_ref()?.volume_id.clone());
        let found = volume.as_ref().and_then(|id| self.volumes.get(id));
        Root::Ebs {
            gib: found.and_then(|one| one.size),
            is_encrypted: found.and_then(|one| one.encrypted),
            volume,
        }
    }

    /// What it leaves open has EC2's default.
    ///
    /// Source: EC2 API reference, `SpotMarketOptions`, `HibernationOptionsRequest` (read November 2026).
    fn template(&self, name: &str, data: &TemplateData) -> Machine {
        let market = data.instance_market_options.as_ref();
        let spot = market.and_then(|market| market.spot_options.as_ref());
        let hibernates =
            data.hibernation_options.as_ref().and_then(|options| options.configured) == Some(true);
        let default = if hibernates { Action::Hibernate } else { Action::Terminate };
        let image = data.image_id.as_ref().and_then(|id| self.images.get(id));
        let hops_of_image =
            image.map(|image| if image.imds_support.as_deref() == Some("v2.0") { 2 } else { 1 });
        let metadata = data.metadata_options.as_ref();
        let kind = spot.and_then(|spot| spot.spot_instance_type.as_deref()).unwrap_or("one-time");
        Machine {
            name: name.to_owned(),
            is_template: true,
            is_spot: market.map(|market| market.market_type.as_deref() == Some("spot")),
            behaviour: Some(spot.and_then(|spot| behaviour(spot.behaviour.as_deref())).unwrap_or(default)),
            request: request_kind(kind),
            price: spot.and_then(|spot| spot.max_price.clone()).map(MaximumPrice::Set),
            instance_type: data.instance_type.clone(),
            image: data.image_id.clone(),
            is_windows: image.map(|image| image.platform.as_deref().is_some_and(is_windows)),
            is_hibernation_enabled: Some(hibernates),
            root: image.and_then(|image| root_of_image(image, &data.block_device_mappings)),
            has_metadata: metadata.and_then(|options| options.is_enabled()),
            hop_limit: metadata.and_then(|options| options.http_put_response_hop_limit).or(hops_of_image),
            ..Machine::default()
        }
    }

    fn groups(&mut self) -> Vec<Group> {
        let mut groups: Vec<Group> = self.groups.iter().map(group).collect();
        let nobody_s = self.hooks.remove("");
        for (name, hooks) in std::mem::take(&mut self.hooks) {
            match groups.iter_mut().find(|group| group.name == name) {
                Some(group) => group.hooks = Some(hooks),
                None => groups.push(Group { name, hooks: Some(hooks), ..Group::default() }),
            }
        }
        // An answer without hooks does not say of which group it is.
        let mut open = groups.iter_mut().filter(|group| group.hooks.is_none());
        if let (Some(none), Some(group), None) = (nobody_s, open.next(), open.next()) {
            group.hooks = Some(none);
        }
        groups
    }

    fn target_groups(&self) -> Vec<TargetGroup> {
        let of_groups = self.groups.iter().flat_map(|group| &group.target_group_arns);
        let mut arns: Vec<&String> = self.target_groups.iter().chain(of_groups).collect();
        arns.sort();
        arns.dedup();
        match (arns.as_slice(), self.delays.as_slice()) {
            // One of each belong together.
            ([arn], [(_, delay)]) => vec![TargetGroup { arn: (*arn).clone(), delay: *delay }],
            // Of more it cannot be told which belongs to which.
            (arns, []) => arns.iter().map(|arn| TargetGroup { arn: (*arn).clone(), delay: None }).collect(),
            (_, delays) => {
                delays.iter().map(|(file, delay)| TargetGroup { arn: file.clone(), delay: *delay }).collect()
            }
        }
    }

    fn on_demand(&self) -> Vec<OnDemand> {
        let mut all = Vec::new();
        for pool in [Pool::Fargate, Pool::Ec2Standard] {
            let quota = self.quotas.get(pool.code().1).map(|vcpus| thousandths(*vcpus));
            let (is_used, needed) = match pool {
                Pool::Fargate => (self.services.is_some(), self.fargate_needs()),
                Pool::Ec2Standard => (!self.groups.is_empty(), self.groups_need()),
            };
            if is_used || quota.is_some() {
                all.push(OnDemand { pool, needed, quota });
            }
        }
        all
    }

    /// Thousandths of a vCPU; `None` while a service's task definition is not known.
    fn fargate_needs(&self) -> Option<u64> {
        let services = self.services.as_ref()?;
        services.iter().try_fold(0_u64, |sum, (count, definition)| {
            let task = self.tasks.iter().find(|task| definition.ends_with(&format!("/{}", task.name())))?;
            Some(sum.saturating_add(count.saturating_mul(task.vcpu_thousandths()?)))
        })
    }

    /// Every instance as large as the largest that runs; `None` where a type is not known.
    fn groups_need(&self) -> Option<u64> {
        let mut sum = 0_u64;
        for group in &self.groups {
            let mut largest = None;
            for instance in &group.instances {
                let name = instance.instance_type.as_deref().filter(|name| is_standard(name))?;
                largest = largest.max(Some(self.types.get(name)?.v_cpu_info.as_ref()?.default_v_cpus?));
            }
            sum = sum.saturating_add(largest?.saturating_mul(1_000).saturating_mul(group.desired_capacity?));
        }
        (!self.groups.is_empty()).then_some(sum)
    }
}

fn fill(machine: &mut Machine, request: &Request) {
    machine.is_spot = Some(true);
    machine.behaviour = Some(behaviour(request.behaviour.as_deref()).unwrap_or(Action::Terminate));
    machine.request = request.kind.as_deref().and_then(request_kind);
    machine.has_launch_group = Some(request.launch_group.is_some());
    machine.price = request.spot_price.clone().map(MaximumPrice::Shown);
    let launch = request.launch_specification.as_ref();
    machine.instance_type = machine.instance_type.take().or_else(|| launch?.instance_type.clone());
}

fn behaviour(text: Option<&str>) -> Option<Action> {
    match text {
        Some("terminate") => Some(Action::Terminate),
        Some("stop") => Some(Action::Stop),
        Some("hibernate") => Some(Action::Hibernate),
        Some(_) | None => None,
    }
}

fn request_kind(text: &str) -> Option<RequestKind> {
    match text {
        "one-time" => Some(RequestKind::OneTime),
        "persistent" => Some(RequestKind::Persistent),
        _ => None,
    }
}

/// EC2 writes `windows` and `Windows`.
fn is_windows(platform: &str) -> bool {
    platform.eq_ignore_ascii_case("windows")
}

fn is_standard(instance_type: &str) -> bool {
    let letters: String = instance_type.chars().take_while(char::is_ascii_alphabetic).collect();
    STANDARD.contains(letters.chars().next().unwrap_or('-')) && !ELSEWHERE.contains(&letters.as_str())
}

/// The image's root volume, with what the template says of it over it.
fn root_of_image(image: &Image, over: &[Mapping]) -> Option<Root> {
    match image.root_device_type.as_deref() {
        Some("instance-store") => Some(Root::InstanceStore),
        Some("ebs") => {
            let of = |list: &[Mapping]| {
                let root = list.iter().find(|one| one.device_name == image.root_device_name)?;
                let ebs = root.ebs.as_ref()?;
                Some((ebs.volume_size, ebs.encrypted))
            };
            let (own, theirs) =
                (of(over).unwrap_or_default(), of(&image.block_device_mappings).unwrap_or_default());
            Some(Root::Ebs { volume: None, gib: own.0.or(theirs.0), is_encrypted: own.1.or(theirs.1) })
        }
        Some(_) | None => None,
    }
}

fn fleet(from: &FleetShape) -> Fleet {
    let spot = from.spot_options.as_ref();
    let kind = match from.kind.as_deref() {
        Some("maintain") => Some(FleetKind::Maintain),
        Some("request") => Some(FleetKind::Request),
        Some("instant") => Some(FleetKind::Instant),
        Some(_) | None => None,
    };
    let price = from
        .launch_template_configs
        .iter()
        .flat_map(|one| &one.overrides)
        .find_map(|one| one.max_price.clone());
    Fleet {
        id: from.fleet_id.clone(),
        kind,
        behaviour: behaviour(spot.and_then(|spot| spot.instance_interruption_behavior.as_deref())),
        rebalances: Some(spot.is_some_and(|spot| spot.rebalances())),
        price: Some(price.map_or(MaximumPrice::NotSet, MaximumPrice::Set)),
    }
}

fn group(from: &GroupShape) -> Group {
    let mixed = from.mixed_instances_policy.as_ref();
    let price = mixed.map(|policy| {
        let price = policy.instances_distribution.as_ref().and_then(|one| one.spot_max_price.clone());
        price.filter(|price| !price.is_empty()).map_or(MaximumPrice::NotSet, MaximumPrice::Set)
    });
    Group {
        name: from.auto_scaling_group_name.clone(),
        // Left out where it never was set.
        rebalances: Some(from.capacity_rebalance.unwrap_or(false)),
        price,
        hooks: None,
    }
}

fn task(from: &TaskDefinition) -> Task {
    let container = |one: &super::wire::ContainerShape| Container {
        name: one.name.clone(),
        stop_timeout: one.stop_timeout.map(Millis::from_secs),
    };
    Task { name: from.name(), containers: from.container_definitions.iter().map(container).collect() }
}

fn delay(attributes: &[Attribute]) -> Option<Millis> {
    let found = attributes.iter().find(|one| one.key == "deregistration_delay.timeout_seconds")?;
    found.value.parse().ok().map(Millis::from_secs)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a float is cut off at the ends")]
fn thousandths(vcpus: f64) -> u64 {
    (vcpus * 1_000.0) as u64
}

#[cfg(test)]
#[path = "told_tests.rs"]
mod tests;
