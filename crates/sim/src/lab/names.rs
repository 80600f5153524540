//! Names and ARNs of the lab's world.

use lifeboat_core::failover::observation::Capacity;

/// Where the lab pretends to be.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    pub(crate) region: String,
    pub(crate) account: String,
    pub(crate) cluster: String,
    /// Makes task ids differ between runs.
    pub(crate) seed: u64,
}

impl Names {
    pub(crate) fn arn(&self, service: &str, rest: &str) -> String {
        format!("arn:aws:{service}:{}:{}:{rest}", self.region, self.account)
    }

    pub(crate) fn cluster(&self) -> String {
        self.arn("ecs", &format!("cluster/{}", self.cluster))
    }

    pub(crate) fn service(&self, name: &str) -> String {
        self.arn("ecs", &format!("service/{}/{name}", self.cluster))
    }

    pub(crate) fn capacity_provider(&self, capacity: Capacity) -> String {
        self.arn("ecs", &format!("capacity-provider/{}", provider(capacity)))
    }

    pub(crate) fn task_definition(&self, name: &str) -> String {
        self.arn("ecs", &format!("task-definition/{name}:1"))
    }

    pub(crate) fn task(&self, key: u64) -> String {
        self.arn("ecs", &format!("task/{}/{}", self.cluster, self.task_id(key)))
    }

    /// 32 hexadecimal digits, as AWS makes them; the last 16 are the task's key.
    pub(crate) fn task_id(&self, key: u64) -> String {
        let mixed = crate::rng::Rng::new(self.seed ^ key, 21).next();
        format!("{mixed:016x}{key:016x}")
    }

    /// The key of a task, from its id or ARN.
    pub(crate) fn task_key(&self, id: &str) -> Option<u64> {
        let id = id.rsplit('/').next().unwrap_or(id);
        let key = u64::from_str_radix(id.get(16..)?, 16).ok()?;
        (self.task_id(key) == id).then_some(key)
    }

    /// Whether a call means this cluster: by its name or its ARN.
    pub(crate) fn is_cluster(&self, given: &str) -> bool {
        given == self.cluster || given == self.cluster()
    }

    /// The name of a service, from its name or its ARN, with the cluster in it or not.
    pub(crate) fn service_name<'a>(&self, given: &'a str) -> &'a str {
        given.rsplit('/').next().unwrap_or(given)
    }
}

/// AWS's name of the capacity provider.
pub(crate) const fn provider(capacity: Capacity) -> &'static str {
    match capacity {
        Capacity::Spot => "FARGATE_SPOT",
        Capacity::OnDemand => "FARGATE",
    }
}

/// How the service of a pair is called.
pub(crate) fn service_of(pair: &str, capacity: Capacity) -> String {
    match capacity {
        Capacity::Spot => format!("{pair}-spot"),
        Capacity::OnDemand => format!("{pair}-standard"),
    }
}

/// A random-looking id in the form of a UUID.
pub(crate) fn uuid(high: u64, low: u64) -> String {
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        high >> 32,
        (high >> 16) & 0xffff,
        high & 0xfff,
        low >> 52,
        low & 0xffff_ffff_ffff
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_is_found_by_its_arn_and_by_its_id_and_others_are_not() {
        let names = Names {
            region: "us-east-1".to_owned(),
            account: "123456789012".to_owned(),
            cluster: "lab".to_owned(),
            seed: 3,
        };
        let arn = names.task(77);
        assert!(arn.starts_with("arn:aws:ecs:us-east-1:123456789012:task/lab/"), "{arn}");
        assert_eq!(names.task_key(&arn), Some(77));
        assert_eq!(names.task_key(&names.task_id(78)), Some(78));
        assert_eq!(names.task_key("0123456789abcdef000000000000004d"), None);
        assert_eq!(names.task_key("short"), None);
        assert_eq!(uuid(0x0123_4567_89ab_cdef, u64::MAX), "01234567-89ab-4def-8fff-ffffffffffff");
    }
}
