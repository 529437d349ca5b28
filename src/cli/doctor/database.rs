//! What `doctor` says of Postgres: whether it answers and keeps what it says, its clock, its room for connections, and
//! whether somebody could take over from it.
//!
//! Deliberately absent: how far standbys are behind in the long run (an exporter and an alert watch that).

use time::OffsetDateTime;
use tokio_postgres::Row;
use tokio_postgres::config::TargetSessionAttrs;

use super::{Finding, PATIENCE};
use crate::cli::beside_the_server;
use crate::clock::Clock;
use crate::config::Config;
use crate::store::hosts::{Hosts, name, split};
use crate::store::pool::CONNECTIONS;
use crate::store::{Store, StoreError};

/// How far our clock may be from the database's.
const SKEW_MAX: time::Duration = time::Duration::seconds(5);

const HEALTH: &str = "select now(), current_setting('fsync'), current_setting('synchronous_commit'),
           to_regclass('payments.payment_transactions') is not null, pg_is_in_recovery(),
           case when pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() then 0
                else extract(epoch from now() - pg_last_xact_replay_timestamp())::bigint end";
/// Every replica has one session that shows that it lives. Those of other databases are others here.
const ROOM: &str = "select current_setting('max_connections')::bigint
             - current_setting('superuser_reserved_connections')::bigint
             - coalesce(current_setting('reserved_connections', true), '0')::bigint,
           count(*) filter (where application_name = 'careforall-presence' and datname = current_database()),
           count(*) filter (where application_name not in ('careforall', 'careforall-presence')
                               or datname <> current_database())
      from pg_stat_activity where datid is not null";
/// Whoever may not read statistics sees standbys without their state.
const ROLE: &str = "select case when pg_is_in_recovery() then null
                else ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::integer end,
           current_setting('synchronous_standby_names') <> '', current_setting('synchronous_commit'),
           (select count(*) from pg_stat_replication),
           (select count(*) from pg_stat_replication where sync_state is not null),
           (select count(*) from pg_stat_replication where state = 'streaming' and sync_state in ('sync', 'quorum'))";

pub async fn findings(config: &Config) -> Vec<(&'static str, Finding)> {
    let (database, embedded) = match beside_the_server(config).await {
        Ok(database) => database,
        Err(error) => return vec![("postgres", Err(error))],
    };
    let kind = match &embedded {
        Some(embedded) => format!("embedded, in {}", embedded.cluster_dir().display()),
        None => "DATABASE_URL".to_owned(),
    };
    let mut findings = match Store::new(database.clone()) {
        Ok(store) => in_use(&store, &kind).await,
        Err(error) => vec![("postgres", Err(error.to_string()))],
    };
    findings.extend(replication(&database).await.map(|finding| ("standby", finding)));
    if let Some(embedded) = embedded
        && let Err(error) = embedded.stop().await
    {
        return vec![("postgres", Err(error.to_string()))];
    }
    findings
}

async fn in_use(store: &Store, kind: &str) -> Vec<(&'static str, Finding)> {
    let asked = async {
        let client = store.pools.reader().await?;
        Ok::<_, StoreError>((client.query_one(HEALTH, &[]).await?, client.query_one(ROOM, &[]).await?))
    };
    let (health, room) = match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(rows)) => rows,
        Ok(Err(error)) => return vec![("postgres", Err(format!("{kind}: {error}; check DATABASE_URL")))],
        Err(_) => return vec![("postgres", Err(format!("{kind}: no answer; check DATABASE_URL")))],
    };
    let mut findings = vec![("postgres", durable(&health, kind)), ("clock", clock(&health))];
    if !health.get::<_, bool>(4) {
        findings.push(("room", room_for(room.get(0), room.get(1), room.get(2))));
    }
    findings
}

fn durable(health: &Row, kind: &str) -> Finding {
    let (fsync, commit, has_schema): (&str, &str, bool) = (health.get(1), health.get(2), health.get(3));
    let schema =
        if has_schema { "schema in place" } else { "no schema yet; `careforall migrate` or the first start makes it" };
    if health.get(4) {
        let behind = match health.get::<_, Option<i64>>(5) {
            Some(0) => "in step".to_owned(),
            Some(seconds) => format!("{seconds} s behind"),
            None => "it has heard nothing yet".to_owned(),
        };
        return Ok(format!("{kind}; a standby, to be read by `verify` and `explain` alone; {behind}; {schema}"));
    }
    if fsync == "on" && commit != "off" {
        return Ok(format!("{kind}; {schema}"));
    }
    Err(format!("fsync is {fsync}, synchronous_commit is {commit}: a crash would lose donations; set both to on"))
}

fn clock(health: &Row) -> Finding {
    let skew = (Clock::System.now() - health.get::<_, OffsetDateTime>(0)).abs();
    if skew <= SKEW_MAX {
        return Ok(format!("{} ms from the database's", skew.whole_milliseconds()));
    }
    Err(format!(
        "{} s from the database's: start time synchronisation (chrony, systemd-timesyncd)",
        skew.whole_seconds()
    ))
}

/// Of `usable` connections so many replicas may use theirs, and others have theirs at this moment.
fn room_for(usable: i64, replicas: i64, others: i64) -> Finding {
    let each = i64::try_from(CONNECTIONS).unwrap_or(i64::MAX);
    let run = if replicas == 1 { "1 replica runs".to_owned() } else { format!("{replicas} replicas run") };
    let free = usable - others - replicas * each;
    if usable < each || replicas > 0 && free < 0 {
        return Err(format!(
            "{usable} may connect; {run}, of up to {each} connections each, and others have {others}: raise max_connections"
        ));
    }
    Ok(format!("{run}; room for {} more, of {each} connections each", free.max(0) / each))
}

