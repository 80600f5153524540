//! Credentials from the shared files (`~/.aws/credentials`, `~/.aws/config`), which `object_store` does not read.
//!
//! Understood: keys in a profile, and `credential_process`, by which `aws configure export-credentials` gives
//! everything else that the AWS command line knows (single sign-on, roles). Both are asked again every few minutes,
//! so keys may be exchanged while an agent runs.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::aws::AwsCredential;
use serde::Deserialize;
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Keys are asked for again after this time. Temporary ones are handed out with more left than that.
const KEPT: Duration = Duration::from_secs(5 * 60);

/// A process that gives credentials has this long.
const PROCESS_TIMEOUT: Duration = Duration::from_secs(20);

/// A file or an answer larger than this holds no credentials.
const TEXT_BYTES_MAX: u64 = 1024 * 1024;

/// One profile: what both files say of it, the credentials file first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Profile {
    name: String,
    values: BTreeMap<String, String>,
}

/// Where a profile's keys come from.
enum Origin {
    Keys(AwsCredential),
    Process(String),
}

/// Why a profile gives no credentials.
#[derive(Debug, thiserror::Error)]
pub(super) enum ProfileError {
    #[error("profile {0:?} is in none of the shared credentials files")]
    Missing(String),
    #[error(
        "profile {name:?} needs {key}, which is not supported here: add the line \
         `credential_process = aws configure export-credentials --profile {name} --format process` to another \
         profile and use that"
    )]
    Unsupported { name: String, key: &'static str },
    #[error("profile {0:?} has one of the two keys and lacks the other")]
    HalfAKey(String),
    #[error("the credential_process of profile {name:?} {problem}")]
    Process { name: String, problem: String },
}

