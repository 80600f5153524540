//! The pages of a file in the store, which outlive the machine that made them: `documents/{hash}/{page}.json`, and last
//! `documents/{hash}/whole.json`. Written again they are the same.

use anyhow::Context;
use futures_util::TryStreamExt;
use lifeboat_snapshot::id::Digest;
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};
use serde::{Deserialize, Serialize};

use crate::config::World;

/// A file whose pages are all there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Document {
    /// Its name.
    pub(crate) file: String,
    /// What it was when it was read: its length and the store's tag.
    pub(crate) version: String,
    /// How many pages it has.
    pub(crate) pages: u32,
}

#[derive(Serialize, Deserialize)]
struct Page {
    text: String,
}

fn folder(file: &str) -> Path {
    Path::from(format!("documents/{}", &Digest::of(file.as_bytes()).to_string()[..32]))
}

impl World {
    pub(crate) fn keep_page(&self, file: &str, page: u32, text: String) -> anyhow::Result<()> {
        self.keep(&folder(file).join(format!("{page:06}.json")), &Page { text })
    }

    pub(crate) fn keep_document(&self, document: &Document) -> anyhow::Result<()> {
        self.keep(&folder(&document.file).join("whole.json"), document)
    }

    fn keep(&self, location: &Path, value: &impl Serialize) -> anyhow::Result<()> {
        let payload = PutPayload::from(serde_json::to_vec(value)?);
        let put = self.runtime.block_on(self.results.put(location, payload));
        put.map(drop).with_context(|| format!("cannot keep {location}"))
    }

    fn read<T: serde::de::DeserializeOwned>(&self, location: &Path) -> anyhow::Result<T> {
        let bytes = self.runtime.block_on(async { self.results.get(location).await?.bytes().await });
        let bytes = bytes.with_context(|| format!("cannot read {location}"))?;
        serde_json::from_slice(&bytes).with_context(|| format!("{location} is damaged"))
    }

    /// Every document that is whole.
    pub(crate) fn documents(&self) -> anyhow::Result<Vec<Document>> {
        let prefix = Path::from("documents");
        let objects: Vec<_> = self.runtime.block_on(self.results.list(Some(&prefix)).try_collect())?;
        let whole = objects.into_iter().filter(|object| object.location.filename() == Some("whole.json"));
        let mut documents: Vec<Document> =
            whole.map(|object| self.read(&object.location)).collect::<anyhow::Result<_>>()?;
        documents.sort_by(|a, b| a.file.cmp(&b.file));
        Ok(documents)
    }

    /// The texts of a document's pages.
    pub(crate) fn pages(&self, document: &Document) -> anyhow::Result<Vec<String>> {
        (0..document.pages)
            .map(|page| Ok(self.read::<Page>(&folder(&document.file).join(format!("{page:06}.json")))?.text))
            .collect()
    }
}
