//! Systems Manager: running a command on instances.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::client::call;
use crate::{Aws, AwsError, Operation};

/// Source: Systems Manager API reference, `SendCommand` (read 2023): at most 50 instance ids a call.
pub const BATCH: usize = 50;

/// Systems Manager, as one account sees it.
#[derive(Clone, Debug)]
pub struct Ssm(Aws);

/// A command for instances.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Command {
    /// Such as `AWS-RunShellScript`.
    pub document: String,
    /// What the document asks for; `commands` for a shell script.
    pub parameters: BTreeMap<String, Vec<String>>,
    /// Said in the console and in the history.
    pub comment: String,
    /// An agent that does not take it up within this time never will; 30 s at least.
    pub expires: Duration,
}

impl Aws {
    /// Systems Manager.
    #[must_use]
    pub fn ssm(&self) -> Ssm {
        Ssm(self.clone())
    }
}

impl Ssm {
    /// Sends a command to instances, in calls of [`BATCH`], and returns the commands' ids. The first call that fails
    /// ends it. That a command was sent says nothing of whether it ran.
    ///
    /// # Errors
    /// [`crate::Kind::NotFound`] when an instance has no agent or the document does not exist; [`AwsError`].
    pub async fn send_command(
        &self,
        instances: &[String],
        command: &Command,
        within: Duration,
    ) -> Result<Vec<String>, AwsError> {
        let until = tokio::time::Instant::now() + within;
        let mut ids = Vec::new();
        for batch in instances.chunks(BATCH) {
            let left = until.saturating_duration_since(tokio::time::Instant::now());
            let answer = async {
                let parameters: HashMap<_, _> = command.parameters.clone().into_iter().collect();
                let expires = i32::try_from(command.expires.as_secs()).unwrap_or(i32::MAX);
                let request = self.0.ssm_client().await.send_command();
                request
                    .document_name(&command.document)
                    .set_instance_ids(Some(batch.to_vec()))
                    .set_parameters(Some(parameters))
                    // Source: API reference (read 2023): 30 s at least, a comment of 100 characters at most.
                    .timeout_seconds(expires.max(30))
                    .comment(command.comment.chars().take(100).collect::<String>())
                    .send()
                    .await
            };
            let answer = call(Operation::SendCommand, &batch.join(","), left, answer).await?;
            ids.extend(answer.command.and_then(|command| command.command_id));
        }
        Ok(ids)
    }
}
