//! One task as ECS shows it.

/// `lastStatus`, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Status {
    Provisioning,
    Pending,
    Activating,
    Running,
    Stopped,
}

impl Status {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "PROVISIONING",
            Self::Pending => "PENDING",
            Self::Activating => "ACTIVATING",
            Self::Running => "RUNNING",
            Self::Stopped => "STOPPED",
        }
    }
}

/// Why it stops.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// Spot takes it away.
    Interrupted,
    /// It sat in PENDING and never got capacity.
    NoCapacity,
    /// Its service's desired count was lowered.
    Scaled { deployment: String },
}

impl Stop {
    /// `stopCode`. Source: ECS API reference, Task; read 2026-11.
    pub(crate) const fn code(&self) -> &'static str {
        match self {
            Self::Interrupted => "SpotInterruption",
            Self::NoCapacity => "TaskFailedToStart",
            Self::Scaled { .. } => "ServiceSchedulerInitiated",
        }
    }

    pub(crate) fn reason(&self) -> String {
        match self {
            Self::Interrupted => "Your Spot Task was interrupted.".to_owned(),
            Self::NoCapacity => {
                "Capacity is unavailable at this time. Please try again later or in a different \
                                 availability zone"
                    .to_owned()
            }
            Self::Scaled { deployment } => format!("Scaling activity initiated by (deployment {deployment})"),
        }
    }
}

/// A task; times are stamps as the wire shows them, in milliseconds since 1970.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    pub(crate) service: usize,
    pub(crate) zone: Option<usize>,
    pub(crate) status: Status,
    pub(crate) version: u32,
    pub(crate) created_at: i64,
    pub(crate) started_at: Option<i64>,
    pub(crate) stopping_at: Option<i64>,
    pub(crate) stopped_at: Option<i64>,
    pub(crate) stop: Option<Stop>,
}

impl Task {
    pub(crate) const fn placed(service: usize, zone: Option<usize>, created_at: i64) -> Self {
        Self {
            service,
            zone,
            status: Status::Provisioning,
            version: 1,
            created_at,
            started_at: None,
            stopping_at: None,
            stopped_at: None,
            stop: None,
        }
    }

    /// One that runs since before the lab was started.
    pub(crate) const fn running(service: usize, zone: Option<usize>, stamp: i64) -> Self {
        let mut task = Self::placed(service, zone, stamp);
        task.status = Status::Running;
        task.version = 4;
        task.started_at = Some(stamp);
        task
    }

    pub(crate) fn run(&mut self, stamp: i64) {
        self.status = Status::Running;
        self.version += 1;
        self.started_at = Some(stamp);
    }

    pub(crate) fn warn(&mut self, stamp: i64) {
        self.version += 1;
        self.stopping_at = Some(stamp);
        self.stop = Some(Stop::Interrupted);
    }

    pub(crate) fn stop(&mut self, stamp: i64, why: Stop) {
        self.status = Status::Stopped;
        self.version += 1;
        self.stopping_at = self.stopping_at.or(Some(stamp));
        self.stopped_at = Some(stamp);
        self.stop = Some(why);
    }

    /// `desiredStatus`: a task that is told to stop wants STOPPED while it still runs.
    pub(crate) const fn desired(&self) -> &'static str {
        if self.stopping_at.is_some() { "STOPPED" } else { "RUNNING" }
    }

    /// What a reader of the time line wants to know of its last change.
    pub(crate) const fn label(&self) -> &'static str {
        match (self.status, &self.stop) {
            (Status::Stopped, Some(Stop::Interrupted)) => "task stopped: Spot interruption",
            (Status::Stopped, Some(Stop::NoCapacity)) => "task stopped: no capacity",
            (Status::Stopped, Some(Stop::Scaled { .. }) | None) => "task stopped: scaled in",
            (_, Some(_)) => "interruption notice",
            (Status::Provisioning, None) => "task PROVISIONING",
            (Status::Pending, None) => "task PENDING",
            (Status::Activating, None) => "task ACTIVATING",
            (Status::Running, None) => "task RUNNING",
        }
    }
}
