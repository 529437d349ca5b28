//! Mails as `.eml` files, for whoever has set no relay: any mail program opens them.
//!
//! A file is there whole or not at all, and a second try of the same notice replaces it instead of doubling it.
//!
//! Deliberately absent: clearing up (the files are the operator's), and fsync: one for each mail would make every commit of a
//! database on the same disk wait, for mails that nobody is sent.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::gateways::delivery::{Accepted, DeliveryError};

/// A directory of mails, for the eyes of our own user alone.
#[derive(Clone, Debug)]
pub struct MailFiles {
    dir: PathBuf,
}

impl MailFiles {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(super) async fn write(&self, message_id: &str, bytes: Vec<u8>) -> Result<Accepted, DeliveryError> {
        let name = format!("{message_id}.eml");
        let (draft, path) = (self.draft(), self.dir.join(&name));
        self.work(move |dir| {
            write_draft(dir, &draft, &bytes)?;
            fs::rename(&draft, &path)
        })
        .await?;
        Ok(Accepted { provider_id: Some(name), code: None })
    }

    pub(super) async fn check(&self) -> Result<(), DeliveryError> {
        let draft = self.draft();
        self.work(move |dir| {
            write_draft(dir, &draft, b"")?;
            fs::remove_file(&draft)
        })
        .await
    }

    /// On a thread that may wait for the disk, all in one go.
    async fn work(&self, work: impl FnOnce(&Path) -> io::Result<()> + Send + 'static) -> Result<(), DeliveryError> {
        let dir = self.dir.clone();
        let worked = tokio::task::spawn_blocking(move || work(&dir)).await.unwrap_or_else(|error| Err(error.into()));
        worked.map_err(|error| self.refused(&error))
    }

    /// Keeps two writers of one mail out of each other's draft, also where two containers share the directory and each is
    /// process 1.
    fn draft(&self) -> PathBuf {
        self.dir.join(format!(".{}.draft", Uuid::new_v4()))
    }

    fn refused(&self, error: &io::Error) -> DeliveryError {
        DeliveryError::transient("file", format!("cannot write into {}: {error}", self.dir.display()))
    }
}

fn write_draft(dir: &Path, draft: &Path, bytes: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(draft)?.write_all(bytes)
}
