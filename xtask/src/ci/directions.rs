//! Directions between crates: who may depend on whom, read from `cargo metadata`.
//!
//! Each crate has a layer and may depend on those of lower layers alone. Crates of one layer do not know each
//! other, so an adapter can be taken away without touching its neighbours.

use anyhow::Context;
use serde_json::Value;

/// The layers, lowest first. A new crate gets its place here, in the commit that adds it.
const LAYERS: [(&str, &[&str]); 7] = [
    ("core", &["lifeboat-core"]),
    ("clock", &["lifeboat-wall"]),
    ("adapters", &["lifeboat-aws", "lifeboat-imds", "lifeboat-snapshot", "lifeboat-worker"]),
    ("drivers", &["lifeboat-agent", "lifeboat-controller"]),
    ("worlds", &["lifeboat-sim"]),
    ("programs", &[CLI, "file-search"]),
    ("tools", &["xtask"]),
];

/// The crate of the binary.
const CLI: &str = "lifeboat";

/// The one crate that may name the AWS SDK.
const AWS: &str = "lifeboat-aws";

/// Must not depend on ours: it is built before anything can be checked, and a broken product must not break it.
const TOOLS: &str = "xtask";

/// A crate of the workspace and what it depends on directly.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) dependencies: Vec<Dependency>,
}

/// One dependency, as the manifest writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// Not only for tests or the build script.
    pub(crate) is_normal: bool,
    pub(crate) uses_default_features: bool,
    pub(crate) features: Vec<String>,
}

