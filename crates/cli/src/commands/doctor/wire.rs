//! What `aws` prints, as far as a precondition depends on it. Everything may be missing; what is not known is skipped.

use lifeboat_core::precondition::Hook;
use lifeboat_core::time::Millis;
use serde::Deserialize;

/// One file: whatever of this it has.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Document {
    pub(super) reservations: Option<Vec<Reservation>>,
    pub(super) launch_template_versions: Option<Vec<TemplateVersion>>,
    pub(super) launch_template_data: Option<TemplateData>,
    pub(super) spot_instance_requests: Option<Vec<Request>>,
    pub(super) fleets: Option<Vec<FleetShape>>,
    pub(super) spot_fleet_request_configs: Option<Vec<SpotFleet>>,
    pub(super) auto_scaling_groups: Option<Vec<GroupShape>>,
    pub(super) lifecycle_hooks: Option<Vec<HookShape>>,
    pub(super) volumes: Option<Vec<Volume>>,
    pub(super) instance_types: Option<Vec<TypeShape>>,
    pub(super) images: Option<Vec<Image>>,
    pub(super) target_groups: Option<Vec<TargetGroupShape>>,
    pub(super) attributes: Option<Vec<Attribute>>,
    pub(super) quotas: Option<Vec<Quota>>,
    pub(super) quota: Option<Quota>,
    #[serde(rename = "taskDefinition")]
    pub(super) task_definition: Option<TaskDefinition>,
    #[serde(rename = "services")]
    pub(super) services: Option<Vec<Service>>,
    /// A launch template's data without anything around it.
    #[serde(flatten)]
    pub(super) bare: Bare,
    /// A task definition without anything around it.
    #[serde(flatten)]
    pub(super) bare_task: BareTask,
}

