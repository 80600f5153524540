//! Rules about the files themselves that no compiler knows. Links are in `tidy_markdown.rs`.

use super::tidy_markdown;
use crate::tree::SourceFile;

/// A file that is longer is two.
const LINES_MAX: usize = 800;

/// Folders that exist on one machine only. What is written about them helps nobody else.
const MACHINE_FOLDERS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

const UNWRAP: &str = concat!(".unwr", "ap()");

/// From here on a file is tests.
const TESTS_BEGIN: &str = "#[cfg(test)]";

/// Everything that is untidy, one line each: `path:line: what`.
pub(crate) fn check(files: &[SourceFile]) -> Vec<String> {
    let mut found = Vec::new();
    for file in files {
        if file.path.ends_with(".rs") {
            found.extend(missing_header(file));
            found.extend(too_long(file));
            found.extend(unwraps(file));
        }
        if file.path != "Cargo.lock" {
            found.extend(machine_paths(file));
        }
        found.extend(conflict_marks(file));
    }
    found.extend(tidy_markdown::check(files));
    found
}

fn missing_header(file: &SourceFile) -> Option<String> {
    let has_header = file.text.starts_with("//!");
    (!has_header).then(|| format!("{}:1: opens without `//!`: what it is, and what it is not", file.path))
}

fn too_long(file: &SourceFile) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| format!("{}:{lines}: more than {LINES_MAX} lines", file.path))
}

fn unwraps(file: &SourceFile) -> Vec<String> {
    if is_test_file(&file.path) {
        return Vec::new();
    }
    let product = file.text.lines().enumerate().take_while(|(_, line)| line.trim() != TESTS_BEGIN);
    let bad = product.filter(|(_, line)| line.contains(UNWRAP) && !line.trim_start().starts_with("//"));
    let told = |(number, _): (usize, &str)| {
        format!("{}:{}: unwrap: say with expect why it cannot fail, or handle it", file.path, number + 1)
    };
    bad.map(told).collect()
}

fn is_test_file(path: &str) -> bool {
    path.split('/').any(|part| part == "tests" || part == "benches") || path.ends_with("/tests.rs")
}

fn machine_paths(file: &SourceFile) -> Vec<String> {
    let mut found = Vec::new();
    for (number, line) in file.text.lines().enumerate() {
        for folder in MACHINE_FOLDERS {
            // `https://host/work/` and `a/home/b` are no such folders.
            let is_absolute =
                |at: usize| !line[..at].ends_with(|c: char| c.is_alphanumeric() || "._-}/".contains(c));
            if line.match_indices(folder).any(|(at, _)| is_absolute(at)) {
                found.push(format!("{}:{}: names {folder}, a folder of one machine", file.path, number + 1));
            }
        }
    }
    found
}

fn conflict_marks(file: &SourceFile) -> Option<String> {
    let marks = ["<<<<<<< ", ">>>>>>> "];
    let line = file.text.lines().position(|line| marks.iter().any(|mark| line.starts_with(mark)))?;
    Some(format!("{}:{}: a merge conflict", file.path, line + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(path: &str, text: &str) -> String {
        check(&[SourceFile { path: path.to_owned(), text: text.to_owned() }]).join("\n")
    }

    #[test]
    fn a_rust_file_opens_with_what_it_is() {
        assert_eq!(said("a.rs", "//! What it is.\n"), "");
        assert!(said("a.rs", "use std::fs;\n").contains("a.rs:1: opens without"));
        assert!(said("a.rs", "").contains("opens without"));
    }

    #[test]
    fn eight_hundred_lines_are_enough() {
        let lines = |count: usize| "//!\n".repeat(count);
        assert_eq!(said("a.rs", &lines(800)), "");
        assert!(said("a.rs", &lines(801)).contains("more than 800"));
    }

    #[test]
    fn unwrap_is_for_tests() {
        let line = format!("    x{UNWRAP};\n");
        assert!(said("a.rs", &format!("//!\n{line}")).contains("a.rs:2: unwrap"));
        assert_eq!(said("a.rs", &format!("//!\n/// {UNWRAP}\n")), "");
        assert_eq!(said("a.rs", &format!("//!\n{TESTS_BEGIN}\nmod tests {{\n{line}}}\n")), "");
        assert_eq!(said("crates/a/tests/b.rs", &format!("//!\n{line}")), "");
        assert_eq!(said("crates/a/src/b/tests.rs", &format!("//!\n{line}")), "");
    }

    #[test]
    fn folders_of_one_machine_are_found_in_any_text_file() {
        for folder in MACHINE_FOLDERS {
            assert!(said("a.md", &format!("see {folder}x\n")).contains("a.md:1: names"), "{folder}");
            assert!(
                said("a.toml", &format!("path = \"{folder}x\"\n")).contains("a.toml:1: names"),
                "{folder}"
            );
        }
        assert_eq!(said("a.md", &format!("see some{}x\n", MACHINE_FOLDERS[0])), "");
        assert_eq!(said("a.md", &format!("see https://some.example{}x\n", MACHINE_FOLDERS[0])), "");
    }

    #[test]
    fn merge_conflicts_are_found() {
        assert!(said("a.toml", &format!("{} ours\n", "<".repeat(7))).contains("a merge conflict"));
    }
}
