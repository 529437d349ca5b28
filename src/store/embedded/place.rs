//! Where the private cluster lies, whom it belongs to, and the lock that keeps a second process away.
//!
//! The cluster lies in the data directory. Only where root starts us and the unprivileged user of the server cannot
//! reach that directory (a home of mode 0700) does it lie elsewhere; then a file in the data directory names the place.
//! A cluster that exists is served by its owner, whoever starts us.
//!
//! Deliberately absent: everything that runs a server. All of this blocks: call it where blocking is allowed.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, lchown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::error::EmbeddedError;

/// `sun_path` holds 104 bytes on macOS and 108 on Linux, one of them the closing NUL.
const MAX_SOCKET_PATH_BYTES: usize = 103;
const SOCKET_FILE: &str = "/.s.PGSQL.5432";
const LOCK_FILE: &str = "careforall.lock";
const POINTER_FILE: &str = "postgres.location";
/// So many forgotten clusters of one data directory may lie side by side before a person must tidy up.
const MAX_HOMES: u32 = 100;

/// The unprivileged user that serves the cluster when root starts us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ServiceUser {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The directories of one private cluster.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// Holds the cluster, its socket and its logs: the data directory, or the place that the pointer names.
    pub(super) home: PathBuf,
    /// `PGDATA`.
    pub(super) cluster: PathBuf,
    /// Holds `.s.PGSQL.5432`.
    pub(super) socket_dir: PathBuf,
    /// `None`: the server runs as ourselves.
    pub(super) user: Option<ServiceUser>,
}

/// The locks on the data directory and, where it is another, on the cluster's home; the system frees them with us.
#[derive(Debug)]
pub(super) struct Locks {
    _data_dir: File,
    _home: Option<File>,
}

impl Place {
    /// Locks the data directory and makes every directory that the server needs, except the cluster itself.
    pub(super) fn claim(data_dir: &Path, fallback_dir: &Path) -> Result<(Self, Locks), EmbeddedError> {
        fs::create_dir_all(data_dir).map_err(EmbeddedError::io("create", data_dir))?;
        let data_dir = fs::canonicalize(data_dir).map_err(EmbeddedError::io("find", data_dir))?;
        let lock = lock(&data_dir)?;
        let home = match existing_home(&data_dir)? {
            Some(home) => home,
            None => choose_home(&data_dir, fallback_dir)?,
        };
        let home_lock = if home == data_dir { None } else { Some(self::lock(&home)?) };
        let place = Self::at(home)?;
        place.make_directories()?;
        Ok((place, Locks { _data_dir: lock, _home: home_lock }))
    }

    /// The place of a cluster that another process serves; nothing is made or changed.
    pub(super) fn of_running(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let data_dir = fs::canonicalize(data_dir).map_err(EmbeddedError::io("find", data_dir))?;
        Self::at(existing_home(&data_dir)?.unwrap_or(data_dir))
    }

    /// The directory with the server's log files.
    pub(super) fn log_dir(&self) -> PathBuf {
        self.home.join("postgres-log")
    }

    /// What the server says before its log begins; written anew at each start.
    pub(super) fn start_log(&self) -> PathBuf {
        self.home.join("postgres-start.log")
    }

    /// The major version that made the cluster; `None` while there is no cluster.
    pub(super) fn cluster_version(&self) -> Option<u32> {
        fs::read_to_string(self.cluster.join("PG_VERSION")).ok()?.trim().parse().ok()
    }

    /// Gives a file or directory to the server's user.
    pub(super) fn hand_over(&self, path: &Path) -> Result<(), EmbeddedError> {
        let Some(user) = self.user else { return Ok(()) };
        lchown(path, Some(user.uid), Some(user.gid)).map_err(EmbeddedError::io("change the owner of", path))
    }

    fn at(home: PathBuf) -> Result<Self, EmbeddedError> {
        let home = fs::canonicalize(&home).map_err(EmbeddedError::io("find", &home))?;
        let cluster = home.join("postgres");
        let user = service_user(&cluster)?;
        let socket_dir = socket_dir(&home);
        Ok(Self { home, cluster, socket_dir, user })
    }

