//! Which services belong together: pure, from what ECS lists to pairs.

use std::collections::{BTreeMap, BTreeSet};

use lifeboat_core::failover::observation::Capacity;

use crate::config::{Find, Settings, Terms};
use crate::port::ServiceView;

/// A Spot service with the On-Demand service that stands in for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// Its name in the store, in metrics and for people; with several clusters `CLUSTER/NAME`.
    pub name: String,
    /// The cluster of both.
    pub cluster: String,
    /// The Spot service.
    pub spot: String,
    /// The On-Demand service.
    pub on_demand: String,
    /// What holds for it.
    pub terms: Terms,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// By name.
    pub pairs: BTreeMap<String, Pair>,
    /// What a person should know: half a pair, two of one name.
    pub problems: Vec<String>,
    /// By cluster and service: whose it is.
    taken: BTreeMap<(String, String), String>,
}

/// Finds the pairs among the active services of each cluster. A cluster that could not be listed is left out of
/// `clusters`; its pairs are then not found, so the caller keeps what it knew of it.
#[must_use]
pub fn pairs(settings: &Settings, clusters: &BTreeMap<String, Vec<ServiceView>>) -> Found {
    let mut found = Found::default();
    for (cluster, services) in clusters {
        let active: BTreeMap<&str, &ServiceView> = services
            .iter()
            .filter(|service| service.is_active)
            .map(|service| (service.name.as_str(), service))
            .collect();
        listed(settings, cluster, &active, &mut found);
        let sides = sides(&settings.find, &active, &mut found.problems);
        let known: BTreeSet<String> = settings.services.iter().map(|listed| listed.name.clone()).collect();
        for (name, (spot, on_demand)) in sides {
            let is_listed = known.contains(&name)
                && settings.services.iter().any(|listed| listed.name == name && &listed.cluster == cluster);
            if is_listed {
                continue;
            }
            match (spot, on_demand) {
                (Some(spot), Some(on_demand)) => {
                    let pair = Pair {
                        name: full_name(settings, cluster, &name),
                        cluster: cluster.clone(),
                        spot,
                        on_demand,
                        terms: settings.terms,
                    };
                    found.add(pair);
                }
                (Some(spot), None) => {
                    found.problems.push(format!("{spot} has no On-Demand service beside it"))
                }
                // An On-Demand service by itself is nobody's business.
                (None, _) => {}
            }
        }
    }
    found
}

impl Found {
    fn add(&mut self, pair: Pair) {
        if self.pairs.contains_key(&pair.name) {
            self.problems.push(format!("two pairs are named {}: the second is left alone", pair.name));
            return;
        }
        // Two that set the count of one service would undo each other's orders for ever.
        let keys = [&pair.spot, &pair.on_demand].map(|service| (pair.cluster.clone(), service.clone()));
        if let Some((service, owner)) =
            keys.iter().find_map(|key| self.taken.get(key).map(|owner| (&key.1, owner)))
        {
            let problem = format!("{}: {service} belongs to {owner}: this pair is left alone", pair.name);
            self.problems.push(problem);
            return;
        }
        self.taken.extend(keys.into_iter().map(|key| (key, pair.name.clone())));
        self.pairs.insert(pair.name.clone(), pair);
    }
}

fn full_name(settings: &Settings, cluster: &str, name: &str) -> String {
    if settings.clusters.len() > 1 { format!("{cluster}/{name}") } else { name.to_owned() }
}

fn listed(settings: &Settings, cluster: &str, active: &BTreeMap<&str, &ServiceView>, found: &mut Found) {
    for service in settings.services.iter().filter(|service| service.cluster == cluster) {
        let missing: Vec<&str> = [service.spot.as_str(), service.on_demand.as_str()]
            .into_iter()
            .filter(|name| !active.contains_key(name))
            .collect();
        if !missing.is_empty() {
            found.problems.push(format!(
                "{}: there is no active service {}",
                service.name,
                missing.join(", ")
            ));
            continue;
        }
        found.add(Pair {
            name: full_name(settings, cluster, &service.name),
            cluster: cluster.to_owned(),
            spot: service.spot.clone(),
            on_demand: service.on_demand.clone(),
            terms: service.terms,
        });
    }
}

type Sides = BTreeMap<String, (Option<String>, Option<String>)>;

fn sides(find: &Find, active: &BTreeMap<&str, &ServiceView>, problems: &mut Vec<String>) -> Sides {
    let mut sides = Sides::new();
    for (service, view) in active {
        let Some((name, capacity)) = side_of(find, service, &view.tags) else { continue };
        let entry = sides.entry(name.clone()).or_default();
        let place = match capacity {
            Capacity::Spot => &mut entry.0,
            Capacity::OnDemand => &mut entry.1,
        };
        match place {
            Some(other) => {
                problems.push(format!("{service} and {other} are both the {capacity} side of {name}"))
            }
            None => *place = Some((*service).to_owned()),
        }
    }
    sides
}

