//! The full-text index: SQLite's FTS5. A document is put in as a whole, in one transaction, in place of its earlier
//! version: done twice, by whomever, the index is the same.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};

use crate::config::World;
use crate::results::Document;

/// Others write for moments; a machine that hangs must not stop the worker for ever.
const BUSY_WAIT: Duration = Duration::from_secs(60);

/// Answers to one search.
const HITS_MAX: u32 = 100;

pub(crate) struct Index {
    connection: Connection,
}

/// A page in which all the words stand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Hit {
    pub(crate) file: String,
    pub(crate) page: u32,
    pub(crate) snippet: String,
}

impl Index {
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let connection =
            Connection::open(path).with_context(|| format!("cannot open the index {}", path.display()))?;
        connection.busy_timeout(BUSY_WAIT)?;
        let index = Self { connection };
        index.connection.execute_batch(
            "BEGIN IMMEDIATE;
             CREATE TABLE IF NOT EXISTS documents (file TEXT PRIMARY KEY, version TEXT NOT NULL);
             CREATE VIRTUAL TABLE IF NOT EXISTS pages USING fts5 (file UNINDEXED, page UNINDEXED, text);
             COMMIT;",
        )?;
        Ok(index)
    }

    /// Puts a document in, unless this version of it is there.
    pub(crate) fn put(&mut self, document: &Document, pages: &[String]) -> anyhow::Result<()> {
        let transaction = self.connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let Document { file, version, .. } = document;
        let found: Option<String> = transaction
            .query_row("SELECT version FROM documents WHERE file = ?1", [file], |row| row.get(0))
            .optional()?;
        if found.as_ref() == Some(version) {
            return Ok(());
        }
        transaction.execute("DELETE FROM pages WHERE file = ?1", [file])?;
        for (page, text) in pages.iter().enumerate() {
            transaction.execute("INSERT INTO pages VALUES (?1, ?2, ?3)", params![file, page, text])?;
        }
        transaction.execute("INSERT OR REPLACE INTO documents VALUES (?1, ?2)", [file, version])?;
        Ok(transaction.commit()?)
    }

    /// Puts every document in that the store has and this index has not.
    pub(crate) fn catch_up(&mut self, world: &World) -> anyhow::Result<()> {
        for document in world.documents()? {
            let found: Option<String> = self
                .connection
                .query_row("SELECT version FROM documents WHERE file = ?1", [&document.file], |row| {
                    row.get(0)
                })
                .optional()?;
            if found.as_ref() != Some(&document.version) {
                self.put(&document, &world.pages(&document)?)?;
            }
        }
        Ok(())
    }

    /// The pages in which all `words` stand, the best first.
    pub(crate) fn search(&self, words: &[String]) -> anyhow::Result<Vec<Hit>> {
        // Quoted: nothing of what was typed is FTS5's query language.
        let query = words.iter().map(|word| format!("\"{}\"", word.replace('"', "\"\""))).collect::<Vec<_>>();
        let mut statement = self.connection.prepare(
            "SELECT file, page, snippet(pages, 2, '[', ']', '…', 12) FROM pages WHERE pages MATCH ?1
             ORDER BY rank, file, page LIMIT ?2",
        )?;
        let hits = statement.query_map(params![query.join(" "), HITS_MAX], |row| {
            Ok(Hit { file: row.get(0)?, page: row.get(1)?, snippet: row.get(2)? })
        })?;
        Ok(hits.collect::<Result<_, _>>()?)
    }

    /// Everything, in order, after FTS5 has checked itself.
    pub(crate) fn dump(&self) -> anyhow::Result<Vec<String>> {
        self.connection.execute("INSERT INTO pages (pages) VALUES ('integrity-check')", [])?;
        let mut statement = self
            .connection
            .prepare("SELECT file, page, text FROM pages ORDER BY file, CAST(page AS INTEGER)")?;
        let lines = statement.query_map([], |row| {
            let (file, page, text): (String, u32, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok(format!("{file}:{page}: {text}"))
        })?;
        Ok(lines.collect::<Result<_, _>>()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_is_found_by_all_its_words_and_put_in_once() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let mut index = Index::open(&temp.path().join("i.sqlite")).expect("opened");
        let document = |version: &str| Document { file: "a.txt".into(), version: version.into(), pages: 2 };
        let pages = ["the quick fox".to_owned(), "the lazy \"dog\" OR NOT".to_owned()];
        for version in ["1", "1", "2"] {
            index.put(&document(version), &pages).expect("put in");
        }
        let found = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            index.search(&words).expect("searched").iter().map(|hit| hit.page).collect::<Vec<_>>()
        };
        assert_eq!(found(&["fox", "the"]), [0]);
        assert_eq!(found(&["dog", "NOT"]), [1]);
        assert_eq!(found(&["fox", "dog"]), [0u32; 0]);
        assert_eq!(found(&["\"", "-x OR"]), [0u32; 0]);
        assert_eq!(index.dump().expect("sound").len(), 2);
    }
}
