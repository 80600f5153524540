//! CloudWatch: publishing metrics.

use std::time::Duration;

use aws_sdk_cloudwatch::types::{Dimension, MetricDatum, StandardUnit};
use aws_smithy_types::DateTime;

use crate::client::call;
use crate::{Aws, AwsError, Operation};

/// Source: CloudWatch API reference, `PutMetricData` (read 2023): at most 1,000 metrics and 1 MB a call.
pub const BATCH: usize = 1_000;

/// Of those 1 MB a metric takes about this at most: names, unit and a few dimensions. 1,000 of them fit.
const DIMENSIONS_MAX: usize = 10;

/// CloudWatch, as one account sees it.
#[derive(Clone, Debug)]
pub struct CloudWatch(Aws);

/// What a metric counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Events or things.
    Count,
    /// Time.
    Milliseconds,
    /// Data.
    Bytes,
    /// A share of 100.
    Percent,
    /// Whatever it is: a score, a state, money.
    None,
}

/// One value of a metric. Its name and its dimensions together are its identity: an alarm must name both.
#[derive(Clone, Debug, PartialEq)]
pub struct Metric {
    /// Such as `SpotInterruption`.
    pub name: String,
    /// Name and value; few and bounded.
    pub dimensions: Vec<(String, String)>,
    /// What is counted.
    pub unit: Unit,
    /// How much.
    pub value: f64,
    /// When, in ms since 1970; `None`: when it arrives.
    pub at_ms: Option<i64>,
}

impl Aws {
    /// CloudWatch.
    #[must_use]
    pub fn cloudwatch(&self) -> CloudWatch {
        CloudWatch(self.clone())
    }
}

impl CloudWatch {
    /// Publishes metrics, in calls of [`BATCH`]. The first call that fails ends it.
    ///
    /// # Errors
    /// [`AwsError`].
    pub async fn put(&self, namespace: &str, metrics: &[Metric], within: Duration) -> Result<(), AwsError> {
        let until = tokio::time::Instant::now() + within;
        for batch in metrics.chunks(BATCH) {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let answer = async {
                let data = batch.iter().map(datum).collect();
                let request = self.0.cloudwatch_client().await.put_metric_data().namespace(namespace);
                request.set_metric_data(Some(data)).send().await
            };
            call(Operation::PutMetricData, namespace, left, answer).await?;
        }
        Ok(())
    }
}

fn datum(metric: &Metric) -> MetricDatum {
    let dimensions = metric.dimensions.iter().take(DIMENSIONS_MAX);
    let dimensions = dimensions.map(|(name, value)| Dimension::builder().name(name).value(value).build());
    MetricDatum::builder()
        .metric_name(&metric.name)
        .set_dimensions(Some(dimensions.collect()))
        .unit(match metric.unit {
            Unit::Count => StandardUnit::Count,
            Unit::Milliseconds => StandardUnit::Milliseconds,
            Unit::Bytes => StandardUnit::Bytes,
            Unit::Percent => StandardUnit::Percent,
            Unit::None => StandardUnit::None,
        })
        .value(metric.value)
        .set_timestamp(metric.at_ms.map(DateTime::from_millis))
        .build()
}