/// Reads what `cargo metadata --no-deps` prints.
///
/// # Errors
/// When it is not what cargo prints.
pub(crate) fn parse(metadata: &str) -> anyhow::Result<Vec<Package>> {
    let metadata: Value = serde_json::from_str(metadata).context("cargo metadata is no JSON")?;
    let list = |value: &Value, key: &str| -> anyhow::Result<Vec<Value>> {
        value[key].as_array().cloned().with_context(|| format!("cargo metadata without {key}"))
    };
    let text = |value: &Value, key: &str| -> anyhow::Result<String> {
        value[key].as_str().map(str::to_owned).with_context(|| format!("cargo metadata without {key}"))
    };
    let dependency = |value: &Value| -> anyhow::Result<Dependency> {
        let features = list(value, "features")?;
        Ok(Dependency {
            name: text(value, "name")?,
            is_normal: value["kind"].is_null(),
            uses_default_features: value["uses_default_features"] == true,
            features: features.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    };
    let package = |value: &Value| -> anyhow::Result<Package> {
        let dependencies = list(value, "dependencies")?;
        let dependencies: anyhow::Result<Vec<Dependency>> = dependencies.iter().map(dependency).collect();
        Ok(Package { name: text(value, "name")?, dependencies: dependencies? })
    };
    list(&metadata, "packages")?.iter().map(package).collect()
}

/// Every dependency that points the wrong way, in a sentence.
pub(crate) fn check(packages: &[Package]) -> Vec<String> {
    let mut found = Vec::new();
    let ours = |name: &str| packages.iter().any(|package| package.name == name);
    for package in packages {
        let name = &package.name;
        let Some(layer) = layer_of(name) else {
            found.push(format!("{name} has no layer: give it one in {}", file!()));
            continue;
        };
        for dependency in &package.dependencies {
            let on = &dependency.name;
            if on == name {
                // Its own tests with a feature of its own: `cargo` refuses any other way round.
            } else if ours(on) {
                found.extend(wrong_way((name, layer), on));
            } else if on.starts_with("aws-sdk-") && name != AWS {
                found.push(format!("{name} depends on {on}: the SDK is named in {AWS} alone"));
            }
        }
        if layer == 0 {
            found.extend(package.dependencies.iter().filter_map(|dependency| needs_std(name, dependency)));
        }
    }
    found
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|(_, crates)| crates.contains(&name))
}

fn wrong_way((name, layer): (&str, usize), on: &str) -> Option<String> {
    if on == CLI {
        return Some(format!("{name} depends on {on}: nothing depends on the program"));
    }
    if name == TOOLS {
        return Some(format!("{name} depends on {on}: it must build when they do not"));
    }
    let below = layer_of(on)?;
    let (its, theirs) = (LAYERS[layer].0, LAYERS[below].0);
    match below.cmp(&layer) {
        std::cmp::Ordering::Less => None,
        std::cmp::Ordering::Equal => Some(format!("{name} depends on {on}: {its} do not know each other")),
        std::cmp::Ordering::Greater => {
            Some(format!("{name} ({its}) depends on {on} ({theirs}): the wrong way"))
        }
    }
}

/// What core depends on must not bring the standard library in; `--step bare` proves it where it can run.
fn needs_std(name: &str, dependency: &Dependency) -> Option<String> {
    let has_std =
        dependency.uses_default_features || dependency.features.iter().any(|feature| feature == "std");
    let on = &dependency.name;
    (dependency.is_normal && has_std).then(|| {
        format!("{name} depends on {on} with default features or `std`: core has no standard library")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn on(name: &str) -> Dependency {
        Dependency { name: name.to_owned(), is_normal: true, uses_default_features: false, features: vec![] }
    }

    fn package(name: &str, on_these: &[&str]) -> Package {
        Package { name: name.to_owned(), dependencies: on_these.iter().map(|name| on(name)).collect() }
    }

    /// What is said about `packages` beside crates that are in order.
    fn said(packages: Vec<Package>) -> String {
        let mut all = packages;
        for name in
            ["lifeboat-core", "lifeboat-imds", "lifeboat-snapshot", "lifeboat-agent", "lifeboat", "xtask"]
        {
            if all.iter().all(|package| package.name != name) {
                all.push(package(name, &[]));
            }
        }
        check(&all).join("\n")
    }

    #[test]
    fn this_repository_points_the_right_way() {
        let mut metadata = crate::tree::cargo();
        metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
        let packages = parse(&crate::tree::output_of(&mut metadata).expect("metadata")).expect("readable");
        assert!(packages.iter().any(|package| package.name == "lifeboat-core"));
        assert_eq!(check(&packages), Vec::<String>::new());
    }

    #[test]
    fn downwards_is_right() {
        let agent =
            package("lifeboat-agent", &["lifeboat-core", "lifeboat-imds", "lifeboat-snapshot", "tokio"]);
        let aws = package("lifeboat-aws", &["lifeboat-core", "aws-sdk-ecs"]);
        assert_eq!(said(vec![agent, aws, package("lifeboat", &["lifeboat-agent", "lifeboat-core"])]), "");
    }

    #[test]
    fn core_depends_on_none_of_ours_and_on_nothing_with_std() {
        assert!(said(vec![package("lifeboat-core", &["lifeboat-imds"])]).contains("the wrong way"));
        for std in [
            Dependency { uses_default_features: true, ..on("serde") },
            Dependency { features: vec!["alloc".to_owned(), "std".to_owned()], ..on("serde") },
        ] {
            let core =
                |dependency| Package { name: "lifeboat-core".to_owned(), dependencies: vec![dependency] };
            assert!(said(vec![core(std.clone())]).contains("no standard library"), "{std:?}");
            assert_eq!(said(vec![core(Dependency { is_normal: false, ..std })]), "", "tests may use it");
        }
    }

    #[test]
    fn adapters_do_not_know_each_other_or_their_driver() {
        for (name, on) in [
            ("lifeboat-snapshot", "lifeboat-imds"),
            ("lifeboat-imds", "lifeboat-snapshot"),
            ("lifeboat-controller", "lifeboat-agent"),
        ] {
            assert!(said(vec![package(name, &[on])]).contains("do not know each other"), "{name} on {on}");
        }
        assert!(said(vec![package("lifeboat-imds", &["lifeboat-agent"])]).contains("the wrong way"));
    }

    #[test]
    fn the_sdk_is_named_in_one_crate() {
        let text = said(vec![package("lifeboat-agent", &["aws-sdk-s3"])]);
        assert_eq!(text, "lifeboat-agent depends on aws-sdk-s3: the SDK is named in lifeboat-aws alone");
    }

    #[test]
    fn nothing_depends_on_the_program_and_the_tools_on_none_of_ours() {
        assert!(
            said(vec![package("lifeboat-sim", &["lifeboat"])]).contains("nothing depends on the program")
        );
        assert!(said(vec![package("xtask", &["lifeboat-core"])]).contains("must build when"));
    }

    #[test]
    fn a_crate_without_a_layer_is_told() {
        assert!(said(vec![package("lifeboat-new", &[])]).contains("lifeboat-new has no layer"));
    }

    #[test]
    fn metadata_that_is_none_is_refused() {
        for text in ["", "{}", r#"{"packages":[{}]}"#, r#"{"packages":[{"name":"a","dependencies":[{}]}]}"#] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