impl Document {
    /// Whether anything in it is known.
    pub(super) fn says_something(&self) -> bool {
        [
            self.reservations.is_some(),
            self.launch_template_versions.is_some(),
            self.launch_template_data.is_some(),
            self.spot_instance_requests.is_some(),
            self.fleets.is_some(),
            self.spot_fleet_request_configs.is_some(),
            self.auto_scaling_groups.is_some(),
            self.lifecycle_hooks.is_some(),
            self.volumes.is_some(),
            self.instance_types.is_some(),
            self.images.is_some(),
            self.target_groups.is_some(),
            self.attributes.is_some(),
            self.quotas.is_some(),
            self.quota.is_some(),
            self.task_definition.is_some(),
            self.services.is_some(),
            self.bare.says_something(),
            self.bare_task.container_definitions.is_some(),
        ]
        .contains(&true)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Bare {
    instance_market_options: Option<Market>,
    hibernation_options: Option<Hibernation>,
    metadata_options: Option<Metadata>,
    image_id: Option<String>,
    instance_type: Option<String>,
    block_device_mappings: Option<Vec<Mapping>>,
}

impl Bare {
    fn says_something(&self) -> bool {
        self.instance_market_options.is_some()
            || self.hibernation_options.is_some()
            || self.metadata_options.is_some()
            || self.image_id.is_some()
    }

    pub(super) fn into_template(self) -> Option<TemplateData> {
        self.says_something().then(|| TemplateData {
            instance_market_options: self.instance_market_options,
            hibernation_options: self.hibernation_options,
            metadata_options: self.metadata_options,
            image_id: self.image_id,
            instance_type: self.instance_type,
            block_device_mappings: self.block_device_mappings.unwrap_or_default(),
        })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct BareTask {
    family: Option<String>,
    cpu: Option<String>,
    container_definitions: Option<Vec<ContainerShape>>,
}

impl BareTask {
    pub(super) fn into_task(self) -> Option<TaskDefinition> {
        let container_definitions = self.container_definitions?;
        let family = self.family.unwrap_or_default();
        Some(TaskDefinition { family, revision: None, cpu: self.cpu, container_definitions })
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Reservation {
    pub(super) instances: Vec<Instance>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Instance {
    pub(super) instance_id: String,
    pub(super) instance_type: Option<String>,
    pub(super) instance_lifecycle: Option<String>,
    pub(super) platform: Option<String>,
    pub(super) root_device_type: Option<String>,
    pub(super) root_device_name: Option<String>,
    pub(super) block_device_mappings: Vec<Mapping>,
    pub(super) hibernation_options: Option<Hibernation>,
    pub(super) metadata_options: Option<Metadata>,
    pub(super) tags: Vec<Tag>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Tag {
    key: String,
    value: String,
}

/// The value of a tag.
pub(super) fn tag(tags: &[Tag], key: &str) -> Option<String> {
    tags.iter().find(|tag| tag.key == key).map(|tag| tag.value.clone())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Mapping {
    pub(super) device_name: Option<String>,
    pub(super) ebs: Option<Ebs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Ebs {
    pub(super) volume_id: Option<String>,
    pub(super) volume_size: Option<u64>,
    pub(super) encrypted: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Hibernation {
    pub(super) configured: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Metadata {
    http_endpoint: Option<String>,
    pub(super) http_put_response_hop_limit: Option<u32>,
}

impl Metadata {
    pub(super) fn is_enabled(&self) -> Option<bool> {
        self.http_endpoint.as_deref().map(|state| state != "disabled")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TemplateVersion {
    pub(super) launch_template_id: Option<String>,
    pub(super) launch_template_name: Option<String>,
    pub(super) version_number: Option<u64>,
    pub(super) launch_template_data: TemplateData,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TemplateData {
    pub(super) instance_market_options: Option<Market>,
    pub(super) hibernation_options: Option<Hibernation>,
    pub(super) metadata_options: Option<Metadata>,
    pub(super) image_id: Option<String>,
    pub(super) instance_type: Option<String>,
    pub(super) block_device_mappings: Vec<Mapping>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Market {
    pub(super) market_type: Option<String>,
    pub(super) spot_options: Option<SpotOptions>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct SpotOptions {
    pub(super) max_price: Option<String>,
    pub(super) spot_instance_type: Option<String>,
    #[serde(rename = "InstanceInterruptionBehavior")]
    pub(super) behaviour: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Request {
    pub(super) spot_instance_request_id: Option<String>,
    pub(super) instance_id: Option<String>,
    #[serde(rename = "InstanceInterruptionBehavior")]
    pub(super) behaviour: Option<String>,
    #[serde(rename = "Type")]
    pub(super) kind: Option<String>,
    pub(super) spot_price: Option<String>,
    pub(super) launch_group: Option<String>,
    pub(super) launch_specification: Option<LaunchSpecification>,
    state: Option<String>,
}

impl Request {
    /// Whether it starts nothing any more.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.state.as_deref(), Some("closed" | "cancelled" | "failed"))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct LaunchSpecification {
    pub(super) instance_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct FleetShape {
    pub(super) fleet_id: String,
    #[serde(rename = "Type")]
    pub(super) kind: Option<String>,
    pub(super) spot_options: Option<FleetSpot>,
    pub(super) launch_template_configs: Vec<TemplateConfig>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct FleetSpot {
    pub(super) instance_interruption_behavior: Option<String>,
    maintenance_strategies: Option<Strategies>,
}

impl FleetSpot {
    pub(super) fn rebalances(&self) -> bool {
        let strategies = self.maintenance_strategies.as_ref();
        strategies.and_then(|one| one.capacity_rebalance.as_ref()?.replacement_strategy.as_ref()).is_some()
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Strategies {
    capacity_rebalance: Option<Rebalance>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Rebalance {
    replacement_strategy: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TemplateConfig {
    pub(super) overrides: Vec<Override>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Override {
    pub(super) max_price: Option<String>,
}

/// The older kind of fleet.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct SpotFleet {
    spot_fleet_request_id: String,
    spot_fleet_request_config: SpotFleetConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct SpotFleetConfig {
    #[serde(rename = "Type")]
    kind: Option<String>,
    instance_interruption_behavior: Option<String>,
    spot_price: Option<String>,
    spot_maintenance_strategies: Option<Strategies>,
}

impl From<SpotFleet> for FleetShape {
    fn from(from: SpotFleet) -> Self {
        let config = from.spot_fleet_request_config;
        Self {
            fleet_id: from.spot_fleet_request_id,
            kind: config.kind,
            spot_options: Some(FleetSpot {
                instance_interruption_behavior: config.instance_interruption_behavior,
                maintenance_strategies: config.spot_maintenance_strategies,
            }),
            launch_template_configs: vec![TemplateConfig {
                overrides: vec![Override { max_price: config.spot_price }],
            }],
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct GroupShape {
    pub(super) auto_scaling_group_name: String,
    pub(super) capacity_rebalance: Option<bool>,
    pub(super) mixed_instances_policy: Option<MixedPolicy>,
    pub(super) instances: Vec<Member>,
    pub(super) desired_capacity: Option<u64>,
    #[serde(rename = "TargetGroupARNs")]
    pub(super) target_group_arns: Vec<String>,
}

impl GroupShape {
    pub(super) fn has(&self, instance: &str) -> bool {
        self.instances.iter().any(|one| one.instance_id == instance)
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Member {
    instance_id: String,
    pub(super) instance_type: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct MixedPolicy {
    pub(super) instances_distribution: Option<Distribution>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Distribution {
    pub(super) spot_max_price: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct HookShape {
    pub(super) auto_scaling_group_name: Option<String>,
    lifecycle_hook_name: String,
    lifecycle_transition: Option<String>,
    heartbeat_timeout: Option<u64>,
}

impl From<HookShape> for Hook {
    fn from(from: HookShape) -> Self {
        Self {
            name: from.lifecycle_hook_name,
            is_terminating: from.lifecycle_transition.as_deref()
                == Some("autoscaling:EC2_INSTANCE_TERMINATING"),
            timeout: from.heartbeat_timeout.map(Millis::from_secs),
        }
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Volume {
    pub(super) volume_id: String,
    pub(super) size: Option<u64>,
    pub(super) encrypted: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TypeShape {
    pub(super) instance_type: String,
    pub(super) hibernation_supported: Option<bool>,
    pub(super) memory_info: Option<Memory>,
    #[serde(rename = "VCpuInfo")]
    pub(super) v_cpu_info: Option<VCpus>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Memory {
    #[serde(rename = "SizeInMiB")]
    pub(super) size_in_mi_b: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VCpus {
    #[serde(rename = "DefaultVCpus")]
    pub(super) default_v_cpus: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Image {
    pub(super) image_id: String,
    pub(super) platform: Option<String>,
    pub(super) imds_support: Option<String>,
    pub(super) root_device_type: Option<String>,
    pub(super) root_device_name: Option<String>,
    pub(super) block_device_mappings: Vec<Mapping>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct TargetGroupShape {
    pub(super) target_group_arn: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Attribute {
    pub(super) key: String,
    pub(super) value: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Quota {
    pub(super) quota_code: String,
    pub(super) value: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TaskDefinition {
    pub(super) family: String,
    pub(super) revision: Option<u64>,
    pub(super) cpu: Option<String>,
    pub(super) container_definitions: Vec<ContainerShape>,
}

impl TaskDefinition {
    /// `FAMILY:REVISION`, as its ARN ends.
    pub(super) fn name(&self) -> String {
        self.revision.map_or_else(|| self.family.clone(), |number| format!("{}:{number}", self.family))
    }

    /// Source: ECS API reference, `TaskDefinition` (read 2023): 1,024 units are a vCPU; `.5 vCPU` is another way to
    /// write 512, which `describe-task-definition` does not.
    pub(super) fn vcpu_thousandths(&self) -> Option<u64> {
        let units: u64 = self.cpu.as_ref()?.parse().ok()?;
        Some(units.saturating_mul(1_000).div_ceil(1_024))
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ContainerShape {
    pub(super) name: String,
    pub(super) stop_timeout: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Service {
    pub(super) desired_count: u64,
    pub(super) task_definition: String,
}
