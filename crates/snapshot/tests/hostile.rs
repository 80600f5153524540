//! Manifests made to harm are refused with a clear error, and nothing outside of the target is ever touched.

use std::error::Error;
use std::io::Write;

use lifeboat_snapshot::WorkloadName;
use lifeboat_snapshot::manifest::{DecodeError, LINE_BYTES_MAX, Manifest, decode};
use proptest::prelude::*;

const ZERO: &str = "0000000000000000000000000000000000000000000000000000000000000000";

fn header() -> String {
    let nonce = &ZERO[..32];
    format!(
        "{{\"manifest\":{{\"format\":2,\"workload\":\"work\",\"claim\":{{\"seq\":1,\"nonce\":\"{nonce}\"}},\
         \"save\":\"{nonce}\",\"at_unix_ms\":0}}}}\n"
    )
}

fn object(key: &str) -> String {
    format!("{{\"object\":{{\"key\":{key:?},\"size\":10}}}}\n")
}

fn good_object() -> String {
    object(&format!("data/{:020}-{}/x.pack", 1, &ZERO[..32]))
}

fn entry(path: &str, kind: &str) -> String {
    format!(
        "{{\"entry\":{{\"path\":{path},\"mode\":420,\"uid\":0,\"gid\":0,\
         \"modified\":{{\"seconds\":0,\"nanos\":0}},\"kind\":{kind}}}}}\n"
    )
}

fn file(size: u64, extents: &str) -> String {
    format!("{{\"file\":{{\"size\":{size},\"digest\":\"{ZERO}\",\"extents\":[{extents}]}}}}")
}

fn with_blocks(size: u64, log2: u64, count: usize, extents: &str) -> String {
    let nodes = vec![format!("\"{ZERO}\""); count].join(",");
    let blocks = format!("],\"blocks\":{{\"log2\":{log2},\"nodes\":[{nodes}]}}}}}}");
    file(size, extents).replace("]}}", &blocks)
}

fn base() -> String {
    format!(
        "{{\"key\":\"manifests/x\",\"digest\":\"{ZERO}\",\"size\":1,\"files\":0,\"bytes\":0,\"left_out\":0,\
         \"complete\":true}}"
    )
}

fn end(objects: u64, entries: u64) -> String {
    format!("{{\"end\":{{\"objects\":{objects},\"entries\":{entries},\"left_out\":0}}}}\n")
}

fn compressed(lines: &str) -> Vec<u8> {
    zstd::encode_all(lines.as_bytes(), 3).expect("compressible")
}

fn read(lines: &str) -> Result<Manifest, DecodeError> {
    decode(&compressed(lines), &name())
}

fn name() -> WorkloadName {
    "work".parse().expect("a valid name")
}

/// The whole chain of an error as one line.
fn chain(error: &DecodeError) -> String {
    let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
    format!("{error}{cause}")
}

#[test]
fn an_honest_manifest_is_read() {
    let extents = "[0,2,8]";
    let lines = header()
        + &good_object()
        + &entry("\"a\"", "\"directory\"")
        + &entry("\"a/f\"", &file(8, extents))
        + &entry("{\"base64\":\"/w==\"}", "{\"link\":{\"target\":\"../..\"}}")
        + &end(1, 3);
    let manifest = read(&lines).expect("honest");
    assert_eq!(manifest.entries.len(), 3);
    assert_eq!(manifest.entries[2].path.as_bytes(), b"\xff");
}