impl Profile {
    /// Reads the profile that `chosen`, `AWS_PROFILE` or nothing at all (`default`) names. `None`: nothing chosen, and
    /// there is no `default`.
    pub(super) fn load(
        chosen: Option<&str>,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Option<Self>, ProfileError> {
        let text =
            |name: &str| variable(name).and_then(|value| value.into_string().ok()).filter(|v| !v.is_empty());
        let chosen = chosen.map(str::to_owned).or_else(|| text("AWS_PROFILE"));
        let file = |name: &str, default: &str| {
            let home = || variable("HOME").map(|home| PathBuf::from(home).join(".aws").join(default));
            variable(name).map(PathBuf::from).or_else(home).map(|path| read(&path)).unwrap_or_default()
        };
        let (credentials, config) =
            (file("AWS_SHARED_CREDENTIALS_FILE", "credentials"), file("AWS_CONFIG_FILE", "config"));
        let name = chosen.clone().unwrap_or_else(|| "default".to_owned());
        let found = Self::parse(name, &credentials, &config);
        match (found, chosen) {
            (Some(profile), _) => Ok(Some(profile)),
            (None, None) => Ok(None),
            (None, Some(name)) => Err(ProfileError::Missing(name)),
        }
    }

    fn parse(name: String, credentials: &str, config: &str) -> Option<Self> {
        let long = format!("profile {name}");
        let in_config = section(config, |title| title == long || (name == "default" && title == name));
        let in_credentials = section(credentials, |title| title == name);
        if in_config.is_none() && in_credentials.is_none() {
            return None;
        }
        let mut values = in_config.unwrap_or_default();
        values.extend(in_credentials.unwrap_or_default());
        Some(Self { name, values })
    }

    pub(super) fn region(&self) -> Option<&str> {
        self.values.get("region").map(String::as_str)
    }

    /// Whether it says where credentials come from: on a machine with a role, `default` may hold a region alone.
    pub(super) fn has_credentials(&self) -> bool {
        [
            "aws_access_key_id",
            "credential_process",
            "role_arn",
            "sso_session",
            "sso_start_url",
            "login_session",
        ]
        .iter()
        .any(|key| self.values.contains_key(*key))
    }

    fn origin(&self) -> Result<Origin, ProfileError> {
        let get = |key: &str| self.values.get(key).cloned();
        // Source: AWS SDKs and Tools guide, "Assume role": a role in a profile goes before its keys.
        for key in ["role_arn", "sso_session", "sso_start_url", "login_session"] {
            if self.values.contains_key(key) && (key == "role_arn" || get("credential_process").is_none()) {
                return Err(ProfileError::Unsupported { name: self.name.clone(), key });
            }
        }
        match (get("aws_access_key_id"), get("aws_secret_access_key"), get("credential_process")) {
            (Some(key_id), Some(secret_key), _) => {
                Ok(Origin::Keys(AwsCredential { key_id, secret_key, token: get("aws_session_token") }))
            }
            (None, None, Some(command)) => Ok(Origin::Process(command)),
            (Some(_) | None, Some(_) | None, _) => Err(ProfileError::HalfAKey(self.name.clone())),
        }
    }

    /// Whether credentials can be had, as far as can be told without asking for them.
    pub(super) fn check(&self) -> Result<(), ProfileError> {
        self.origin().map(drop)
    }

    async fn ask(&self) -> Result<AwsCredential, ProfileError> {
        match self.origin()? {
            Origin::Keys(keys) => Ok(keys),
            Origin::Process(command) => {
                let mut given = run(&command).await;
                // An agent kills whatever its workload left running, and may have taken this for such.
                if let Err(Problem::Killed) = given {
                    given = run(&command).await;
                }
                given.map_err(|problem| ProfileError::Process {
                    name: self.name.clone(),
                    problem: problem.to_string(),
                })
            }
        }
    }
}

fn read(path: &std::path::Path) -> String {
    let is_small = std::fs::metadata(path).is_ok_and(|metadata| metadata.len() <= TEXT_BYTES_MAX);
    if is_small { std::fs::read_to_string(path).unwrap_or_default() } else { String::new() }
}

/// The values below the last heading that `is_wanted`.
fn section(text: &str, is_wanted: impl Fn(&str) -> bool) -> Option<BTreeMap<String, String>> {
    let mut found: Option<BTreeMap<String, String>> = None;
    let mut is_inside = false;
    for line in text.lines() {
        // An indented line belongs to a nested value, of which none is used here.
        if line.starts_with([' ', '\t', '#', ';']) {
            continue;
        }
        if let Some(title) = line.trim_end().strip_prefix('[').and_then(|line| line.split(']').next()) {
            let title = title.split_whitespace().collect::<Vec<_>>().join(" ");
            is_inside = is_wanted(&title);
            if is_inside {
                found.get_or_insert_default();
            }
        } else if is_inside && let Some((key, value)) = line.split_once('=') {
            let values = found.get_or_insert_default();
            values.insert(key.trim().to_ascii_lowercase(), value.trim().to_owned());
        }
    }
    found
}

/// What a `credential_process` prints. Source: AWS SDKs and Tools guide, "Process credential provider".
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
}

/// Why a `credential_process` gives nothing.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("was killed")]
    Killed,
    #[error("{0}")]
    Other(String),
}

impl From<String> for Problem {
    fn from(problem: String) -> Self {
        Self::Other(problem)
    }
}