    fn make_directories(&self) -> Result<(), EmbeddedError> {
        for dir in [&self.log_dir(), &self.socket_dir] {
            match DirBuilder::new().mode(0o700).create(dir) {
                Ok(()) => self.hand_over(dir)?,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => self.check_private(dir)?,
                Err(error) => return Err(EmbeddedError::io("create", dir)(error)),
            }
        }
        Ok(())
    }

    /// Below `/tmp` anybody may have made a directory of our name before us.
    fn check_private(&self, dir: &Path) -> Result<(), EmbeddedError> {
        let found = fs::symlink_metadata(dir).map_err(EmbeddedError::io("look at", dir))?;
        let owner = self.user.map_or_else(own_uid, |user| user.uid);
        if found.is_dir() && found.uid() == owner && found.mode() & 0o077 == 0 {
            return Ok(());
        }
        Err(EmbeddedError::UnsafeSocketDir { dir: dir.to_owned() })
    }
}

fn lock(dir: &Path) -> Result<File, EmbeddedError> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.map_err(EmbeddedError::io("open", &path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(in_use(dir, &mut file)),
        Err(TryLockError::Error(error)) => return Err(EmbeddedError::io("lock", &path)(error)),
    }
    let written = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
    written.map_err(EmbeddedError::io("write", &path))?;
    Ok(file)
}

fn in_use(dir: &Path, file: &mut File) -> EmbeddedError {
    let mut pid = String::new();
    let holder = match file.read_to_string(&mut pid) {
        Ok(length) if length > 0 => format!(" (process {})", pid.trim()),
        Ok(_) | Err(_) => String::new(),
    };
    EmbeddedError::InUse { data_dir: dir.to_owned(), holder }
}

/// Where the cluster lies already, or was decided to lie.
fn existing_home(data_dir: &Path) -> Result<Option<PathBuf>, EmbeddedError> {
    if data_dir.join("postgres").is_dir() {
        return Ok(Some(data_dir.to_owned()));
    }
    let pointer = data_dir.join(POINTER_FILE);
    let Ok(text) = fs::read_to_string(&pointer) else { return Ok(None) };
    let home = PathBuf::from(text.lines().next().unwrap_or_default());
    if home.is_dir() { Ok(Some(home)) } else { Err(EmbeddedError::Lost { pointer, home }) }
}

/// Where a new cluster is to lie.
fn choose_home(data_dir: &Path, fallback_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    let reachable = match service_user(&data_dir.join("postgres"))? {
        Some(user) => reaches(user, data_dir),
        None => true,
    };
    if reachable { Ok(data_dir.to_owned()) } else { settle_elsewhere(data_dir, fallback_dir) }
}

fn settle_elsewhere(data_dir: &Path, fallback_dir: &Path) -> Result<PathBuf, EmbeddedError> {
    fs::create_dir_all(fallback_dir).map_err(EmbeddedError::io("create", fallback_dir))?;
    let home = new_home(&fallback_dir.join(short_hash(data_dir)))?;
    let pointer = data_dir.join(POINTER_FILE);
    let note = format!(
        "{}\n\nThe database of {} lies in the directory above: the server's unprivileged user cannot reach this one.\n\
         Back up both. This file is read at every start: do not remove it.\n",
        home.display(),
        data_dir.display()
    );
    write_whole(&pointer, &note)?;
    tracing::warn!(
        data_dir = %data_dir.display(), database_dir = %home.display(),
        "the server's unprivileged user cannot reach the data directory: the database lies elsewhere"
    );
    Ok(home)
}

/// A directory that was not there before: a forgotten cluster of the same name is never taken for this one.
fn new_home(wanted: &Path) -> Result<PathBuf, EmbeddedError> {
    let mut home = wanted.to_owned();
    for number in 2..=MAX_HOMES {
        match DirBuilder::new().mode(0o711).create(&home) {
            Ok(()) => return Ok(home),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                tracing::warn!(dir = %home.display(), "a database that no data directory names any more lies here");
                home = PathBuf::from(format!("{}-{number}", wanted.display()));
            }
            Err(error) => return Err(EmbeddedError::io("create", &home)(error)),
        }
    }
    Err(EmbeddedError::io("create", wanted)(ErrorKind::AlreadyExists.into()))
}

