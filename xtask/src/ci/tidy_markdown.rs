//! What documents claim about the repository: links lead to files and headings, named files and tests exist.

use std::collections::{BTreeMap, BTreeSet};

use crate::tree::SourceFile;

/// Inline code that begins so is a path in this repository, with or without `::test_name` behind it.
const OUR_FOLDERS: [&str; 6] = ["crates/", "docs/", "examples/", "deploy/", "bench/", "xtask/"];

/// Here every word that could be a test's name must be one.
const PROMISES: &str = "docs/semantics.md";

/// Every claim that is not true, one line each: `path:line: what`.
pub(crate) fn check(files: &[SourceFile]) -> Vec<String> {
    let tree = Tree::new(files);
    let mut found = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        for (number, line) in prose(&file.text) {
            let said = |what: String| format!("{}:{number}: {what}", file.path);
            let (outside, code) = split_code(&line);
            found.extend(links(&outside).filter_map(|link| tree.broken_link(&file.path, link)).map(said));
            found.extend(code.iter().filter_map(|code| tree.broken_claim(code)).map(said));
            if file.path == PROMISES {
                found.extend(code.iter().filter_map(|code| tree.missing_test(code)).map(said));
            }
        }
    }
    found
}

struct Tree<'a> {
    files: BTreeMap<&'a str, &'a str>,
    folders: BTreeSet<&'a str>,
}

impl<'a> Tree<'a> {
    fn new(files: &'a [SourceFile]) -> Self {
        let mut folders = BTreeSet::from([""]);
        for file in files {
            folders.extend(file.path.match_indices('/').map(|(at, _)| &file.path[..at]));
        }
        Self { files: files.iter().map(|file| (file.path.as_str(), file.text.as_str())).collect(), folders }
    }

    fn broken_link(&self, from: &str, link: &str) -> Option<String> {
        if link.contains("://") || link.starts_with("mailto:") {
            return None;
        }
        let (path, heading) = link.split_once('#').map_or((link, None), |(path, rest)| (path, Some(rest)));
        let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
        let target = if path.is_empty() { from.to_owned() } else { joined(folder, path) };
        if !self.exists(&target) {
            return Some(format!("the link {link} leads nowhere"));
        }
        let text = self.files.get(target.as_str()).filter(|_| target.ends_with(".md"))?;
        let has_heading = |heading: &str| headings(text).any(|known| known == heading);
        heading
            .filter(|heading| !has_heading(heading))
            .map(|_| format!("the link {link} names no heading there"))
    }

    /// A path in backticks, as `crates/core/src/lib.rs` or `crates/core/tests/a.rs::holds`.
    fn broken_claim(&self, code: &str) -> Option<String> {
        let is_plain = code.chars().all(|c| c.is_ascii_alphanumeric() || "/._-:".contains(c));
        if !is_plain || !OUR_FOLDERS.iter().any(|folder| code.starts_with(folder)) {
            return None;
        }
        let (path, names) = code.split_once("::").map_or((code, None), |(path, names)| (path, Some(names)));
        if !self.exists(path.trim_end_matches('/')) {
            return Some(format!("{path} does not exist"));
        }
        // The last part is the function; what stands between are modules.
        let name = names?.rsplit("::").next()?;
        let has_it = self.files.get(path).is_some_and(|text| text.contains(&format!("fn {name}(")));
        (!has_it).then(|| format!("{path} has no function {name}"))
    }

    /// Words with three underscores are names of tests: nothing else is as long.
    fn missing_test(&self, code: &str) -> Option<String> {
        let is_name = code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !is_name || code.matches('_').count() < 3 {
            return None;
        }
        let definition = format!("fn {code}(");
        let is_there =
            self.files.iter().any(|(path, text)| path.ends_with(".rs") && text.contains(&definition));
        (!is_there).then(|| format!("there is no test {code}"))
    }

    fn exists(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.folders.contains(path)
    }
}

/// `path` as seen from `folder`. Leaving the repository gives a path that does not exist.
fn joined(folder: &str, path: &str) -> String {
    let mut parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    for part in path.split('/').filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." && parts.last().is_some_and(|last| *last != "..") {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

/// The lines outside fenced code, numbered from 1.
fn prose(text: &str) -> impl Iterator<Item = (usize, String)> {
    let mut is_fenced = false;
    text.lines().enumerate().filter_map(move |(index, line)| {
        let is_fence = line.trim_start().starts_with("```");
        is_fenced ^= is_fence;
        (!is_fenced && !is_fence).then(|| (index + 1, line.to_owned()))
    })
}

/// A line without its inline code, and that code.
fn split_code(line: &str) -> (String, Vec<String>) {
    let mut outside = String::new();
    let mut code = Vec::new();
    for (index, part) in line.split('`').enumerate() {
        if index % 2 == 0 {
            outside.push_str(part);
        } else {
            code.push(part.to_owned());
        }
    }
    (outside, code)
}

/// The targets of `[text](target)` and `[text](target "title")`.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.match_indices("](").filter_map(|(at, _)| {
        let (target, _) = line[at + 2..].split_once(')')?;
        target.split_whitespace().next().map(|target| target.trim_matches(['<', '>']))
    })
}

/// The anchors of a document's headings, as GitHub makes them.
fn headings(text: &str) -> impl Iterator<Item = String> {
    prose(text).filter_map(|(_, line)| {
        let title = line.strip_prefix('#')?.trim_start_matches('#').strip_prefix(' ')?.trim();
        let kept = title
            .to_lowercase()
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c))
            .collect::<String>();
        Some(kept.replace(' ', "-"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> String {
        let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("docs/a.md", text),
            file("docs/b.md", "# The Title: `one`\n"),
            file("crates/x/src/lib.rs", "//!\n#[test]\nfn holds() {}\n"),
        ];
        check(&files).join("\n")
    }

    #[test]
    fn links_lead_to_files_and_headings() {
        for link in [
            "b.md",
            "./b.md",
            "../docs/b.md",
            "../crates/x",
            "b.md#the-title-one",
            "https://a.example/x",
            "b.md \"t\"",
        ] {
            assert_eq!(said(&format!("see [it]({link})")), "", "{link}");
        }
        for link in ["c.md", "../b.md", "../../docs/b.md", "crates/x", "b.md#other", "#none"] {
            assert!(said(&format!("\nsee [it]({link})")).contains("docs/a.md:2: the link"), "{link}");
        }
    }

    #[test]
    fn every_promise_names_tests_that_exist() {
        let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file(PROMISES, "`a_test_that_holds` and `a_test_that_is_gone`, `state_file`"),
            file("crates/x/src/lib.rs", "fn a_test_that_holds() {}"),
        ];
        assert_eq!(check(&files), ["docs/semantics.md:1: there is no test a_test_that_is_gone"]);
    }

    #[test]
    fn code_is_no_link() {
        assert_eq!(said("`[it](c.md)`\n```\n[it](c.md)\n```\n"), "");
    }

    #[test]
    fn named_files_and_tests_exist() {
        for claim in [
            "crates/x/src/lib.rs",
            "crates/x/",
            "crates/x/src/lib.rs::holds",
            "crates/x/src/lib.rs::tests::holds",
        ] {
            assert_eq!(said(&format!("held by `{claim}`")), "", "{claim}");
        }
        assert_eq!(said("`crates/{name}/src`, `other/x.rs`"), "", "no claims");
        assert!(said("held by `crates/y.rs`").contains("crates/y.rs does not exist"));
        assert!(said("held by `crates/x/src/lib.rs::hold`").contains("has no function hold"));
    }
}
