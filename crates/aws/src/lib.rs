//! The AWS calls that Lifeboat makes, and the one crate that names the AWS SDK.
//!
//! What it is: one file a service, with plain types at the edge; one deadline a call; errors by what the caller can
//! do. What it is not: a place of decisions. Nothing is retried here beyond a few quick tries of one request, nothing
//! is remembered but clients and credentials.
//!
//! ```no_run
//! # async fn example() -> Result<(), lifeboat_aws::AwsError> {
//! use std::time::Duration;
//! let aws = lifeboat_aws::Aws::new(lifeboat_aws::Options::default());
//! aws.sns().publish("arn:aws:sns:eu-west-1:123456789012:alerts", "subject", "message", Duration::from_secs(3)).await?;
//! # Ok(())
//! # }
//! ```
//!
//! * [`Aws`]: clients, built once and when they are first needed. [`Options`]: region, profile, end point.
//! * [`AwsError`], [`Kind`]: what went wrong, and what can be done. [`Operation`]: each call, with its IAM action.
//! * `testing` (a feature of that name): moto and a wire-level server, both on loopback, for tests.
//!
//! S3 is not here: the store speaks it through `object_store`.

mod client;
mod error;
mod operation;

pub mod autoscaling;
pub mod cloudwatch;
pub mod dynamodb;
pub mod ecs;
pub mod elb;
pub mod sns;
pub mod sqs;
pub mod ssm;
pub mod states;

#[cfg(feature = "testing")]
pub mod testing;

pub use client::{Aws, Options};
pub use error::{AwsError, Kind};
pub use operation::{Operation, Service};
