//! Rounds that copy what has changed while the work goes on, so that at the notice only the last difference is left,
//! and a machine that vanishes without one loses no more than a round.
//!
//! When a round is due, and what is more important, is for the caller to say. The same value does the last save, at
//! full speed: it knows what the rounds have stored, also of one that was broken off. Rounds and the last save follow
//! one another; dropping a round's future is safe at any point.

use std::num::NonZeroUsize;
use std::sync::Arc;

use crate::base::Base;
use crate::claim::ClaimId;
use crate::deadline::Deadline;
use crate::known::UploadLog;
use crate::manifest::{ManifestRef, ReadManifestError};
use crate::progress::Progress;
use crate::prune::{PruneError, PrunePlan, Pruned, prune};
use crate::save::{Pace, SaveError, SaveOptions, Saved, save};
use crate::workload::Workload;

/// Old recovery points are pruned after so many new ones: a prune lists everything there is.
const COMMITS_PER_PRUNE: u32 = 10;

/// The rounds of one holder.
#[derive(Debug)]
pub struct Rounds {
    workload: Workload,
    options: SaveOptions,
    log: Arc<UploadLog>,
    keep: NonZeroUsize,
    commits: u32,
}

impl Rounds {
    /// Rounds that save as `options` say (with [`Pace::BACKGROUND`], usually), of a workload of which `keep` recovery points are kept.
    #[must_use]
    pub const fn new(
        workload: Workload,
        options: SaveOptions,
        log: Arc<UploadLog>,
        keep: NonZeroUsize,
    ) -> Self {
        Self { workload, options, log, keep, commits: 0 }
    }

    /// Goes on from a committed recovery point, which is what the work directory was restored from or saved as.
    ///
    /// # Errors
    /// [`ReadManifestError`]; without it the next save stores everything.
    pub async fn go_on_from(&mut self, point: &ManifestRef) -> Result<(), ReadManifestError> {
        self.options.base = Some(Arc::new(Base::load(&self.workload, point).await?));
        Ok(())
    }

    /// Whether there is a recovery point to start from.
    #[must_use]
    pub const fn has_base(&self) -> bool {
        self.options.base.is_some()
    }

    /// Saves what has changed since the last recovery point, at the pace of the options.
    ///
    /// # Errors
    /// [`SaveError`]
    pub async fn round(&self, claim: &ClaimId) -> Result<Saved, SaveError> {
        let options = SaveOptions { log: Some(Arc::clone(&self.log)), ..self.options.clone() };
        save(&self.workload, claim, &options).await
    }

    /// Saves what is left, as fast as it goes, until `deadline`.
    ///
    /// # Errors
    /// [`SaveError`]
    pub async fn last(
        &self,
        claim: &ClaimId,
        deadline: Deadline,
        progress: Arc<dyn Progress>,
    ) -> Result<Saved, SaveError> {
        let options = SaveOptions {
            pace: Pace::FULL,
            deadline,
            progress,
            log: Some(Arc::clone(&self.log)),
            ..self.options.clone()
        };
        save(&self.workload, claim, &options).await
    }

    /// What was saved is now committed (or was before): the next save starts from it.
    pub fn committed(&mut self, saved: &Saved) {
        self.options.base = Some(Arc::clone(&saved.base));
        if saved.is_new {
            self.log.clear();
            self.commits += 1;
        }
    }

    /// Whether old recovery points are due to be pruned. To be asked between a commit and the next save.
    #[must_use]
    pub const fn is_prune_due(&self) -> bool {
        self.commits >= COMMITS_PER_PRUNE
    }

    /// Prunes old recovery points on behalf of the holder of `claim`.
    ///
    /// # Errors
    /// [`PruneError`]
    pub async fn prune(&mut self, claim: &ClaimId) -> Result<Pruned, PruneError> {
        self.commits = 0;
        // What an unfinished save left may be deleted now.
        self.log.clear();
        let plan = PrunePlan { keep: self.keep, holder: Some(*claim), is_dry_run: false };
        prune(&self.workload, &plan).await
    }
}
