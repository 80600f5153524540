//! Signals by name, as the configuration writes them.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A signal that can ask a process to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM
    #[default]
    Term,
    /// SIGINT
    Int,
    /// SIGQUIT
    Quit,
    /// SIGHUP
    Hup,
    /// SIGUSR1
    Usr1,
    /// SIGUSR2
    Usr2,
}

const NAMES: [(&str, Signal); 6] = [
    ("SIGTERM", Signal::Term),
    ("SIGINT", Signal::Int),
    ("SIGQUIT", Signal::Quit),
    ("SIGHUP", Signal::Hup),
    ("SIGUSR1", Signal::Usr1),
    ("SIGUSR2", Signal::Usr2),
];

impl Signal {
    /// The signal for the operating system.
    #[must_use]
    pub const fn number(self) -> rustix::process::Signal {
        use rustix::process::Signal as Os;
        match self {
            Self::Term => Os::TERM,
            Self::Int => Os::INT,
            Self::Quit => Os::QUIT,
            Self::Hup => Os::HUP,
            Self::Usr1 => Os::USR1,
            Self::Usr2 => Os::USR2,
        }
    }

    /// Its name, `SIGTERM` for example.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(_, signal)| *signal == self).map_or("?", |(name, _)| name)
    }
}

impl std::str::FromStr for Signal {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let full = if text.starts_with("SIG") { text.to_owned() } else { format!("SIG{text}") };
        NAMES.iter().find(|(name, _)| *name == full).map(|(_, signal)| *signal).ok_or_else(|| {
            let known: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
            format!("`{text}` cannot ask a process to stop; known are {}", known.join(", "))
        })
    }
}

impl<'de> Deserialize<'de> for Signal {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Signal {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
