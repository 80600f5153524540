//! `[services]` and `[[service]]`: which services belong together.

use lifeboat_core::failover::machine::Target;
use serde::{Deserialize, Serialize};

use super::{ConfigError, PolicyConfig, Span, TASKS_MAX, Terms, invalid, name_of_cluster};

/// `[services]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicesConfig {
    /// How pairs are found: by `name` (default), by `tags`, or only those `listed`.
    pub by: Option<FindBy>,
    /// By name: the Spot service's name, with `{name}` in it.
    pub spot: Option<String>,
    /// By name: the On-Demand service's name, with `{name}` in it.
    pub on_demand: Option<String>,
    /// By tags: the tag that holds the pair's name.
    pub workload_tag: Option<String>,
    /// By tags: the tag that holds `spot` or `on-demand`.
    pub capacity_tag: Option<String>,
    /// How often services are looked for.
    pub every: Option<Span>,
}

/// How pairs are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FindBy {
    /// By the pattern of their names.
    #[default]
    Name,
    /// By their tags.
    Tags,
    /// Only those under `[[service]]`.
    Listed,
}

/// `[[service]]`
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// The pair's name.
    pub name: String,
    /// Its cluster; default: the only one of `clusters`.
    pub cluster: Option<String>,
    /// The Spot service; default: by the pattern.
    pub spot: Option<String>,
    /// The On-Demand service; default: by the pattern.
    pub on_demand: Option<String>,
    /// How many tasks are wanted; default: what the Spot service's desired count says.
    pub target: Option<u32>,
    /// In place of `[policy]`.
    pub policy: Option<PolicyConfig>,
}

/// A pair that the file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedService {
    /// Its name.
    pub name: String,
    /// Its cluster.
    pub cluster: String,
    /// The Spot service.
    pub spot: String,
    /// The On-Demand service.
    pub on_demand: String,
    /// What holds for it.
    pub terms: Terms,
}

/// How pairs are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Find {
    /// What is before and after `{name}`.
    Name {
        /// In the Spot service's name.
        spot: (String, String),
        /// In the On-Demand service's name.
        on_demand: (String, String),
    },
    /// The tags with the pair's name and its side.
    Tags {
        /// Holds the pair's name.
        workload: String,
        /// Holds `spot` or `on-demand`.
        capacity: String,
    },
    /// Only what is listed.
    Listed,
}

impl ServicesConfig {
    pub(super) fn find(&self) -> Result<Find, ConfigError> {
        let split = |key: &str, pattern: &str| {
            let why = format!("{pattern:?} must hold {{name}} once, and more than that");
            let parts = pattern.split_once("{name}").filter(|(before, after)| {
                !(after.contains("{name}") || (before.is_empty() && after.is_empty()))
            });
            parts.map(|(a, b)| (a.to_owned(), b.to_owned())).ok_or_else(|| invalid(key, &why))
        };
        match self.by.unwrap_or_default() {
            FindBy::Name => {
                let spot = split("services.spot", self.spot.as_deref().unwrap_or("{name}-spot"))?;
                let on_demand = self.on_demand.as_deref().unwrap_or("{name}-standard");
                let on_demand = split("services.on_demand", on_demand)?;
                if spot == on_demand {
                    return Err(invalid("services.on_demand", "must differ from services.spot"));
                }
                Ok(Find::Name { spot, on_demand })
            }
            FindBy::Tags => Ok(Find::Tags {
                workload: self.workload_tag.clone().unwrap_or_else(|| "lifeboat:workload".to_owned()),
                capacity: self.capacity_tag.clone().unwrap_or_else(|| "lifeboat:capacity".to_owned()),
            }),
            FindBy::Listed => Ok(Find::Listed),
        }
    }
}

impl ServiceConfig {
    pub(super) fn listed(
        &self,
        clusters: &[String],
        find: &Find,
        terms: Terms,
    ) -> Result<ListedService, ConfigError> {
        let key = format!("service {:?}", self.name);
        if self.name.is_empty() {
            return Err(invalid("service.name", "is missing"));
        }
        let cluster = match (self.cluster.as_deref().map(name_of_cluster), clusters) {
            (Some(cluster), _) if clusters.iter().any(|known| known == cluster) => cluster.to_owned(),
            (Some(cluster), _) => {
                return Err(invalid(&key, &format!("its cluster {cluster:?} is not in `clusters`")));
            }
            (None, [only]) => only.clone(),
            (None, _) => return Err(invalid(&key, "needs a `cluster`, as there are several")),
        };
        let by_pattern = |side: &(String, String)| format!("{}{}{}", side.0, self.name, side.1);
        let (spot, on_demand) = match find {
            Find::Name { spot, on_demand } => (by_pattern(spot), by_pattern(on_demand)),
            Find::Tags { .. } | Find::Listed => {
                (format!("{}-spot", self.name), format!("{}-standard", self.name))
            }
        };
        let rules = match &self.policy {
            Some(policy) => policy.rules(&format!("{key}: policy"))?,
            None => terms.rules,
        };
        let spot = self.spot.clone().unwrap_or(spot);
        let on_demand = self.on_demand.clone().unwrap_or(on_demand);
        if spot == on_demand {
            return Err(invalid(
                &key,
                &format!("{spot:?} cannot be both its spot and its on_demand service"),
            ));
        }
        if self.target.is_some_and(|target| target > TASKS_MAX) {
            return Err(invalid(&key, &format!("its target must be at most {TASKS_MAX}")));
        }
        Ok(ListedService {
            name: self.name.clone(),
            cluster,
            spot,
            on_demand,
            terms: Terms { rules, target: self.target.map_or(terms.target, Target::Fixed) },
        })
    }
}