/// Writes a file so that it is there whole or not at all.
pub(super) fn write_whole(path: &Path, text: &str) -> Result<(), EmbeddedError> {
    let mut draft = path.as_os_str().to_owned();
    draft.push(".draft");
    // Whatever lies there is a leftover; `create_new` follows no link that somebody put there.
    let _ = fs::remove_file(&draft);
    let written = File::create_new(&draft).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, path)
    });
    written.map_err(EmbeddedError::io("write", path))
}

fn socket_dir(home: &Path) -> PathBuf {
    let near = home.join("postgres-run");
    if near.as_os_str().len() + SOCKET_FILE.len() <= MAX_SOCKET_PATH_BYTES {
        return near;
    }
    // Not the environment's TMPDIR: another start must find the same directory.
    Path::new("/tmp").join(format!("careforall-{}", short_hash(home)))
}

fn short_hash(path: &Path) -> String {
    hex::encode(&Sha256::digest(path.as_os_str().as_encoded_bytes())[..8])
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// Who is to serve the cluster: `None` is ourselves.
fn service_user(cluster: &Path) -> Result<Option<ServiceUser>, EmbeddedError> {
    let owner = fs::symlink_metadata(cluster).ok().map(|found| (found.uid(), found.gid()));
    match (own_uid(), owner) {
        (0, Some((uid, gid))) if uid != 0 => Ok(Some(ServiceUser { uid, gid })),
        (0, _) => unprivileged_user().map(Some),
        (me, Some((owner, _))) if owner != me => Err(EmbeddedError::NotOurs { cluster: cluster.to_owned(), owner }),
        _ => Ok(None),
    }
}

fn unprivileged_user() -> Result<ServiceUser, EmbeddedError> {
    let path = Path::new("/etc/passwd");
    let users = fs::read_to_string(path).map_err(EmbeddedError::io("read", path))?;
    let user = user_named("postgres", &users).or_else(|| user_named("nobody", &users));
    user.ok_or(EmbeddedError::NoServiceUser)
}

fn user_named(name: &str, passwd: &str) -> Option<ServiceUser> {
    let mut fields = passwd.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
    let uid = fields.nth(2)?.parse().ok()?;
    let gid = fields.next()?.parse().ok()?;
    Some(ServiceUser { uid, gid })
}

/// Asks the system itself, which knows of access lists and mounts that the mode bits do not show.
fn reaches(user: ServiceUser, dir: &Path) -> bool {
    let mut cd = Command::new("sh");
    cd.args(["-c", "cd -- \"$1\"", "sh"]).arg(dir).current_dir("/").uid(user.uid).gid(user.gid);
    cd.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    cd.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_read_from_the_list_of_users() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(user_named("postgres", passwd), Some(ServiceUser { uid: 101, gid: 104 }));
        assert_eq!(user_named("post", passwd), None);
    }

    #[test]
    fn a_socket_path_that_fits_stays_in_the_home_and_a_long_one_moves_to_tmp() {
        assert_eq!(socket_dir(Path::new("/srv/care")), Path::new("/srv/care/postgres-run"));
        let long = PathBuf::from(format!("/srv/{}", "x".repeat(90)));
        assert!(socket_dir(&long).starts_with("/tmp"));
    }

    #[test]
    fn a_pointer_to_a_place_that_is_gone_is_an_error_and_never_an_empty_database() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(POINTER_FILE), "/nowhere/at/all\n").unwrap();
        assert!(matches!(existing_home(dir.path()), Err(EmbeddedError::Lost { .. })));
    }

    #[test]
    fn a_forgotten_home_of_the_same_name_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let first = new_home(&dir.path().join("abc")).unwrap();
        let second = new_home(&dir.path().join("abc")).unwrap();
        assert_ne!(first, second);
    }
}
