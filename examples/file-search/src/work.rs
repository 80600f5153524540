//! One message: fetch the file, extract its pages from where the last worker stopped, keep and index them.

use anyhow::{Context, ensure};
use lifeboat_worker::{Handled, Job};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt};
use serde::{Deserialize, Serialize};

use crate::config::World;
use crate::extract::page;
use crate::results::Document;

/// What a message says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Order {
    /// The file's name below `files`.
    pub(crate) file: String,
}

/// A partial result: how far a file is extracted. The pages themselves are in the store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Reached {
    version: String,
    offset: u64,
    pages: u32,
}

pub(crate) fn handle(world: &World, job: &Job) -> Handled {
    match work(world, job) {
        Ok(true) => Handled::Done,
        Ok(false) => Handled::Interrupted,
        Err(error) => {
            let why = format!("{error:#}");
            let Job { message, .. } = job;
            let told = format!("{} {} on {}", message.id, message.receive_count, world.instance);
            let _ = world.log(&format!("failed {told}: {why}")); // the queue has it, too
            Handled::Failed(why)
        }
    }
}

/// Whether the file is done; `false`: interrupted.
fn work(world: &World, job: &Job) -> anyhow::Result<bool> {
    let message = &job.message;
    let order: Order = serde_json::from_slice(&message.body).context("a message that makes no sense")?;
    let location = Path::parse(&order.file)?;
    let meta = world.runtime.block_on(world.files.head(&location))?;
    let version = format!("{}-{}", meta.size, meta.e_tag.unwrap_or_default());
    // One that was never given out before has no partial result.
    let partial = if message.receive_count > 1 {
        match job.task.take_partial() {
            Err(lifeboat_worker::Error::Taken(_)) => return Ok(false),
            other => other?,
        }
    } else {
        None
    };
    let start = Reached { version: version.clone(), offset: 0, pages: 0 };
    let mut reached = match partial {
        // Another version of the file begins anew.
        Some(partial) => partial.json::<Reached>().ok().filter(|reached| reached.version == version),
        None => None,
    }
    .unwrap_or(start);
    let told = format!("{} {} on {}", message.id, message.receive_count, world.instance);
    world.log(&format!("start {told} page {}", reached.pages))?;
    while reached.offset < meta.size {
        if job.is_to_stop() {
            world.log(&format!("stop {told} page {}", reached.pages))?;
            return Ok(false);
        }
        step(world, &order.file, meta.size, &mut reached)?;
        #[expect(clippy::cast_precision_loss, reason = "a progress is for people")]
        let progress = reached.offset as f64 / meta.size as f64;
        job.task.checkpoint_json(&reached, progress)?;
        world.pause();
    }
    let document = Document { file: order.file, version, pages: reached.pages };
    world.keep_document(&document)?;
    world.index()?.put(&document, &world.pages(&document)?)?;
    world.log(&format!("end {told}"))?;
    Ok(true)
}

/// One page.
fn step(world: &World, file: &str, size: u64, reached: &mut Reached) -> anyhow::Result<()> {
    let wanted = u64::try_from(world.config.page_bytes)?;
    let end = (reached.offset + wanted).min(size);
    let options = GetOptions { range: Some(GetRange::Bounded(reached.offset..end)), ..GetOptions::default() };
    let bytes = world
        .runtime
        .block_on(async { world.files.get_opts(&Path::parse(file)?, options).await?.bytes().await })?;
    let (text, taken) = page(&bytes, world.config.page_bytes, end == size);
    ensure!(taken > 0, "{file} is shorter than it was");
    world.keep_page(file, reached.pages, text)?;
    reached.offset += u64::try_from(taken)?;
    reached.pages += 1;
    Ok(())
}