async fn run(command: &str) -> Result<AwsCredential, Problem> {
    let child = Command::new("sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let mut child = child;
    let stdout = child.stdout.take().ok_or_else(|| "has no output".to_owned())?;
    let mut printed = Vec::new();
    let ended = async {
        stdout.take(TEXT_BYTES_MAX).read_to_end(&mut printed).await?;
        Ok::<_, std::io::Error>(child.wait().await.ok())
    };
    let status = tokio::time::timeout(PROCESS_TIMEOUT, ended)
        .await
        .map_err(|_| format!("gave nothing within {} s", PROCESS_TIMEOUT.as_secs()))?
        .map_err(|error| format!("cannot be read: {error}"))?;
    // An agent that collects all its children may have been faster: then what was printed tells.
    match status {
        Some(status) if status.signal().is_some() => return Err(Problem::Killed),
        Some(status) if !status.success() => return Err(format!("failed with {status}").into()),
        None if printed.is_empty() => return Err(Problem::Killed),
        Some(_) | None => {}
    }
    // Never the text itself: it may be a secret.
    let printed: Printed =
        serde_json::from_slice(&printed).map_err(|_| "printed no credentials".to_owned())?;
    if printed.version != 1 {
        return Err(format!("printed version {}, not 1", printed.version).into());
    }
    Ok(AwsCredential {
        key_id: printed.access_key_id,
        secret_key: printed.secret_access_key,
        token: printed.session_token,
    })
}

/// Gives a profile's credentials to `object_store`.
#[derive(Debug)]
pub(super) struct ProfileProvider {
    chosen: Option<String>,
    kept: Mutex<Option<(Arc<AwsCredential>, Instant)>>,
}

impl ProfileProvider {
    pub(super) fn new(chosen: Option<String>) -> Self {
        Self { chosen, kept: Mutex::new(None) }
    }
}

#[async_trait]
impl CredentialProvider for ProfileProvider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let failed = |source: ProfileError| object_store::Error::Unauthenticated {
            path: "credentials".to_owned(),
            source: Box::new(source),
        };
        let mut kept = self.kept.lock().await;
        if let Some((credential, until)) = &*kept
            && Instant::now() < *until
        {
            return Ok(Arc::clone(credential));
        }
        let profile = Profile::load(self.chosen.as_deref(), |name| std::env::var_os(name)).map_err(failed)?;
        let profile = profile.ok_or_else(|| failed(ProfileError::Missing("default".to_owned())))?;
        let credential = Arc::new(profile.ask().await.map_err(failed)?);
        *kept = Some((Arc::clone(&credential), Instant::now() + KEPT));
        Ok(credential)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[default]\nregion = eu-west-1\n\n[profile  work]\nregion=us-west-2\ncredential_process = printf x\n\
                          s3 =\n  region = nested\n[profile sso]\nsso_session = s\n[profile role]\nrole_arn = arn\n";
    const CREDENTIALS: &str = "# comment\n[keys]\naws_access_key_id = A\nAWS_SECRET_ACCESS_KEY = s=ecret\n\
                               [half]\naws_access_key_id = A\n";

    fn profile(name: &str) -> Option<Profile> {
        Profile::parse(name.to_owned(), CREDENTIALS, CONFIG)
    }

    #[test]
    fn both_files_are_read_and_what_cannot_be_followed_is_named() {
        let default = profile("default").expect("there");
        assert_eq!((default.region(), default.has_credentials()), (Some("eu-west-1"), false));
        let work = profile("work").expect("there");
        assert_eq!((work.region(), work.has_credentials()), (Some("us-west-2"), true));
        assert!(matches!(work.origin(), Ok(Origin::Process(command)) if command == "printf x"));
        let keys = profile("keys").expect("there").origin();
        assert!(matches!(keys, Ok(Origin::Keys(keys)) if keys.key_id == "A" && keys.secret_key == "s=ecret"));
        for (name, part) in [("sso", "credential_process"), ("role", "role_arn"), ("half", "lacks the other")]
        {
            let error = profile(name).expect("there").check().expect_err(name).to_string();
            assert!(error.contains(part), "{error}");
        }
        assert_eq!(profile("none"), None);
    }

    #[tokio::test]
    async fn a_process_that_was_killed_is_asked_once_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let seen = directory.path().join("seen").display().to_string();
        let printed = r#"printf '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S"}'"#;
        let command = format!("test -e {seen} || {{ touch {seen}; kill -9 $$; }}; {printed}");
        let config = format!("[default]\ncredential_process = {command}\n");
        let profile = Profile::parse("default".to_owned(), "", &config).expect("there");
        assert_eq!(profile.ask().await.expect("given").key_id, "A");
        assert!(matches!(run("kill -9 $$").await, Err(Problem::Killed)));
    }

    #[tokio::test]
    async fn a_process_gives_credentials_or_a_reason() {
        let printed = r#"printf '{"Version":1,"AccessKeyId":"A","SecretAccessKey":"S","SessionToken":"T"}'"#;
        let credential = run(printed).await.expect("given");
        assert_eq!((credential.key_id.as_str(), credential.token.as_deref()), ("A", Some("T")));
        for (command, part) in [("exit 3", "exit status: 3"), ("echo secret", "printed no credentials")] {
            let error = run(command).await.expect_err(command).to_string();
            assert!(error.contains(part) && !error.contains("secret"), "{error}");
        }
    }
}
