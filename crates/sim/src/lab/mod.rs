//! The ECS world over AWS's own wire protocols, on loopback: the real binary, through the real SDK, can be watched
//! failing over and back on a laptop, with no account.
//!
//! Everything is one HTTP end point: give it to the SDK as `AWS_ENDPOINT_URL`. Served are, as far as a controller
//! needs them: ECS (JSON 1.1: DescribeClusters, DescribeServices, ListServices, ListTasks, DescribeTasks,
//! UpdateService of the desired count, tags), SQS (JSON 1.0: one queue of events with dead letters), CloudWatch
//! PutMetricData (CBOR, JSON or query), SNS Publish (query), SSM SendCommand (JSON 1.1). DynamoDB is not; anything
//! else answers `UnknownOperationException`. **Signatures are not checked**: any key works, and for that reason the
//! lab listens on loopback only and refuses other host names.
//!
//! # Time
//!
//! The world runs at a speed; 0 stands still until `/lab/advance`. The stamps on the wire are [`Stamps::Wall`] (the
//! machine's own time: a client with the right clock divides its durations by the speed) or [`Stamps::World`] (the
//! client's clock must follow the lab's; `GET /lab/time` tells it). A queue's visibility runs on the same clock as
//! the stamps, a long poll always on the wall's.
//!
//! # The control plane
//!
//! JSON over HTTP. Times ending in `_ms` are milliseconds of the world's time from its start, unless they say
//! otherwise.
//!
//! | request | body | what it does |
//! |---|---|---|
//! | `GET /lab/state` | | time, services with counts by kind, zones, queues, calls by outcome |
//! | `GET /lab/time` | | `world_ms`, `speed`, `stamps`, `stamp_ms` (what the wire shows as now), `wall_ms` |
//! | `GET /lab/calls?since=N&operation=ecs:UpdateService` | | calls that were answered, with outcome, after number N; of one operation, or all |
//! | `GET /lab/events?since=N` | | events and changes, with when their copies arrive, after number N |
//! | `GET /lab/counts` | | how many calls of each operation had each outcome |
//! | `GET /lab/queues` | | how many messages wait in each queue, are in flight, were sent and deleted |
//! | `GET /lab/messages?queue=NAME&since=N` | | messages that were sent, with when they were sent and deleted on the clock of the stamps, after number N |
//! | `GET /lab/timeline?service=NAME&from_ms=T` | | counts of a pair at each change |
//! | `GET /lab/metrics`, `/lab/alerts`, `/lab/commands` | | what was published, alerted, sent to instances |
//! | `POST /lab/advance` | `{"seconds": 60}` or `{"ms": 500}` | moves the world on at once |
//! | `POST /lab/speed` | `{"speed": 60}` | 0 stands still |
//! | `POST /lab/interrupt` | `{"tasks": 3, "service": "web", "announced": true}` | reclaims Spot tasks, whatever capacity there is |
//! | `POST /lab/capacity` | `{"spot": 0, "for_seconds": 1800}` | Spot's room for tasks, from now on or for a while |
//! | `POST /lab/quota` | `{"on_demand": 10}` | the account's On-Demand tasks; absent: no limit |
//! | `POST /lab/faults` | `{"lost": 0.1, "doubled": 0.1, "late": 0.1, "throttled": 0.1, "landed_late": 0.1, "stale": 0.1, "until": "10m"}` | what goes wrong from now on; what is left out does not |
//! | `POST /lab/fail` | `{"operation": "ecs:UpdateService", "error": "ThrottlingException", "count": 3}` | see below |
//! | `POST /lab/mend` | | ends every `fail` |
//! | `POST /lab/send` | `{"body": {…} or "text", "copies": 1}` | puts a message into the queue as it is; `"bodies": […]` several |
//! | `POST /lab/instance` | `{"kind": "interruption", "instances": ["i-1"]}` | an event of EC2 (`interruption`, `rebalance`, `stopping`, `stopped`, `shutting-down`, `terminated`), Auto Scaling (`lifecycle`) or Health (`health`) |
//! | `POST /lab/desired` | `{"service": "web-spot", "count": 5}` | somebody else changes a desired count |
//! | `POST /lab/service` | `{"name": "web", "deleted": true, "deploying": true, "target": 10}` | deletes a pair, makes one (`"deleted": false`), shows a deployment in progress |
//!
//! `fail` takes an operation (`ecs:UpdateService`, `ecs:*`, `*`) and an error: any of AWS's names, `hang` (no answer
//! for ten minutes), or `delay` with `delay_ms`. It ends after `count` calls or `seconds` of the wall's time; with
//! `"takes_effect": true` the call is carried out and only its answer is lost. To freeze the API is
//! `{"operation": "*", "error": "hang", "seconds": 30}`.
//!
//! # The parts
//!
//! * [`LabScenario`], [`Settings`]: what it plays, and how. [`listen`], [`serve`]: the server.
//! * `state`: everything it holds. `wire`: AWS's formats. `control`: the table above. `page.html`: the live page at `/`.

mod clock;
mod control;
mod events;
mod failures;
mod names;
mod queue;
mod record;
mod scenario;
mod server;
mod state;
mod task;
mod wire;

pub use clock::Stamps;
pub use scenario::{FaultShares, LabScenario, Pair, Step};
pub use server::{LabError, Settings, listen, serve};