/// What a host says of itself.
struct Role {
    host: String,
    /// Of one that takes writes.
    timeline: Option<i32>,
    waits: bool,
    commit: String,
    standbys: i64,
    known: i64,
    synchronous: i64,
}

/// Nothing is said of one server that knows no standby: most installations are so.
async fn replication(database: &tokio_postgres::Config) -> Option<Finding> {
    let hosts = split(database);
    let several = hosts.len() > 1;
    let mut roles = Vec::new();
    for mut host in hosts {
        host.target_session_attrs(TargetSessionAttrs::Any);
        match tokio::time::timeout(PATIENCE, role(&host)).await {
            Ok(Ok(role)) => roles.push(role),
            // One host alone has been reported already.
            Ok(Err(_)) | Err(_) if !several => return None,
            Ok(Err(error)) => {
                return Some(Err(format!("{}: {error}; while it is away nobody could take over", name(&host))));
            }
            Err(_) => return Some(Err(format!("{}: no answer; while it is away nobody could take over", name(&host)))),
        }
    }
    let alone = roles.iter().all(|role| role.timeline.is_none() || !role.waits && role.standbys == 0);
    if !several && alone {
        return None;
    }
    Some(could_take_over(&roles))
}

async fn role(host: &tokio_postgres::Config) -> Result<Role, StoreError> {
    let session = Hosts::new(host).connect().await?;
    let row = session.client.query_one(ROLE, &[]).await?;
    Ok(Role {
        host: name(host),
        timeline: row.get(0),
        waits: row.get(1),
        commit: row.get(2),
        standbys: row.get(3),
        known: row.get(4),
        synchronous: row.get(5),
    })
}

fn could_take_over(roles: &[Role]) -> Finding {
    let mut primaries: Vec<&Role> = roles.iter().filter(|role| role.timeline.is_some()).collect();
    primaries.sort_by_key(|role| role.timeline);
    let Some(primary) = primaries.pop() else {
        return Err("none of the hosts takes writes: promote one".to_owned());
    };
    let host = &primary.host;
    if let Some(other) = primaries.pop() {
        let stale = &other.host;
        return Err(if other.timeline == primary.timeline {
            format!("{stale} and {host} both take writes, and neither was promoted: they are not one database")
        } else {
            format!(
                "{stale} was left behind by a failover to {host}, and takes writes still: stop it, make it a standby"
            )
        });
    }
    if primary.standbys == 0 {
        let hang = if primary.waits { "; synchronous_standby_names is set: every commit hangs" } else { "" };
        return Err(format!("{host} takes writes, and no standby is connected to it{hang}"));
    }
    if !primary.waits {
        return Ok(format!(
            "{host} takes writes and replicates asynchronously: a failover may lose gifts that were acknowledged last \
             (synchronous_standby_names is empty)"
        ));
    }
    if primary.commit == "local" {
        return Err("synchronous_commit is local: nobody waits for the standby; set it to on".to_owned());
    }
    if primary.known > 0 && primary.synchronous == 0 {
        return Err(format!(
            "{host} waits for a standby, and none of those that it waits for follows it: every commit hangs; see \
             synchronous_standby_names and pg_stat_replication"
        ));
    }
    Ok(format!("{host} takes writes and replicates synchronously"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_must_be_room_for_every_replica_that_runs_and_for_one_at_least() {
        assert_eq!(room_for(97, 3, 4), Ok("3 replicas run; room for 2 more, of 18 connections each".to_owned()));
        assert_eq!(room_for(97, 1, 79), Ok("1 replica runs; room for 0 more, of 18 connections each".to_owned()));
        assert!(room_for(97, 5, 8).is_err());
        assert!(room_for(17, 0, 3).is_err());
        // What others do while no replica runs may be over when one does.
        assert_eq!(room_for(97, 0, 95), Ok("0 replicas run; room for 0 more, of 18 connections each".to_owned()));
    }

    fn role(host: &str, timeline: Option<i32>, standbys: i64) -> Role {
        let (waits, known, synchronous) = (standbys > 0, standbys, standbys);
        Role { host: host.to_owned(), timeline, waits, commit: "on".to_owned(), standbys, known, synchronous }
    }

    #[test]
    fn one_host_takes_writes_and_another_could() {
        let said = |roles: &[Role]| could_take_over(roles).unwrap_or_else(|error| format!("FAIL {error}"));
        assert_eq!(said(&[role("a", Some(1), 1), role("b", None, 0)]), "a takes writes and replicates synchronously");
        let lazy = Role { waits: false, synchronous: 0, ..role("a", Some(1), 1) };
        assert!(said(&[lazy, role("b", None, 0)]).starts_with("a takes writes and replicates asynchronously"));
        for (roles, word) in [
            (vec![role("a", None, 0), role("b", None, 0)], "promote one"),
            (vec![role("a", Some(1), 0), role("b", Some(2), 1)], "a was left behind by a failover to b"),
            (vec![role("a", Some(1), 0), role("b", Some(1), 0)], "not one database"),
            (vec![role("a", Some(1), 0), role("b", None, 0)], "no standby is connected"),
            (vec![Role { waits: true, ..role("a", Some(1), 0) }], "every commit hangs"),
            (vec![Role { synchronous: 0, ..role("a", Some(1), 1) }], "every commit hangs"),
            (vec![Role { commit: "local".to_owned(), ..role("a", Some(1), 1) }], "set it to on"),
        ] {
            assert!(said(&roles).starts_with("FAIL") && said(&roles).contains(word), "{word}: {}", said(&roles));
        }
        // Who may not see the state of standbys does not guess it.
        let unseen = Role { known: 0, synchronous: 0, ..role("a", Some(1), 1) };
        assert_eq!(said(&[unseen]), "a takes writes and replicates synchronously");
    }
}