fn side_of(find: &Find, service: &str, tags: &[(String, String)]) -> Option<(String, Capacity)> {
    match find {
        Find::Name { spot, on_demand } => {
            let name = |side: &(String, String)| {
                let rest = service.strip_prefix(side.0.as_str())?.strip_suffix(side.1.as_str())?;
                (!rest.is_empty()).then(|| rest.to_owned())
            };
            // The longer pattern is the more exact one, where both fit.
            let both = [(spot, Capacity::Spot), (on_demand, Capacity::OnDemand)];
            let fitting = both.into_iter().filter_map(|(side, capacity)| {
                name(side).map(|name| (side.0.len() + side.1.len(), name, capacity))
            });
            fitting.max_by_key(|(length, _, _)| *length).map(|(_, name, capacity)| (name, capacity))
        }
        Find::Tags { workload, capacity } => {
            let tag = |key: &str| tags.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str());
            let side = match tag(capacity)? {
                "spot" => Capacity::Spot,
                "on-demand" => Capacity::OnDemand,
                _ => return None,
            };
            Some((tag(workload)?.to_owned(), side))
        }
        Find::Listed => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    fn view(name: &str, tags: &[(&str, &str)]) -> ServiceView {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        ServiceView { name: name.to_owned(), is_active: true, tags, ..ServiceView::default() }
    }

    fn found(config: &str, services: Vec<ServiceView>) -> Found {
        let config: Config = toml::from_str(config).expect("readable");
        let settings = config.settings().expect("valid");
        let clusters = settings.clusters.iter().map(|cluster| (cluster.clone(), services.clone())).collect();
        pairs(&settings, &clusters)
    }

    fn told(found: &Found) -> Vec<String> {
        let pair = |pair: &Pair| format!("{}: {} {}", pair.name, pair.spot, pair.on_demand);
        found.pairs.values().map(pair).chain(found.problems.iter().cloned()).collect()
    }

    #[test]
    fn pairs_are_found_by_the_pattern_of_their_names() {
        let names = ["a-spot", "a-standard", "b-spot", "c-standard", "-spot", "other"];
        let found = found("", names.iter().map(|name| view(name, &[])).collect());
        assert_eq!(told(&found), ["a: a-spot a-standard", "b-spot has no On-Demand service beside it"]);
    }

    #[test]
    fn an_on_demand_service_may_bear_the_bare_name() {
        let config = "[services]\nspot = 'x-{name}-spot'\non_demand = 'x-{name}'";
        let found = found(config, vec![view("x-a", &[]), view("x-a-spot", &[])]);
        assert_eq!(told(&found), ["a: x-a-spot x-a"]);
    }

    #[test]
    fn pairs_are_found_by_their_tags() {
        let tags = |capacity| [("lifeboat:workload", "w"), ("lifeboat:capacity", capacity)];
        let services =
            vec![view("x", &tags("spot")), view("y", &tags("on-demand")), view("z", &tags("spot"))];
        let found = found("[services]\nby = 'tags'", services);
        assert_eq!(told(&found), ["w: x y", "z and x are both the spot side of w"]);
    }

    #[test]
    fn listed_services_have_their_own_terms_and_a_deleted_one_is_told() {
        let config =
            "[services]\nby = 'listed'\n[[service]]\nname = 'a'\ntarget = 3\n[[service]]\nname = 'b'";
        let mut gone = view("b-standard", &[]);
        gone.is_active = false;
        let found =
            found(config, vec![view("a-spot", &[]), view("a-standard", &[]), view("b-spot", &[]), gone]);
        assert_eq!(told(&found), ["a: a-spot a-standard", "b: there is no active service b-standard"]);
        let target = found.pairs["a"].terms.target;
        assert_eq!(target, lifeboat_core::failover::machine::Target::Fixed(3));
    }

    #[test]
    fn a_service_belongs_to_one_pair_and_what_is_listed_comes_first() {
        let config = "[[service]]\nname = 'orders'\nspot = 'web-spot'\non_demand = 'web-standard'\n\
                      [[service]]\nname = 'z'\non_demand = 'web-standard'";
        let names = ["web-spot", "web-standard", "z-spot", "z-standard"];
        let found = found(config, names.iter().map(|name| view(name, &[])).collect());
        let told = told(&found);
        let expected = [
            "orders: web-spot web-standard",
            "z: web-standard belongs to orders: this pair is left alone",
            "web: web-spot belongs to orders: this pair is left alone",
        ];
        assert_eq!(told, expected);
    }

    #[test]
    fn in_several_clusters_a_pair_is_named_with_its_cluster() {
        let found = found("clusters = ['p', 'q']", vec![view("a-spot", &[]), view("a-standard", &[])]);
        assert_eq!(told(&found), ["p/a: a-spot a-standard", "q/a: a-spot a-standard"]);
    }
}
