//! The real binary without `lifeboat` around it: the client does nothing then, and the work is done all the same.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

/// `file-search --config search.toml ARGS` in `dir`.
fn file_search(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_file-search"));
    command.args(["--config", "search.toml"]).args(args).current_dir(dir);
    command.env_remove("LIFEBOAT_SOCKET").output().expect("it runs")
}

#[test]
fn files_are_found_by_their_words_without_lifeboat_around() {
    let temp = tempfile::tempdir().expect("a directory");
    let dir = temp.path();
    fs::create_dir(dir.join("files")).expect("created");
    for (name, text) in [("a.txt", "an interruption notice"), ("b.txt", "nothing of the kind")] {
        fs::write(dir.join("files").join(name), text).expect("written");
    }
    let url = |name: &str| format!("file://{}", dir.join(name).display());
    let config = format!(
        "files = \"{}\"\nresults = \"{}\"\nqueue = \"{}\"\nindex = \"index.sqlite\"\n",
        url("files"),
        url("pages"),
        url("queue")
    );
    fs::write(dir.join("search.toml"), config).expect("written");
    for args in [&["enqueue"][..], &["work", "--until-empty"]] {
        let ended = file_search(dir, args);
        assert!(ended.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ended.stderr));
    }
    let found = file_search(dir, &["search", "interruption", "notice"]);
    let found = String::from_utf8(found.stdout).expect("text");
    assert!(found.starts_with("a.txt:") && found.lines().count() == 1, "{found}");
}

#[test]
fn a_configuration_with_an_unknown_key_is_refused_by_name() {
    let temp = tempfile::tempdir().expect("a directory");
    fs::write(temp.path().join("search.toml"), "fils = \"file:///srv\"\n").expect("written");
    let ended = file_search(temp.path(), &["dump"]);
    assert!(!ended.status.success());
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(said.contains("search.toml") && said.contains("fils"), "{said}");
}
