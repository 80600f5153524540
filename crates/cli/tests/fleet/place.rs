//! Where a fleet has its messages, files, pages and claims: directories, or SQS, S3 and DynamoDB as stand-ins.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lifeboat_aws::testing::{Moto, SqsFront, Wire, environment};
use lifeboat_worker::DirectoryQueue;
use serde_json::json;

use super::s3::S3Server;
use super::{MESSAGES, VISIBILITY};
use crate::harness::Machine;

/// A living worker begins what it received within milliseconds; on a loaded machine within seconds.
const BEGUN_WITHIN: Duration = Duration::from_secs(40);

/// A stand-in on a busy machine answers within this. A worker that gives up earlier loses a message that was on its
/// way to it until the message's time-out is over, which here it never is.
const PATIENCE: Duration = Duration::from_secs(120);

/// Files of one to five pages.
pub(crate) fn write_files(dir: &Path) {
    fs::create_dir_all(dir).expect("created");
    for n in 0..MESSAGES {
        let mut text = format!("<h1>document {n}</h1>\n");
        for line in 0..(n % 5 + 1) * 4 {
            text.push_str(&format!(
                "line {line} of {n} says word{} and more words than that\n",
                (n * 7 + line) % 50
            ));
        }
        fs::write(dir.join(format!("d{n:03}.txt")), text).expect("written");
    }
}

/// The place of one world.
pub(crate) trait Place {
    /// Lines of the example's configuration: where the files, the pages and the messages are.
    fn example(&self) -> String;

    /// Prepares the machine of instance `name`: its store, what its configuration says beside the rest.
    fn furnish(&mut self, machine: &mut Machine, name: &str) -> String;

    /// What a process finds in its environment on the machine of instance `name`, or on the test's own where there is
    /// no such machine.
    fn environment(&self, name: &str) -> Vec<(&'static str, String)>;

    /// Lets the time-outs pass of what machines hold that were killed. `holders`: where each message was last seen.
    fn expire(&mut self, killed: &BTreeSet<String>, holders: &BTreeMap<String, String>);

    /// Messages that wait, are in flight or were given up.
    fn left(&self) -> [u64; 3];

    /// Everything that is kept of tasks.
    fn kept(&self) -> Vec<PathBuf>;
}

/// Directories on one machine.
pub(crate) struct Directories {
    world: PathBuf,
    files: PathBuf,
    /// Deliveries that were in flight when a machine was killed, and in no log.
    not_begun: BTreeMap<String, Instant>,
    /// Killed machines whose deliveries have been looked at.
    seen: BTreeSet<String>,
}

impl Directories {
    pub(crate) fn new(world: &Path, files: &Path) -> Self {
        let (world, files) = (world.to_owned(), files.to_owned());
        Self { world, files, not_begun: BTreeMap::new(), seen: BTreeSet::new() }
    }

    /// What is in flight: each delivery with its message.
    fn in_flight(&self) -> BTreeMap<String, String> {
        let flight = fs::read_dir(self.world.join("queue/flight")).expect("readable").flatten();
        flight
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .map(|name| (name.clone(), name.split('.').next().expect("the id").to_owned()))
            .collect()
    }

    fn let_its_time_pass(&self, name: &str) {
        let file = fs::File::options().write(true).open(self.world.join("queue/flight").join(name));
        let _ = file.and_then(|file| file.set_modified(std::time::SystemTime::UNIX_EPOCH)); // deleted just now
    }
}

impl Place for Directories {
    fn example(&self) -> String {
        let at = self.world.display();
        format!(
            "files = \"file://{}\"\nresults = \"file://{at}/results\"\nqueue = \"file://{at}/queue\"\n",
            self.files.display(),
        )
    }

    fn furnish(&mut self, _: &mut Machine, _: &str) -> String {
        String::new()
    }

    fn environment(&self, _: &str) -> Vec<(&'static str, String)> {
        Vec::new()
    }

    /// What a killed machine held becomes visible when its time-out is over. That is now. What was received and not
    /// begun is in no log: a living worker begins it soon.
    fn expire(&mut self, killed: &BTreeSet<String>, holders: &BTreeMap<String, String>) {
        let new: Vec<String> = killed.difference(&self.seen).cloned().collect();
        if new.is_empty() && self.not_begun.is_empty() {
            return;
        }
        let in_flight = self.in_flight();
        if !new.is_empty() {
            self.seen.extend(new.iter().cloned());
            for (name, message) in &in_flight {
                match holders.get(message) {
                    Some(instance) if new.contains(instance) => self.let_its_time_pass(name),
                    Some(_) => {}
                    None => drop(self.not_begun.insert(name.clone(), Instant::now())),
                }
            }
        }
        let is_open =
            |name: &String| in_flight.get(name).is_some_and(|message| !holders.contains_key(message));
        self.not_begun.retain(|name, _| is_open(name));
        let over = self.not_begun.iter().filter(|(_, since)| since.elapsed() > BEGUN_WITHIN);
        for name in over.map(|(name, _)| name) {
            self.let_its_time_pass(name);
        }
    }

