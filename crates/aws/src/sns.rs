//! SNS: publishing, and whether a topic is there.

use std::time::Duration;

use crate::client::call;
use crate::{Aws, AwsError, Kind, Operation};

/// Source: SNS API reference, `Publish` (read 2023): 256 KiB.
pub const MESSAGE_BYTES_MAX: usize = 262_144;

/// Source: SNS API reference, `Publish` (read 2023): a subject is ASCII, without line breaks, under 100 characters.
const SUBJECT_CHARS_MAX: usize = 99;

/// SNS, as one account sees it.
#[derive(Clone, Debug)]
pub struct Sns(Aws);

impl Aws {
    /// SNS.
    #[must_use]
    pub fn sns(&self) -> Sns {
        Sns(self.clone())
    }
}

impl Sns {
    /// Publishes a message; the subject is cut and cleaned as SNS wants it. Returns its id.
    ///
    /// # Errors
    /// [`Kind::TooLarge`]; [`AwsError`].
    pub async fn publish(
        &self,
        topic: &str,
        subject: &str,
        message: &str,
        within: Duration,
    ) -> Result<String, AwsError> {
        let operation = Operation::Publish;
        if message.len() > MESSAGE_BYTES_MAX {
            let kind = Kind::TooLarge { bytes: message.len(), limit: MESSAGE_BYTES_MAX };
            return Err(AwsError::new(operation, topic, kind));
        }
        let subject = subject_of(subject);
        let answer = async {
            let request = self.0.sns_client().await.publish().topic_arn(topic).message(message);
            request.set_subject(Some(subject).filter(|text| !text.is_empty())).send().await
        };
        Ok(call(operation, topic, within, answer).await?.message_id.unwrap_or_default())
    }

    /// How many confirmed subscriptions a topic has, where it says so. Changes nothing.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such topic; [`AwsError`].
    pub async fn subscriptions(&self, topic: &str, within: Duration) -> Result<Option<u64>, AwsError> {
        let answer = async { self.0.sns_client().await.get_topic_attributes().topic_arn(topic).send().await };
        let answer = call(Operation::GetTopicAttributes, topic, within, answer).await?;
        let count = answer.attributes.and_then(|all| all.get("SubscriptionsConfirmed")?.parse().ok());
        Ok(count)
    }
}

fn subject_of(text: &str) -> String {
    let clean = text.chars().map(|c| match c {
        '\u{2192}' => '>',
        c if c.is_control() => ' ',
        c if c.is_ascii() => c,
        _ => '?',
    });
    clean.take(SUBJECT_CHARS_MAX).collect::<String>().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subject_is_what_sns_takes() {
        assert_eq!(subject_of(" a\nb \u{e9} \u{2192} c"), "a b ? > c");
        assert_eq!(subject_of(&"x".repeat(200)).len(), 99);
    }
}
