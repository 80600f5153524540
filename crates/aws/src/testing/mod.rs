//! Servers for tests, on loopback, started by the tests themselves. Not for use in the product.
//!
//! * [`Moto`]: most of AWS, as a process of its own, installed by `cargo xtask ci --step aws-server`.
//! * [`Front`]: before moto's DynamoDB, which is not atomic by itself.
//! * [`SqsFront`]: moto's SQS made safe for several receivers, with a record of who holds what.
//! * [`Wire`]: answers requests as a test says, or passes them on to moto: for what moto lacks, and for errors.

mod cbor;
mod front;
mod moto;
mod sqs;
mod wire;

pub use front::{Front, Transaction};
pub use moto::Moto;
pub use sqs::{Delivery, SqsFront};
pub use wire::{Reply, Request, Wire};

use crate::client::Keys;
use crate::{Aws, Options};

/// The region of every test.
pub const REGION: &str = "eu-west-1";

/// AWS at `endpoint`, with keys that no account knows.
///
/// # Panics
/// When the address is not on loopback: a test must never reach anything real.
#[must_use]
pub fn aws_at(endpoint: &str) -> Aws {
    assert!(endpoint.starts_with("http://127.0.0.1:"), "{endpoint} is not on loopback");
    Aws::new(Options {
        region: Some(REGION.to_owned()),
        profile: None,
        endpoint: Some(endpoint.to_owned()),
        // Python on a busy machine.
        read_timeout: Some(std::time::Duration::from_secs(60)),
        keys: Some(Keys { id: "AKTEST".to_owned(), secret: "SKTEST".to_owned() }),
    })
}

/// Environment variables by which another process finds AWS at `endpoint`.
#[must_use]
pub fn environment(endpoint: &str) -> Vec<(&'static str, String)> {
    let text = |text: &str| text.to_owned();
    vec![
        ("AWS_ENDPOINT_URL", text(endpoint)),
        ("AWS_REGION", text(REGION)),
        ("AWS_ACCESS_KEY_ID", text("AKTEST")),
        ("AWS_SECRET_ACCESS_KEY", text("SKTEST")),
        ("AWS_EC2_METADATA_DISABLED", text("true")),
    ]
}