    fn left(&self) -> [u64; 3] {
        let queue = DirectoryQueue::open(&self.world.join("queue"));
        let depth = queue.and_then(|queue| queue.depth()).expect("counted");
        [depth.ready, depth.in_flight, depth.dead].map(|count| u64::try_from(count).expect("few"))
    }

    fn kept(&self) -> Vec<PathBuf> {
        files_below(&self.world.join("store/search"))
    }
}

/// Stand-ins for AWS, for any number of worlds one after the other.
pub(crate) struct StandIns {
    moto: Moto,
    s3: S3Server,
}

impl StandIns {
    /// Starts them with the files in the bucket, or says that there are none to start.
    pub(crate) fn start() -> Option<Self> {
        let (moto, s3) = (Moto::start()?, S3Server::start()?);
        write_files(&s3.directory.path().join("bucket/files"));
        Some(Self { moto, s3 })
    }

    /// The newest state that a world's table has of a workload.
    pub(crate) fn state_of(&self, world: &str, workload: &str) -> serde_json::Value {
        let get = |sort: &str| {
            let key = json!({ "workload": { "S": workload }, "instance_time": { "S": sort } });
            let body = json!({ "TableName": table_of(world), "Key": key });
            self.moto.json("dynamodb", "DynamoDB_20120810.GetItem", &body)["Item"].clone()
        };
        let newest = get("newest");
        let item = get(newest["item"]["S"].as_str().expect("the newest is named"));
        serde_json::from_str(item["state"]["S"].as_str().expect("text")).expect("JSON")
    }

    /// The place of the world called `name`.
    pub(crate) fn place(&self, name: &str) -> OnAws<'_> {
        let front = SqsFront::new(&self.moto);
        let attributes = json!({ "VisibilityTimeout": VISIBILITY.as_secs().to_string() });
        let queue = self.moto.create_queue(name, &attributes);
        self.moto.create_table(&table_of(name), "workload", Some("instance_time"));
        let doors = BTreeMap::from([(TEST.to_owned(), front.door(TEST))]);
        OnAws { stand_ins: self, name: name.to_owned(), front, queue, doors, killed: BTreeSet::new() }
    }
}

/// The table of a world's states. Each has one, as each has a store: which state is the newer is told by the claims.
fn table_of(world: &str) -> String {
    format!("{world}-states")
}

/// The door of the test itself.
const TEST: &str = "test";

/// One world on the stand-ins.
pub(crate) struct OnAws<'a> {
    stand_ins: &'a StandIns,
    name: String,
    front: SqsFront,
    queue: String,
    doors: BTreeMap<String, Wire>,
    killed: BTreeSet<String>,
}

impl OnAws<'_> {
    fn bucket(&self, path: &str) -> String {
        format!("s3://bucket/{path}?endpoint=http://127.0.0.1:{}", self.stand_ins.s3.port)
    }
}

impl Place for OnAws<'_> {
    fn example(&self) -> String {
        let results = self.bucket(&format!("{}/results", self.name));
        format!(
            "files = \"{}\"\nresults = \"{results}\"\nqueue = \"{}\"\nsqs_timeout_ms = {}\n",
            self.bucket("files"),
            self.queue,
            PATIENCE.as_millis()
        )
    }

    fn furnish(&mut self, machine: &mut Machine, name: &str) -> String {
        machine.store = PathBuf::from(self.bucket(&format!("{}/store", self.name)));
        self.doors.insert(name.to_owned(), self.front.door(name));
        format!("state = \"dynamodb://{}\"\n", table_of(&self.name))
    }

    fn environment(&self, name: &str) -> Vec<(&'static str, String)> {
        let door = self.doors.get(name).unwrap_or_else(|| &self.doors[TEST]);
        let all = environment(&door.url()).into_iter();
        all.filter(|(name, _)| *name != "AWS_EC2_METADATA_DISABLED").collect()
    }

    /// Again and again: a message may have been on its way when the machine died.
    fn expire(&mut self, killed: &BTreeSet<String>, _: &BTreeMap<String, String>) {
        self.killed.clone_from(killed);
        for machine in killed {
            self.front.expire(&self.stand_ins.moto, machine);
        }
    }

    fn left(&self) -> [u64; 3] {
        // What a killed machine had sent may arrive after its end.
        let stale: Vec<String> =
            self.front.stale().into_iter().filter(|machine| !self.killed.contains(machine)).collect();
        assert!(stale.is_empty(), "somebody used a receipt that was out of date: {stale:?}");
        let body = json!({ "QueueUrl": self.queue, "AttributeNames": ["All"] });
        let answer = self.stand_ins.moto.json("sqs", "AmazonSQS.GetQueueAttributes", &body);
        let count = |name: &str| {
            let text = answer["Attributes"][format!("ApproximateNumberOfMessages{name}")].as_str();
            text.expect("there").parse().expect("a number")
        };
        [count(""), count("NotVisible"), count("Delayed")]
    }

    fn kept(&self) -> Vec<PathBuf> {
        files_below(&self.stand_ins.s3.directory.path().join(format!("bucket/{}/store/search", self.name)))
    }
}

/// Every file below a directory.
fn files_below(dir: &Path) -> Vec<PathBuf> {
    let (mut found, mut open) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if entry.path().is_dir() { open.push(entry.path()) } else { found.push(entry.path()) }
        }
    }
    found
}
