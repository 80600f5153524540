//! Directory queues, as an evacuation asks for them.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lifeboat_worker::{DirectoryQueue, Queue, QueueError};

use crate::ports::{PortError, Ports, Queues};

/// The directory queue is always known.
pub(super) fn with_directories(mut ports: Ports) -> Ports {
    ports.queues.push(Arc::new(Directories));
    ports
}

#[derive(Debug)]
struct Directories;

#[async_trait]
impl Queues for Directories {
    fn knows(&self, queue: &str) -> bool {
        DirectoryQueue::directory_of(queue).is_some()
    }

    async fn change_visibility(
        &self,
        queue: &str,
        receipts: &[String],
        visibility: Duration,
        within: Duration,
    ) -> Vec<Result<(), PortError>> {
        let (url, work) = (queue.to_owned(), receipts.to_vec());
        let changing = tokio::task::spawn_blocking(move || change(&url, &work, visibility));
        match tokio::time::timeout(within, changing).await {
            Ok(Ok(results)) => results,
            Ok(Err(error)) => vec![Err(PortError::Unavailable(error.to_string())); receipts.len()],
            Err(_) => {
                let waited = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
                vec![Err(PortError::TimedOut(waited)); receipts.len()]
            }
        }
    }
}

fn change(url: &str, receipts: &[String], visibility: Duration) -> Vec<Result<(), PortError>> {
    let opened = match DirectoryQueue::directory_of(url) {
        Some(dir) => DirectoryQueue::open(dir),
        None => Err(std::io::ErrorKind::NotFound.into()),
    };
    let queue = match opened {
        Ok(queue) => queue,
        Err(error) => return vec![Err(PortError::NotFound(format!("{url}: {error}"))); receipts.len()],
    };
    receipts
        .iter()
        .map(|receipt| match queue.change_visibility(receipt, visibility) {
            Ok(()) => Ok(()),
            Err(QueueError::Stale) => Err(PortError::NotFound("the receipt is out of date".to_owned())),
            Err(QueueError::Failed(why)) => Err(PortError::Unavailable(why)),
        })
        .collect()
}
