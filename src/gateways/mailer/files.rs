//! Mails as `.eml` files, for whoever has set no relay: any mail program opens them.
//!
//! A file is there whole or not at all, and a second try of the same notice replaces it instead of doubling it.
//!
//! Deliberately absent: clearing up. The files are the operator's.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::fs::{self, DirBuilder, File, OpenOptions};
use tokio::io::AsyncWriteExt;

use crate::gateways::delivery::{Accepted, DeliveryError};

/// A directory of mails, for the eyes of our own user alone.
#[derive(Clone, Debug)]
pub struct MailFiles {
    dir: PathBuf,
    /// Keeps two writers of one mail out of each other's draft.
    drafts: Arc<AtomicU64>,
}

impl MailFiles {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, drafts: Arc::default() }
    }

    pub(super) async fn write(&self, message_id: &str, bytes: &[u8]) -> Result<Accepted, DeliveryError> {
        let name = format!("{message_id}.eml");
        self.replace(&name, bytes).await.map_err(|error| self.refused(&error))?;
        Ok(Accepted { provider_id: Some(name), code: None })
    }

    pub(super) async fn check(&self) -> Result<(), DeliveryError> {
        let draft = self.draft();
        let tried = async {
            self.make_dir().await?;
            write_synced(&draft, b"").await?;
            fs::remove_file(&draft).await
        };
        tried.await.map_err(|error: io::Error| self.refused(&error))
    }

    async fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.make_dir().await?;
        let draft = self.draft();
        write_synced(&draft, bytes).await?;
        fs::rename(&draft, self.dir.join(name)).await?;
        // The name too must survive a power cut, not only what it stands for.
        File::open(&self.dir).await?.sync_all().await
    }

    async fn make_dir(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).await
    }

    fn draft(&self) -> PathBuf {
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        self.dir.join(format!(".{}-{number}.draft", std::process::id()))
    }

    fn refused(&self, error: &io::Error) -> DeliveryError {
        DeliveryError::transient("file", format!("cannot write into {}: {error}", self.dir.display()))
    }
}

async fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path).await?;
    file.write_all(bytes).await?;
    file.sync_all().await
}
