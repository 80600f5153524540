//! Reading the file, and saying what is wrong with it without repeating what may be a secret.

use std::io::{self, Read};
use std::path::Path;

/// A larger file is no configuration: a device, or a log given by mistake.
const SIZE_MAX: u64 = 1 << 20;

/// The text of the file.
pub(super) fn text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?.take(SIZE_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SIZE_MAX {
        let why = format!("it has more than {SIZE_MAX} bytes: this is no configuration");
        return Err(io::Error::new(io::ErrorKind::InvalidData, why));
    }
    Ok(text)
}

/// What the parser says, with the line that it shows, but without the value of a key that does not exist, and of every
/// address its scheme alone: somebody may have written a webhook's address where its variable's name belongs.
pub(super) fn without_secrets(error: &toml::de::Error) -> String {
    let is_unknown = error.message().starts_with("unknown field");
    let shown = error.to_string();
    let lines = shown.trim_end().lines().map(|line| {
        let is_source =
            line.split_once(" | ").is_some_and(|(number, _)| number.trim().parse::<u32>().is_ok());
        let line = match line.split_once('=') {
            Some((key, _)) if is_source && is_unknown => format!("{key}= …"),
            _ => line.to_owned(),
        };
        without_addresses(&line)
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn without_addresses(line: &str) -> String {
    let mut parts = line.split("://");
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let end = part.find(|char: char| char.is_whitespace() || "\"'`".contains(char)).unwrap_or(part.len());
        text.push_str("://…");
        text.push_str(&part[end..]);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn what_is_wrong_is_told_without_secrets() {
        for (text, told) in [
            ("[alerts]\nwebhook = \"https://hooks.example/SECRET\"", "unknown field `webhook`"),
            ("[alerts]\npassword = \"SECRET\"", "2 | password = …"),
            ("[alerts]\nsns = https://hooks.example/SECRET", "2 | sns = https://…"),
            ("[alerts]\nsns = [\"https://key:SECRET@hooks.example/\"]", "expected a string"),
            ("lease = \"https://SECRET\"", "`https://…` is no duration"),
        ] {
            let error = toml::from_str::<Config>(text).expect_err(text);
            let said = without_secrets(&error);
            assert!(said.contains(told) && !said.contains("SECRET"), "{said}");
        }
    }

    #[test]
    fn what_does_not_end_is_no_configuration() {
        let error = text(Path::new("/dev/zero")).expect_err("too large");
        assert!(error.to_string().contains("no configuration"), "{error}");
    }
}
