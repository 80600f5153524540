//! Failures that somebody ordered: errors, delays and silence of chosen operations.

use serde::Deserialize;

/// Orders in force at once.
const ORDERS_MAX: usize = 100;

/// What is to fail, and how.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Failure {
    /// Such as `ecs:UpdateService`, `ecs:*` or `*`.
    pub(crate) operation: String,
    /// The error's name, such as `ThrottlingException`; `hang` answers nothing, `delay` answers late.
    pub(crate) error: String,
    /// So many calls, then it is over.
    #[serde(default)]
    pub(crate) count: Option<u64>,
    /// For so long by the wall, then it is over.
    #[serde(default)]
    pub(crate) seconds: Option<f64>,
    /// Of `delay`: how late.
    #[serde(default)]
    pub(crate) delay_ms: u64,
    /// The HTTP status; 400 unless the error is the server's.
    #[serde(default)]
    pub(crate) status: Option<u16>,
    /// The call takes effect all the same: only its answer is lost.
    #[serde(default)]
    pub(crate) takes_effect: bool,
    #[serde(skip)]
    until: Option<i64>,
}

/// The orders in force, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    orders: Vec<Failure>,
}

impl Failures {
    /// False where there are too many already.
    pub(crate) fn add(&mut self, mut order: Failure, wall: i64) -> bool {
        if self.orders.len() >= ORDERS_MAX {
            return false;
        }
        #[expect(clippy::cast_possible_truncation, reason = "saturates, and a lab lasts no longer")]
        let span = order.seconds.map(|seconds| (seconds * 1000.0) as i64);
        order.until = span.map(|span| wall.saturating_add(span));
        self.orders.push(order);
        true
    }

    pub(crate) fn clear(&mut self) {
        self.orders.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.orders.len()
    }

    /// The order that this call falls under, if any.
    pub(crate) fn take(&mut self, operation: &str, wall: i64) -> Option<Failure> {
        self.orders.retain(|order| order.count != Some(0) && order.until.is_none_or(|until| wall < until));
        let order = self.orders.iter_mut().find(|order| matches(&order.operation, operation))?;
        if let Some(count) = &mut order.count {
            *count -= 1;
        }
        Some(order.clone())
    }
}

fn matches(pattern: &str, operation: &str) -> bool {
    pattern == operation
        || pattern == "*"
        || pattern.strip_suffix('*').is_some_and(|start| operation.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_ends_after_its_count_or_its_time() {
        let order = |text: &str| serde_json::from_str::<Failure>(text).expect("it is an order");
        let mut failures = Failures::default();
        assert!(failures.add(order(r#"{"operation":"ecs:*","error":"ThrottlingException","count":1}"#), 0));
        assert!(failures.add(order(r#"{"operation":"*","error":"hang","seconds":1}"#), 0));
        assert_eq!(failures.take("ecs:ListTasks", 5).expect("ordered").error, "ThrottlingException");
        assert_eq!(failures.take("ecs:ListTasks", 5).expect("ordered").error, "hang");
        assert!(failures.take("sqs:ReceiveMessage", 1_000).is_none());
        assert_eq!(failures.len(), 0);
    }
}
