//! `lifeboat render cloudformation`, checked by cfn-lint and by deploying it into moto.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use lifeboat_aws::testing::Moto;
use serde_json::{Value, json};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/source-b.toml")
}

fn lifeboat(args: &[&str], config: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lifeboat"));
    command.args(args).arg("--config").arg(config).stdin(Stdio::null());
    command.env("AWS_EC2_METADATA_DISABLED", "true").output().expect("it starts")
}

fn template() -> String {
    let done = lifeboat(&["render", "cloudformation", "--workload", "file-search"], &example());
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8(done.stdout).expect("text")
}

/// cfn-lint comes with moto; `None` where neither is installed, which CI makes a failure in [`Moto::start`].
fn cfn_lint() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    let program = cache.join("lifeboat/tools/moto-5.2.5/bin/cfn-lint");
    assert!(program.is_file() || std::env::var_os("LIFEBOAT_TEST_AWS").is_none(), "{}", program.display());
    program.is_file().then_some(program)
}

#[test]
fn cfn_lint_has_nothing_to_say_about_source_bs_set_up() {
    let Some(cfn_lint) = cfn_lint() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("lifeboat.json");
    std::fs::write(&file, template()).expect("written");
    let done = Command::new(cfn_lint).arg(&file).output().expect("it starts");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn deploy(moto: &Moto) {
    let made = moto.json(
        "ecs",
        "AmazonEC2ContainerServiceV20141113.CreateCluster",
        &json!({ "clusterName": "production" }),
    );
    assert_eq!(made["cluster"]["clusterName"], "production");
    let mut form = format!(
        "Action=CreateStack&Version=2010-05-15&StackName=lifeboat&Capabilities.member.1=CAPABILITY_IAM&TemplateBody={}",
        encoded(&template())
    );
    let parameters = [("Image", "lifeboat"), ("Subnets", "subnet-1,subnet-2"), ("SecurityGroups", "sg-1")];
    for (number, (name, value)) in parameters.into_iter().enumerate() {
        let prefix = format!("Parameters.member.{}", number + 1);
        form += &format!("&{prefix}.ParameterKey={name}&{prefix}.ParameterValue={}", encoded(value));
    }
    let answer = moto.query("cloudformation", &form);
    assert!(answer.contains("<StackId>"), "{answer}");
}

/// Each resource is looked at: moto says CREATE_COMPLETE of what it did not make. Alarms and the TTL are such; the
/// unit tests look at those in the template.
#[test]
fn every_resource_of_the_stack_is_there_and_events_reach_the_queue_through_the_rules() {
    let Some(moto) = Moto::start() else { return };
    deploy(&moto);
    let sqs = |operation: &str, input: Value| moto.json("sqs", &format!("AmazonSQS.{operation}"), &input);
    let queue = sqs("GetQueueUrl", json!({ "QueueName": "lifeboat-events" }))["QueueUrl"].clone();
    let shown = sqs("GetQueueAttributes", json!({ "QueueUrl": queue, "AttributeNames": ["All"] }));
    let redrive = shown["Attributes"]["RedrivePolicy"].as_str().expect("a redrive policy");
    assert!(redrive.contains(":lifeboat-events-dead"), "{redrive}");
    assert_eq!(shown["Attributes"]["VisibilityTimeout"], "30");

    let table = moto.json("dynamodb", "DynamoDB_20120810.DescribeTable", &json!({ "TableName": "lifeboat" }));
    let keys: Vec<&Value> = table["Table"]["KeySchema"]
        .as_array()
        .expect("keys")
        .iter()
        .map(|key| &key["AttributeName"])
        .collect();
    assert_eq!(keys, ["pk", "sk"]);
    let topics = moto.query("sns", "Action=ListTopics&Version=2010-03-31");
    assert!(
        topics.contains(":lifeboat-alerts<") && topics.contains(":lifeboat-alerts-warnings<"),
        "{topics}"
    );
    let dashboards = moto.query("monitoring", "Action=ListDashboards&Version=2010-08-01");
    assert!(
        dashboards.contains("lifeboat-fleet") && dashboards.contains("lifeboat-instances"),
        "{dashboards}"
    );
    let roles = moto.query("iam", "Action=ListRoles&Version=2010-05-08");
    assert!(roles.contains("ControllerRole") && roles.contains("StartRole"), "{roles}");

    let now = |detail: &Value, kind: &str, source: &str| {
        let entry =
            json!({ "Source": source, "DetailType": kind, "Detail": detail.to_string(), "Resources": [] });
        let put = moto.json("events", "AWSEvents.PutEvents", &json!({ "Entries": [entry] }));
        assert_eq!(put["FailedEntryCount"], 0);
    };
    let rules = moto.json("events", "AWSEvents.ListRules", &json!({}));
    let pattern = rules["Rules"].as_array().expect("rules").iter().find_map(|rule| {
        let pattern = rule["EventPattern"].as_str().expect("a pattern");
        pattern
            .contains("ECS Task State Change")
            .then(|| serde_json::from_str::<Value>(pattern).expect("JSON"))
    });
    let cluster = pattern.expect("a rule for tasks")["detail"]["clusterArn"][0].clone();
    let task = |provider: &str, wanted: &str| {
        json!({
            "clusterArn": cluster, "capacityProviderName": provider, "lastStatus": "RUNNING", "desiredStatus": wanted,
        })
    };
    now(&task("FARGATE", "RUNNING"), "ECS Task State Change", "aws.ecs");
    now(&task("FARGATE_SPOT", "STOPPED"), "ECS Task State Change", "aws.ecs");
    let refused = |reason: &str| json!({ "clusterArn": cluster, "eventName": "SERVICE_TASK_PLACEMENT_FAILURE", "reason": reason });
    now(&refused("RESOURCE:FARGATE"), "ECS Service Action", "aws.ecs");
    now(&refused("RESOURCE:CPU"), "ECS Service Action", "aws.ecs");
    let received = sqs("ReceiveMessage", json!({ "QueueUrl": queue, "MaxNumberOfMessages": 10 }));
    let mut details: Vec<String> = received["Messages"]
        .as_array()
        .expect("messages")
        .iter()
        .map(|message| {
            let body: Value = serde_json::from_str(message["Body"].as_str().expect("text")).expect("JSON");
            format!("{}{}", body["detail"]["capacityProviderName"], body["detail"]["reason"])
        })
        .collect();
    details.sort();
    assert_eq!(details, ["\"FARGATE_SPOT\"null", "null\"RESOURCE:FARGATE\""]);
}

#[test]
fn the_container_gets_a_configuration_that_names_the_stacks_resources() {
    let Some(moto) = Moto::start() else { return };
    deploy(&moto);
    let ecs = |operation: &str, input: Value| {
        moto.json("ecs", &format!("AmazonEC2ContainerServiceV20141113.{operation}"), &input)
    };
    let services = ecs("ListServices", json!({ "cluster": "production" }));
    assert!(services["serviceArns"][0].as_str().expect("a service").ends_with("/lifeboat-controller"));
    let task = ecs("DescribeTaskDefinition", json!({ "taskDefinition": "lifeboat-controller" }));
    let container = &task["taskDefinition"]["containerDefinitions"][0];
    let config = container["environment"][0]["value"].as_str().expect("a configuration");
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fleet.toml");
    std::fs::write(&file, config).expect("written");
    let read = lifeboat_controller::config::Config::read(&file).expect("it can be read again");
    let settings = read.settings().expect("it is good");
    assert_eq!(settings.services[0].name, "file-processor");
    let queue = read.queue.expect("a queue");
    assert!(queue.url.ends_with("/lifeboat-events"), "{}", queue.url);
    assert!(queue.dead_letters.expect("dead letters").ends_with("/lifeboat-events-dead"));
    assert_eq!(read.store.dynamodb.as_deref(), Some("lifeboat"));
    assert!(read.alerts.topic.expect("a topic").ends_with(":lifeboat-alerts"));
}

#[test]
fn a_rehearsals_configuration_is_not_rendered() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("fleet.toml");
    std::fs::write(&file, "endpoint = 'http://127.0.0.1:1'\n").expect("written");
    let done = lifeboat(&["render", "cloudformation"], &file);
    assert_eq!(done.status.code(), Some(125));
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(said.contains("for rehearsals"), "{said}");
}