#[test]
fn each_way_to_harm_is_refused_by_name() {
    let one = |line: String| header() + &good_object() + &line + &end(1, 1);
    let extent = |object: u64, offset: u64, length: u64| format!("[{object},{offset},{length}]");
    let link = |target: &str| one(entry("\"l\"", &format!("{{\"link\":{{\"target\":{target}}}}}")));
    let below =
        header() + &entry("\"a\"", "{\"link\":{\"target\":\"/etc\"}}") + &entry("\"a/b\"", "\"directory\"");
    let table = [
        (one(entry("\"../x\"", "\"directory\"")), "no name . or .."),
        (one(entry("\"/etc/x\"", "\"directory\"")), "is relative"),
        (one(entry("\"a//x\"", "\"directory\"")), "no empty name"),
        (one(entry("\"a\\u0000x\"", "\"directory\"")), "no NUL"),
        (one(entry("{\"base64\":\"Li4=\"}", "\"directory\"")), "no name . or .."),
        (one(entry("{\"base64\":\"%\"}", "\"directory\"")), "cannot be read"),
        (link("\"\""), "a link has a target"),
        (link("\"a\\u0000\""), "a link has a target"),
        (link(&format!("\"{}\"", "x".repeat(5000))), "a link has a target"),
        (below.clone() + &end(0, 2), "a/b lies below \"a\", which is no directory"),
        (
            header() + &entry("\"a\"", "\"directory\"") + &entry("\"a\"", "\"directory\"") + &end(0, 2),
            "a appears twice",
        ),
        (one(entry("\"f\"", &file(9, &extent(0, 0, 8)))), "9 bytes, but the extents have 8"),
        (one(entry("\"f\"", &file(9, &extent(1, 0, 9)))), "outside of its object"),
        (one(entry("\"f\"", &file(9, &extent(0, 2, 9)))), "outside of its object"),
        (one(entry("\"f\"", &file(9, &extent(0, u64::MAX, 9)))), "outside of its object"),
        (one(entry("\"f\"", &file(0, &extent(0, 0, 0)))), "an extent is empty"),
        (one(entry("\"f\"", &file(9, ""))), "the extents have 0"),
        (one(entry("\"f\"", &file(u64::MAX, "[null,0,18446744073709551615]"))), "in one piece"),
        (one(entry("\"f\"", &file(8, "[0,0,4],[0,4,4]"))), "more than 1 extents"),
        (one(entry("\"f\"", &file(8, "[null,1,8]"))), "outside of its object"),
        (
            one(entry("\"f\"", &with_blocks(300_000, 18, 2, "[null,0,300000]"))),
            "its blocks are not those of its hash",
        ),
        (one(entry("\"f\"", &with_blocks(300_000, 18, 2, "[null,0,5],[null,0,299995]"))), "within a block"),
        (
            one(entry("\"f\"", &with_blocks(300_000, 18, 3, "[null,0,300000]"))),
            "its blocks are not those of its hash",
        ),
        (
            one(entry("\"f\"", &with_blocks(300_000, 63, 2, "[null,0,300000]"))),
            "its blocks are not those of its hash",
        ),
        (
            one(entry("\"f\"", &with_blocks(300_000, 4_000_000_000, 2, "[null,0,300000]"))),
            "not those of its hash",
        ),
        (
            one(entry("\"f\"", &file(8, "[0,2,8]").replace("\"size\"", "\"same_as\":\"g\",\"size\""))),
            "a hard link to g",
        ),
        (header() + &good_object().replace("10", "10,\"raw\":99999999999") + &end(1, 0), "compressed"),
        (
            header().replace("}}\n", &format!(",\"base\":{}}}}}\n", base())) + &end(0, 0),
            "a delta in the place",
        ),
        (
            header() + "{\"removed\":\"x\"}\n" + &end(0, 0).replace("\"left", "\"removed\":1,\"left"),
            "removes nothing",
        ),
        (header() + &object("data/../../other/journal/1.json") + &end(1, 0), "no key of a data object"),
        (header() + &object("journal/00000000000000000001.json") + &end(1, 0), "no key of a data object"),
        (header() + &good_object().replace("10", "18446744073709551615") + &end(1, 0), "has more than"),
        (one(entry("\".lifeboat-restore\"", "{\"link\":{\"target\":\"/etc\"}}")), "a restore's own"),
        (one(entry("\".lifeboat-restore/0.part\"", "\"directory\"")), "a restore's own"),
        (header() + &object("/etc/passwd") + &end(1, 0), "no key of a data object"),
        (header().replace("\"work\"", "\"other\"") + &end(0, 0), "a manifest of workload other"),
        (header().replace("\"format\":2", "\"format\":3") + &end(0, 0), "format 3 is not known"),
        (header() + &header() + &end(0, 0), "out of order"),
        (header() + &entry("\"a\"", "\"directory\"") + &good_object() + &end(1, 1), "out of order"),
        (header(), "cut short"),
        (header() + end(0, 0).trim_end(), "cut short"),
        (header() + &end(0, 1), "the counts of the last line"),
        (header() + &end(0, 0) + &end(0, 0), "something follows"),
        (end(0, 0), "begins with its header"),
        (String::new(), "begins with its header"),
        ("{}\n".to_owned(), "cannot be read"),
        (one(entry("\"f\"", "\"directory\"").replace("420", "65536")), "more than permission bits"),
        (one(entry("\"f\"", "\"directory\"").replace("\"nanos\":0", "\"nanos\":1000000000")), "nanoseconds"),
    ];
    for (lines, expected) in table {
        let error = read(&lines).expect_err(&lines);
        assert!(chain(&error).contains(expected), "{} instead of {expected}", chain(&error));
    }
}

#[test]
fn an_endless_line_is_refused_in_bounded_memory() {
    let line = header() + "\"" + &"x".repeat(LINE_BYTES_MAX + 1);
    assert!(matches!(read(&line), Err(DecodeError::TooLarge { .. })));
}

#[test]
fn a_window_larger_than_allowed_is_refused() {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).expect("an encoder");
    encoder.window_log(27).expect("settable");
    encoder.write_all(header().as_bytes()).expect("compressible");
    encoder.write_all(&vec![b' '; 1 << 20]).expect("compressible");
    let bytes = encoder.finish().expect("compressible");
    assert!(matches!(decode(&bytes, &name()), Err(DecodeError::Unreadable { .. })));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_damage_goes_unnoticed_and_none_panics(position in any::<prop::sample::Index>(), bit in 0..8u8, cut in any::<bool>()) {
        let lines = header() + &good_object() + &entry("\"f\"", &file(8, "[0,2,8]")) + &end(1, 1);
        let sound = decode(&compressed(&lines), &name()).expect("honest");
        let mut plain = lines.clone().into_bytes();
        let at = position.index(plain.len());
        if cut { plain.truncate(at) } else { plain[at] ^= 1 << bit }
        if let Ok(read) = decode(&zstd::encode_all(plain.as_slice(), 1).expect("compressible"), &name()) {
            // A changed value may be another honest manifest; a shorter one never is.
            prop_assert!(!cut);
            prop_assert_eq!(read.entries.len(), sound.entries.len());
        }
        let mut packed = compressed(&lines);
        let at = position.index(packed.len());
        if cut { packed.truncate(at) } else { packed[at] ^= 1 << bit }
        let _ = decode(&packed, &name()); // Only that it returns; the hash in the journal notices the rest.
    }
}
