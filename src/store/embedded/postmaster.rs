//! The running server: made, started, recognised after our own crash, and stopped.
//!
//! Deliberately absent: watching it afterwards. A postmaster restarts its own backends; should it die itself, the pool's
//! errors tell, and the next start recovers.

use std::fs::{self, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::error::EmbeddedError;
use super::place::{Place, write_whole};
use super::programs::Programs;

/// The superuser of the private cluster; only its own socket, in a directory of mode 0700, lets anyone in.
pub(super) const USER: &str = "careforall";

/// `initdb` takes about a second; a slow disk much longer.
const INIT_DEADLINE: Duration = Duration::from_secs(120);
/// How long a fast shutdown may take before the server is told to leave at once and to recover at its next start.
const FAST_STOP_DEADLINE: Duration = Duration::from_secs(10);
const QUIT_DEADLINE: Duration = Duration::from_secs(5);
const EXIT_POLL: Duration = Duration::from_millis(10);
/// How much of a failed program's words an error carries.
const MAX_DETAIL_CHARS: usize = 1_000;

/// Settings that hold whatever a configuration file in the cluster says; durability first.
const SERVER_SETTINGS: [&str; 24] = [
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "max_connections=100",
    "shared_buffers=128MB",
    "wal_compression=on",
    // A burst of writes must not force a checkpoint every few seconds.
    "max_wal_size=2GB",
    "min_wal_size=256MB",
    "checkpoint_timeout=10min",
    "checkpoint_completion_target=0.9",
    // Our statements are short: compiling them costs more than it saves.
    "jit=off",
    "timezone=UTC",
    "log_timezone=UTC",
    "cluster_name=careforall",
    // One file a weekday, written anew each week. No statements and no details: they would carry donors' data.
    "logging_collector=on",
    "log_filename=postgres-%a.log",
    "log_rotation_age=1d",
    "log_rotation_size=0",
    "log_truncate_on_rotation=on",
    "log_min_error_statement=panic",
    "log_error_verbosity=terse",
    "log_checkpoints=off",
];

/// A postmaster, and how we came by it.
#[derive(Debug)]
pub(super) enum Postmaster {
    /// Our own child.
    Started(Child),
    /// An earlier run of ours left it behind; it is ours to stop.
    Adopted(Pid),
    /// Another process serves it and stops it.
    Borrowed,
}

/// Makes the cluster in a sibling directory and renames it, so that a kill in the middle leaves nothing half made.
pub(super) async fn init_cluster(place: &Place, programs: &Programs) -> Result<(), EmbeddedError> {
    let draft = place.home.join("postgres.new");
    if draft.exists() {
        tokio::fs::remove_dir_all(&draft).await.map_err(EmbeddedError::io("remove", &draft))?;
    }
    fs::DirBuilder::new().mode(0o700).create(&draft).map_err(EmbeddedError::io("create", &draft))?;
    place.hand_over(&draft)?;
    run_initdb(place, programs, &draft).await?;
    fs::rename(&draft, &place.cluster).map_err(EmbeddedError::io("rename", &draft))?;
    let synced = File::open(&place.home).and_then(|home| home.sync_all());
    synced.map_err(EmbeddedError::io("sync", &place.home))
}

async fn run_initdb(place: &Place, programs: &Programs, draft: &Path) -> Result<(), EmbeddedError> {
    let mut initdb = server_command(&programs.initdb(), place);
    initdb.arg("--pgdata").arg(draft).args(["--username", USER, "--encoding", "UTF8", "--locale", "C"]);
    initdb.args(["--auth-local=trust", "--auth-host=reject", "--data-checksums"]);
    initdb.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let failed = |detail: String| EmbeddedError::InitFailed { cluster: place.cluster.clone(), detail };
    match timeout(INIT_DEADLINE, initdb.output()).await {
        Ok(Ok(output)) if output.status.success() => Ok(()),
        Ok(Ok(output)) => Err(failed(tail(&output.stderr))),
        Ok(Err(error)) => Err(EmbeddedError::io("run", &programs.initdb())(error)),
        Err(_) => Err(failed(format!("no end after {} s", INIT_DEADLINE.as_secs()))),
    }
}

/// Starts `postgres` and gives it a process group of its own, so that a Ctrl-C in the terminal reaches us alone.
pub(super) fn spawn(place: &Place, programs: &Programs) -> Result<Child, EmbeddedError> {
    disown_stale_lock(place)?;
    let path = place.start_log();
    let log = File::create(&path).map_err(EmbeddedError::io("create", &path))?;
    let stderr = log.try_clone().map_err(EmbeddedError::io("open", &path))?;
    let mut postgres = server_command(&programs.postgres(), place);
    postgres.arg("-D").arg(&place.cluster).arg("-k").arg(&place.socket_dir).args(["-p", "5432"]);
    postgres.arg("-c").arg(format!("log_directory={}", place.log_dir().display()));
    postgres.args(SERVER_SETTINGS.iter().flat_map(|setting| ["-c", setting]));
    postgres.stdout(log).stderr(stderr).process_group(0);
    postgres.spawn().map_err(EmbeddedError::io("run", &programs.postgres()))
}

/// Reads why the server ended, and fails unless it is for another one, or what is left of it, that holds the cluster for
/// a second or two after a crash.
pub(super) fn still_held(place: &Place, status: ExitStatus) -> Result<(), EmbeddedError> {
    let detail = tail(&fs::read(place.start_log()).unwrap_or_default());
    if detail.contains("lock file") || detail.contains("shared memory block") {
        return Ok(());
    }
    Err(EmbeddedError::Exited { status: status.to_string(), detail, log: place.log_dir() })
}

/// The postmaster of this cluster, if one lives.
pub(super) fn living(cluster: &Path) -> Option<Pid> {
    let pid_file = fs::read_to_string(cluster.join("postmaster.pid")).ok()?;
    let pid = Pid::from_raw(pid_file.lines().next()?.trim().parse().ok().filter(|pid| *pid > 0)?)?;
    serves(pid, cluster).then_some(pid)
}

/// Whether this process is the postmaster of this cluster, and not a stranger who was given its number.
fn serves(pid: Pid, cluster: &Path) -> bool {
    let pid = pid.as_raw_nonzero();
    // A postmaster works in its cluster's directory. In a container root itself may not be allowed to read that.
    if let Ok(working_dir) = fs::read_link(format!("/proc/{pid}/cwd")) {
        return working_dir == cluster;
    }
    let cluster = cluster.as_os_str().as_encoded_bytes();
    match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(arguments) => arguments.split(|byte| *byte == 0).any(|argument| argument == cluster),
        Err(_) if Path::new("/proc/self").exists() => false,
        Err(_) => listed_by_ps(pid.get(), cluster),
    }
}

