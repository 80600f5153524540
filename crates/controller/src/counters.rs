//! What the controller counts of its own doing, for Prometheus and the log.

use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($name:ident: $help:literal,)*) => {
        /// Totals since the start.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(#[doc = $help] pub $name: Count,)*
        }

        impl Counters {
            /// In Prometheus' text form.
            #[must_use]
            pub fn prometheus(&self) -> String {
                let mut text = String::new();
                $(
                    let name = concat!("lifeboat_", stringify!($name), "_total");
                    let _ = write!( // a String takes everything
                        text, "# HELP {name} {}\n# TYPE {name} counter\n{name} {}\n", $help, self.$name.get()
                    );
                )*
                text
            }
        }
    };
}

counters! {
    messages_received: "Messages received from the queue.",
    messages_deleted: "Messages deleted after their effect was durable.",
    messages_unknown: "Messages of a kind that is not known, dropped.",
    messages_foreign: "Events of services that are not managed, dropped.",
    messages_unreadable: "Messages that cannot be read, for the dead-letter queue.",
    messages_repeated: "Task events older than one already seen, dropped.",
    receives_failed: "Receives that failed.",
    deletes_failed: "Messages whose deletion failed; they come again.",
    ecs_calls: "Calls to ECS.",
    ecs_calls_failed: "Calls to ECS that failed.",
    orders: "Desired counts that were set.",
    orders_expired: "Commands that were too old to be carried out.",
    orders_fenced: "Commands that another controller's commit made void.",
    commits: "States stored.",
    commits_conflicted: "Commits that another controller was faster than.",
    commits_failed: "Commits whose outcome is not known.",
    alerts_sent: "Alerts sent.",
    alerts_lost: "Alerts given up after all tries, or because too many waited.",
    commands_sent: "Instances that a command was sent to.",
    metrics_failed: "Publications of metrics that failed.",
}

/// One total.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn one(&self) {
        self.many(1);
    }

    /// So many more.
    pub fn many(&self, count: usize) {
        self.0.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