/// For systems without `/proc`.
fn listed_by_ps(pid: i32, cluster: &[u8]) -> bool {
    let output = std::process::Command::new("ps").args(["-ww", "-o", "command=", "-p", &pid.to_string()]).output();
    output.is_ok_and(|output| output.stdout.windows(cluster.len()).any(|window| window == cluster))
}

/// After a crash of the machine the number in `postmaster.pid` may have been given to a stranger of the same user, and
/// the server would then refuse to start. It forgives its own parent's number, so ours is written there. The file is not
/// removed: its last lines let the server see whether backends of a killed postmaster still work on the cluster.
fn disown_stale_lock(place: &Place) -> Result<(), EmbeddedError> {
    let path = place.cluster.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
    write_whole(&path, &format!("{}\n{rest}", std::process::id()))?;
    place.hand_over(&path)?;
    // The socket's lock file knows no more than the number.
    let socket_lock = place.socket_dir.join(".s.PGSQL.5432.lock");
    match fs::remove_file(&socket_lock) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(EmbeddedError::io("remove", &socket_lock)(error))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// A command that neither our environment nor our working directory reaches.
fn server_command(program: &Path, place: &Place) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    // English words in its first lines: `still_held` reads them.
    command.env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    if let Some(user) = place.user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

impl Postmaster {
    /// Stops the server if it is ours: a fast shutdown first, then an immediate one.
    pub(super) async fn stop(mut self, cluster: &Path) -> Result<(), EmbeddedError> {
        let Some(pid) = self.pid() else { return Ok(()) };
        for (signal, deadline) in [(Signal::INT, FAST_STOP_DEADLINE), (Signal::QUIT, QUIT_DEADLINE)] {
            if matches!(self, Self::Adopted(_)) && !serves(pid, cluster) {
                return Ok(());
            }
            // An error says that it is gone already, which the wait finds out.
            let _ = kill_process(pid, signal);
            if timeout(deadline, self.gone(cluster)).await.is_ok() {
                return Ok(());
            }
        }
        let seconds = (FAST_STOP_DEADLINE + QUIT_DEADLINE).as_secs();
        Err(EmbeddedError::StillRunning { pid: pid.as_raw_nonzero().get(), seconds })
    }

    /// The process id, while there is a process of ours.
    pub(super) fn pid(&self) -> Option<Pid> {
        match self {
            Self::Started(child) => child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw),
            Self::Adopted(pid) => Some(*pid),
            Self::Borrowed => None,
        }
    }

    async fn gone(&mut self, cluster: &Path) {
        match self {
            // An error means that there is nothing left to wait for.
            Self::Started(child) => drop(child.wait().await),
            Self::Adopted(pid) => {
                while serves(*pid, cluster) {
                    sleep(EXIT_POLL).await;
                }
            }
            Self::Borrowed => {}
        }
    }
}

/// The end of a program's words.
fn tail(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let skip = text.trim().chars().count().saturating_sub(MAX_DETAIL_CHARS);
    text.trim().chars().skip(skip).collect()
}

/// The deadline of a whole start, and the words when it passes.
pub(super) struct StartDeadline {
    at: Instant,
    allowed: Duration,
}

impl StartDeadline {
    pub(super) fn after(allowed: Duration) -> Self {
        Self { at: Instant::now() + allowed, allowed }
    }

    /// Waits for a moment, or fails when the deadline has passed.
    pub(super) async fn pause(&self, moment: Duration, place: &Place, pid: Option<Pid>) -> Result<(), EmbeddedError> {
        if Instant::now() < self.at {
            sleep(moment).await;
            return Ok(());
        }
        Err(EmbeddedError::NoAnswer {
            pid: pid.map_or(0, |pid| pid.as_raw_nonzero().get()),
            socket_dir: place.socket_dir.clone(),
            seconds: self.allowed.as_secs(),
            log: place.log_dir(),
        })
    }
}
